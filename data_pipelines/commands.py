"""One command line over several modules: `python -m PROGRAM NAME [options]`, each module imported only when chosen.

The modules have HELP, add_arguments(parser) and run(arguments). A fault of the input ends in one line and exit code 2.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType


def main(
    program: str,
    description: str,
    modules: Mapping[str, tuple[str, str]],
    run: Callable[[str, ModuleType, list[str]], None],
    arguments: list[str] | None = None,
) -> int:
    """Choose one of `modules` (name -> module, one line of help) and `run` it; 0, or 2 with one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    listed = "\n".join(f"  {name:<16}{text}" for name, (_, text) in modules.items())
    chooser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} NAME [options]",
        description=description,
        epilog=f"names:\n{listed}\n\nNAME --help lists the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chooser.add_argument("name", choices=modules, metavar="NAME", help="what to run")
    name = chooser.parse_args(arguments[:1]).name
    return guarded(lambda: run(name, importlib.import_module(modules[name][0]), arguments[1:]))


def guarded(work: Callable[[], None]) -> int:
    """0 when the work is done; 2, with one line on stderr, for a fault of the input or a missing library."""
    try:
        work()
    except ModuleNotFoundError as error:
        return missing(error)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def missing(error: ModuleNotFoundError) -> int:
    """Say which library is missing, in one line; 2."""
    print(f"error: {error.name} is not installed: pip install -e '.[data]'", file=sys.stderr)
    return 2
