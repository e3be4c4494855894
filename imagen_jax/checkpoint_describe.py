"""What a checkpoint holds, told from its metadata alone: sizes, the run's settings, and where the numbers are.

The parts are those of the paper's training state (section 4): the UNet, the text encoder, their moving average and
Adafactor's moments. For `python -m imagen_jax.checkpoint describe DIR`, which does the reading.
"""

import math
from datetime import datetime
from typing import Any

import jax

LARGEST = 5  # tensors shown
SETTINGS = (
    *("name", "seed", "init_from", "model.image_size", "model.lowres_size", "model.channels", "model.blocks"),
    *("model.dtype", "text_encoder.emb", "text_encoder.layers", "text_encoder.frozen", "diffusion.prediction"),
    *("data.loader", "data.corpus", "data.max_references", "optim.name", "optim.learning_rate", "optim.ema_decay"),
    *("train.steps", "train.batch_size"),
)


def described(tree: Any, extra: dict) -> dict:
    """One checkpoint as JSON.

    Args:
      tree: its arrays, each with shape and dtype; parameters lie under params/PART.
      extra: what was saved beside them: `config` and `next_example`.

    Returns:
      {"next_example", "settings": {key: value}, "parts": {name: {"parameters", "bytes", "dtypes"}}, "largest":
      [{"name", "shape", "dtype", "bytes"}]}: the parts without lone counters, the largest tensors of the parameters.
    """
    leaves = [_leaf(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    weights = [leaf for leaf in leaves if leaf["name"].startswith("params/")]
    parts = {_part(leaf["name"]): [] for leaf in weights + leaves}
    for leaf in leaves:
        parts[_part(leaf["name"])].append(leaf)
    return {
        "next_example": extra.get("next_example"),
        "settings": _settings(extra.get("config", {})),
        "parts": {name: _total(part) for name, part in parts.items() if part[0]["shape"] or len(part) > 1},
        "largest": sorted(weights or leaves, key=lambda leaf: -leaf["bytes"])[:LARGEST],
    }


def _leaf(path: tuple, leaf: Any) -> dict:
    size = math.prod(leaf.shape) * leaf.dtype.itemsize
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "bytes": size}


def _part(name: str) -> str:
    """'params/unet/...' -> 'unet', 'opt_state/0/...' -> 'opt_state'."""
    return name.removeprefix("params/").split("/")[0]


def _total(leaves: list[dict]) -> dict:
    return {
        "parameters": sum(math.prod(leaf["shape"]) for leaf in leaves),
        "bytes": sum(leaf["bytes"] for leaf in leaves),
        "dtypes": sorted({leaf["dtype"] for leaf in leaves}),
    }


def _settings(config: dict) -> dict:
    """The values of SETTINGS that the config has."""
    found = {}
    for key in SETTINGS:
        value = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[key] = value
    return found


def told(description: dict) -> str:
    """What `checkpoint.describe` returns, as lines for a terminal."""
    kept, parts, largest = (description[name] for name in ("checkpoints", "parts", "largest"))
    total = sum(row["bytes"] for row in kept)
    lines = [f"{description['directory']}: {len(kept)} checkpoints, {size(total)} on disk"]
    lines += [f"  step {row['step']:<10}{size(row['bytes']):>10}  saved {_when(row['saved'])}" for row in kept]
    lines += [f"step {description['step']}, next example {description['next_example']}, made with"]
    lines += [f"  {key:<22}{value}" for key, value in description["settings"].items()]
    lines += ["its numbers"]
    lines += [
        f"  {name:<16}{part['parameters']:>16,}  {size(part['bytes']):>10}  {', '.join(part['dtypes'])}"
        for name, part in parts.items()
    ]
    lines += ["its largest tensors"]
    lines += [f"  {size(leaf['bytes']):>10}  {leaf['dtype']}{leaf['shape']}  {leaf['name']}" for leaf in largest]
    return "\n".join(lines)


def size(count: int) -> str:
    """1234567 -> '1.2 MB'."""
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
