"""Published benchmarks by their own rules, for users who have the data: `python -m imagen_jax.benchmarks NAME ACTION`.

A benchmark is a module of this package with ABOUT and add_actions(actions). Its actions: `generate` draws its pictures
with a trained run, `score` measures them with the user's own CLIP and DINO weights, `ratings` sums up human ratings.
Section 4 of the paper reports on these data sets or ones that these stand in for.
"""

import argparse
import sys
from types import ModuleType

from data_pipelines import commands

PROGRAM = "python -m imagen_jax.benchmarks"
BENCHMARKS = {  # name -> module, what it is
    "imagenhub": ("imagen_jax.benchmarks.imagenhub", "six tasks in its own folders; its human ratings"),
    "dreambench": ("imagen_jax.benchmarks.dreambench", "30 subjects, 25 prompts: DINO, CLIP-I, CLIP-T"),
    "customconcept101": ("imagen_jax.benchmarks.customconcept101", "101 subjects, or pairs of them: CLIP and DINO"),
    "magicbrush": ("imagen_jax.benchmarks.magicbrush", "edits, one turn or several: L1, L2, CLIP-I, DINO, CLIP-T"),
    "kitten": ("imagen_jax.benchmarks.kitten", "real entities: CLIP-T, DINO, human ratings from 0 to 5"),
}


def run(name: str, benchmark: ModuleType, arguments: list[str]) -> None:
    """Parse the benchmark's own actions and options, and run the one that was chosen."""
    about = benchmark.ABOUT
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}",
        description=benchmark.__doc__,
        epilog=f"data: {about.home}\nlicence: {about.licence}\ncite: {about.citation}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark.add_actions(parser.add_subparsers(required=True, metavar="ACTION"))
    chosen = parser.parse_args(arguments)
    chosen.act(chosen)


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; 0, or 2 with one line on stderr when its input is bad."""
    return commands.main(PROGRAM, "Published benchmarks by their own rules.", BENCHMARKS, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
