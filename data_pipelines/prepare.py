"""Builds the data sets: `python -m data_pipelines.prepare FAMILY [options]`; `--help` lists the families.

A family is a module with HELP, add_arguments(parser) and run(arguments); adding it to FAMILIES is all it takes. The
families stand in for the rows of the paper's Table 1.
"""

import argparse
import importlib
import sys

FAMILIES = {  # by name, so that a missing library is one clear line from main()
    "emoji": "data_pipelines.sources.emoji.build",
    "records": "data_pipelines.prepare_records",
}


def make_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a family."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description="Build a data set.")
    commands = parser.add_subparsers(dest="family", required=True, metavar="FAMILY")
    for name, module in FAMILIES.items():
        family = importlib.import_module(module)
        command = commands.add_parser(name, help=family.HELP, description=f"Build {family.HELP}.")
        family.add_arguments(command)
        command.set_defaults(run=family.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one family; 0 when it is complete, 2 with one line on stderr when its input is bad."""
    try:
        chosen = make_parser().parse_args(arguments)
        chosen.run(chosen)
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install -e '.[data]'", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
