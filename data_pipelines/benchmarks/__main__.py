"""Speed of the data path, measured side by side: `python -m data_pipelines.benchmarks NAME [options]`.

A benchmark is a module of this package with HELP, add_arguments(parser) and run(arguments); it prints a table whose
last lines say which of its targets are met. The work it times is that of the paper's two stages (section 3.2).
"""

import argparse
import importlib
import sys

BENCHMARKS = {  # name -> module; imported only when chosen
    "decode": "data_pipelines.benchmarks.decode",
    "loader": "data_pipelines.benchmarks.loader",
    "search": "data_pipelines.benchmarks.search",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; 0 when it ran, 2 with one line on stderr when its input is bad."""
    chooser = argparse.ArgumentParser(prog="python -m data_pipelines.benchmarks", description=__doc__.split(":")[0])
    chooser.add_argument("name", choices=BENCHMARKS, help="which; `NAME --help` lists its options")
    chosen, rest = chooser.parse_known_args(arguments[:1] if arguments is not None else sys.argv[1:2])
    rest += (sys.argv[1:] if arguments is None else arguments)[1:]
    try:
        benchmark = importlib.import_module(BENCHMARKS[chosen.name])
        parser = argparse.ArgumentParser(prog=f"{chooser.prog} {chosen.name}", description=benchmark.HELP)
        benchmark.add_arguments(parser)
        benchmark.run(parser.parse_args(rest))
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install -e '.[data]'", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
