"""Speed of the data path, measured side by side: `python -m data_pipelines.benchmarks NAME [options]`.

A benchmark is a module of this package with HELP, add_arguments(parser) and run(arguments); it prints a table whose
last lines say which of its targets are met. The work it times is that of the paper's two stages (section 3.2).
"""

import argparse
import sys
from types import ModuleType

from data_pipelines import commands

PROGRAM = "python -m data_pipelines.benchmarks"
BENCHMARKS = {  # name -> module, what it measures
    "decode": ("data_pipelines.benchmarks.decode", "decoding and resizing of photographs against Pillow"),
    "loader": ("data_pipelines.benchmarks.loader", "streamed examples a second, against a PyTorch DataLoader"),
    "search": ("data_pipelines.benchmarks.search", "neighbour search against faiss"),
}


def run(name: str, benchmark: ModuleType, arguments: list[str]) -> None:
    """Parse the benchmark's own options and run it."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=benchmark.HELP)
    benchmark.add_arguments(parser)
    benchmark.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(commands.main(PROGRAM, "Measure the speed of the data path.", BENCHMARKS, run))
