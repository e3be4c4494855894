"""A deeper UNet that starts equal to the one it takes over: new blocks are identities (Net2Net, 1511.05641).

The new blocks of a level lie on the inside of the U: its last DBlocks, which hand on what they are given, and its first
UBlocks, which leave out the skip. So each old UBlock reads the output of the same DBlock as before.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp


class GrowthError(ValueError):
    """The run to take over has more blocks than the model."""


def grow(fresh: Mapping, before: Mapping, blocks: Sequence[int], old_blocks: Sequence[int]) -> tuple[dict, dict]:
    """Prepare for pretrained.warm_start: `fresh` with its new blocks as identities, and `before` under new names.

    Args:
      fresh, before: the parameters of the two UNets, `model.scan=False`.
      blocks, old_blocks: `model.blocks` of both.

    Raises:
      GrowthError: a level has fewer blocks than before, or there are more or fewer levels.
    """
    if len(blocks) != len(old_blocks) or any(new < old for new, old in zip(blocks, old_blocks, strict=True)):
        raise GrowthError(
            f"config.model.blocks={tuple(blocks)}: the run to take over has {tuple(old_blocks)}, and a model can only "
            "take over one of as many levels, with as many blocks each or fewer"
        )
    fresh, renamed = dict(fresh), {name: part for name, part in before.items() if not name.startswith("up_")}
    for level, (new, old) in enumerate(zip(blocks, old_blocks, strict=True)):
        up, added = f"up_{len(blocks) - 1 - level}", new - old
        renamed |= {f"{up}_{i + added}": before[f"{up}_{i}"] for i in range(old)}
        inner = [*(f"down_{level}_{i}" for i in range(old, new)), *(f"{up}_{i}" for i in range(added))]
        fresh |= {name: _identity(fresh[name]) for name in inner}
    return fresh, renamed


def _identity(block: Mapping) -> dict:
    """The block with a shortcut that hands on x, of [x, skip], and with attentions that add nothing.

    What its second convolution adds starts at zero by itself.
    """
    shortcut = block["residual"]["shortcut"]
    eye = jnp.eye(*shortcut["kernel"].shape[-2:])
    parts = {"residual": block["residual"] | {"shortcut": shortcut | {"kernel": _filled(shortcut["kernel"], eye)}}}
    for name in block.keys() - parts.keys():
        parts[name] = block[name] | {"out": {"kernel": _filled(block[name]["out"]["kernel"], jnp.zeros(()))}}
    return parts


def _filled(kernel: jax.Array, value: jax.Array) -> jax.Array:
    """`value` in the kernel's shape, dtype and shards."""
    return jax.device_put(jnp.broadcast_to(value, kernel.shape).astype(kernel.dtype), kernel.sharding)
