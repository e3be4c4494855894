"""The parameter table of a config, without allocating any of them (paper, section 3.4 and Table 5)."""

import re
from collections import Counter
from dataclasses import MISSING, fields

import jax
from ml_collections import ConfigDict

from imagen_jax.nn.blocks import UNetConfig
from imagen_jax.planning.programs import parameters


def count_parameters(config: ConfigDict) -> dict[str, int]:
    """{"base": the UNet without context attention, "context": what the context attention adds, "total": both,
    "super_res": the cascade's second UNet, "text_encoder"}. A super-resolution config has no base."""
    sizes = leaf_sizes(config)
    unet = {name: size for name, size in sizes.items() if name.startswith("unet/")}
    context = sum(size for name, size in unet.items() if "context_" in name)
    total = sum(unet.values())
    counts = {"base": total - context, "context": context, "total": total}
    if config.model.lowres_size:
        counts = {"base": 0, "context": 0, "total": 0, "super_res": total}
    else:
        second = config.copy_and_resolve_references()
        own = {f.name: f.default for f in fields(UNetConfig) if f.default is not MISSING}  # none of the base's
        second.model.update(own | config.plan.super_res.to_dict())
        counts["super_res"] = sum(size for name, size in leaf_sizes(second).items() if name.startswith("unet/"))
    return counts | {"text_encoder": sum(sizes.values()) - total}


def leaf_sizes(config: ConfigDict) -> dict[str, int]:
    """'/'-joined path -> number of parameters, of the UNet and the text encoder."""
    leaves = jax.tree_util.tree_leaves_with_path(parameters(config))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}


def table(sizes: dict[str, int]) -> str:
    """A line for each kind of module of a level: the blocks of a level, and the text encoder's layers, are added up."""
    rows = Counter()
    for path, size in sizes.items():
        module = re.sub(r"(down_\d+|up_\d+|layers)_\d+", r"\1_*", path)
        rows["/".join(module.split("/")[:3])] += size
    return "\n".join(f"{module:<44}{size:>16,}" for module, size in sorted(rows.items()))
