"""What a config would build, without allocating any of it: the parameter table (paper, section 3.4 and Table 5)."""

import functools
import re
from collections import Counter
from pathlib import Path

import jax
from ml_collections import ConfigDict

from imagen_jax import model as model_lib
from imagen_jax.workdir import write_json


def plan(config: ConfigDict, workdir: Path) -> dict:
    """Print the parameter table and write workdir/plan.json.

    Returns:
      {"parameters": {"base": the UNet without context attention, "context": what the context attention adds,
      "total": both, "super_res": the cascade's second UNet, "text_encoder"}}. A super-resolution config has no base.
    """
    sizes = leaf_sizes(config)
    unet = {name: size for name, size in sizes.items() if name.startswith("unet/")}
    context = sum(size for name, size in unet.items() if "context_" in name)
    total = sum(unet.values())
    parameters = {"base": total - context, "context": context, "total": total}
    if config.model.lowres_size:
        parameters = {"base": 0, "context": 0, "total": 0, "super_res": total}
    else:
        second = config.copy_and_resolve_references()
        second.model.update(config.plan.super_res)
        parameters["super_res"] = sum(size for name, size in leaf_sizes(second).items() if name.startswith("unet/"))
    parameters["text_encoder"] = sum(sizes.values()) - total
    print(table(sizes))
    print("\n".join(f"{name:<14}{count:>16,}" for name, count in parameters.items()))
    report = {"config": config.name, "parameters": parameters}
    print(f"written: {write_json(workdir / 'plan.json', report)}")
    return report


def leaf_sizes(config: ConfigDict) -> dict[str, int]:
    """'/'-joined path -> number of parameters, of the UNet and the text encoder."""
    init = functools.partial(model_lib.init, model_lib.make_model(config))
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init, jax.random.key(0)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}


def table(sizes: dict[str, int]) -> str:
    """A line for each kind of module of a level: the blocks of a level, and the text encoder's layers, are added up."""
    rows = Counter()
    for path, size in sizes.items():
        module = re.sub(r"(down_\d+|up_\d+|layers)_\d+", r"\1_*", path)
        rows["/".join(module.split("/")[:3])] += size
    return "\n".join(f"{module:<44}{size:>16,}" for module, size in sorted(rows.items()))
