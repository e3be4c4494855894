"""A trained model as one small folder to give away: run.json, weights.safetensors and a MODEL_CARD.md beside them.

It holds the EMA weights that inference uses and nothing else of a run. `released` names the folder in this package; a
release stands wherever a trained run may: --mode=sample, --mode=eval and config.init_from.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from imagen_jax.workdir import write_bytes, write_json

RELEASED = Path(__file__).parent / "released"
NAME = "released"  # how a command line calls it
DTYPES = ("bfloat16", "int8", "float32")  # int8: of the text encoder's table of tokens, bfloat16 of the rest
_WEIGHTS, _RUN = "weights.safetensors", "run.json"
_TABLE, _SCALE = "token_embedder/embedding", "_scale"  # much of a small model, and few of its rows are ever read


class ReleaseError(ValueError):
    """A release that cannot be read or written; the message is one line with the mend."""


def locate(workdir: str | Path) -> Path:
    """The folder that a command line means: 'released' is the model in the package."""
    return RELEASED if str(workdir) == NAME else Path(workdir)


def is_release(folder: str | Path) -> bool:
    """Whether `folder` is a release rather than a run with checkpoints."""
    return (Path(folder) / _WEIGHTS).exists()


def write_release(folder: Path, params: dict, about: dict, dtype: str = "bfloat16") -> int:
    """Write the weights, and `about`: {"config", "next_example"} as in a checkpoint; returns the bytes of the weights.

    Raises:
      ReleaseError: an unknown dtype.
    """
    if dtype not in DTYPES:
        raise ReleaseError(f"dtype '{dtype}' is none of {', '.join(DTYPES)}")
    data = save(_packed(flatten_dict(params, sep="/"), dtype))
    write_json(folder / _RUN, about)
    write_bytes(folder / _WEIGHTS, data)
    return len(data)


def read_release(folder: str | Path, place: Callable[[Any], Any]) -> tuple[dict, dict]:
    """(parameters in float32, what `write_release` was told about the run).

    `place` maps the abstract tree to its shardings.

    Raises:
      ReleaseError: a file that is missing or cut off.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / _RUN).read_text())
        with safe_open(folder / _WEIGHTS, framework="flax") as file:
            flat = {name: file.get_tensor(name).astype(jnp.float32) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ReleaseError(f"{folder}: not a whole release ({error}); fetch the folder again") from None
    for name in [name for name in flat if name.endswith(_TABLE + _SCALE)]:
        flat[name.removesuffix(_SCALE)] *= flat.pop(name)
    params = unflatten_dict(flat, sep="/")
    return jax.device_put(params, place(jax.eval_shape(lambda: params))), about


def _packed(flat: dict, dtype: str) -> dict:
    """The leaves as they are stored; a table in int8 has a float32 scale for each row, its largest entry / 127."""
    packed = {name: leaf.astype("bfloat16" if dtype == "int8" else dtype) for name, leaf in flat.items()}
    tables = [name for name in flat if name.endswith(_TABLE)] if dtype == "int8" else []
    for name in tables:
        scale = jnp.maximum(jnp.abs(flat[name]).max(axis=1, keepdims=True), 1e-9) / 127
        packed |= {name: jnp.round(flat[name] / scale).astype(jnp.int8), name + _SCALE: scale}
    return packed
