"""Make a release of a trained run: its EMA weights and config, small enough to ship.

    python -m imagen_jax.export --workdir=runs/NAME --output=imagen_jax/released

The model card beside them is written by people.
"""

import argparse
import sys
from pathlib import Path

import jax

from data_pipelines.commands import guarded
from imagen_jax import partition, release, runs
from imagen_jax.metrics import METRICS
from imagen_jax.train import config_json
from imagen_jax.workdir import write_bytes

MODEL_CARD = "MODEL_CARD.md"


def export(workdir: Path, output: Path, dtype: str = "bfloat16") -> str:
    """Write the newest checkpoint of `workdir` as a release; returns what to tell.

    A frozen text encoder is left out: config.text_encoder.weights names it, as in training.

    Raises:
      RunError, CheckpointError, ReleaseError: one line, with the mend.
    """
    run = runs.open_trained(workdir, partition.make_mesh(dict(data=1, fsdp=-1, tensor=1)))
    about = {"config": config_json(run.config), "next_example": run.step * run.config.train.batch_size}
    size = release.write_release(output, run.params, about, dtype)
    if (curves := workdir / METRICS).exists():  # for the report of an evaluation
        write_bytes(output / METRICS, curves.read_bytes())
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    told = f"{output}: {count / 1e6:.1f}M parameters in {dtype}, {size / 1e6:.1f} MB"
    return told if (output / MODEL_CARD).exists() else f"{told}\nwrite its {MODEL_CARD}: data, licences, limits"


def main() -> int:
    """The command line; 0, or 2 with one line on stderr for a fault of the input."""
    parser = argparse.ArgumentParser(
        prog="python -m imagen_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the release")
    parser.add_argument(
        "--dtype",
        choices=release.DTYPES,
        default="bfloat16",
        help="of the weights (%(default)s); int8: of the text encoder's table of tokens, bfloat16 of the rest",
    )
    arguments = parser.parse_args()
    return guarded(lambda: print(export(arguments.workdir, arguments.output, arguments.dtype)))


if __name__ == "__main__":
    sys.exit(main())
