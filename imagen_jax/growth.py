"""A deeper or wider UNet that starts as the one it takes over (Net2Net, 1511.05641).

New blocks are identities. They lie on the inside of the U: a level's last DBlocks, which hand on what they are given,
and its first UBlocks, which leave out the skip. So each old UBlock reads the output of the same DBlock as before.

New channels hold fresh features, which nothing old reads at first but the normalisations over many channels: a wider
model starts close to the old one, not equal to it.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


class GrowthError(ValueError):
    """The run to take over is larger than the model, or grows in a way that cannot be followed."""


def grow(fresh: Mapping, before: Mapping, sizes: Mapping, old_sizes: Mapping) -> tuple[dict, dict]:
    """Prepare for pretrained.warm_start: `fresh`, its new blocks as identities, and `before` in its names and shapes.

    Args:
      fresh, before: the parameters of the two UNets, `model.scan=False`.
      sizes, old_sizes: config.model of both.

    Raises:
      GrowthError: a level has fewer blocks or channels than before, more than one is wider, there are more or fewer, or
        another size changes with the width.
    """
    for key in ("blocks", "channels"):
        _check(key, sizes[key], old_sizes[key])
    if "channels" in grown(sizes, old_sizes):
        _check_others(sizes, old_sizes)
    fresh, before = _deepen(fresh, before, sizes["blocks"], old_sizes["blocks"])
    return fresh, _widen(fresh, before, sizes["channels"], old_sizes["channels"])


def grown(sizes: Mapping, old_sizes: Mapping) -> list[str]:
    """Which of the sizes that `grow` reads differ."""
    return [key for key in ("blocks", "channels") if tuple(sizes[key]) != tuple(old_sizes[key])]


def _check(key: str, new: Sequence[int], old: Sequence[int]) -> None:
    told = f"config.model.{key}={tuple(new)}: the run to take over has {tuple(old)}, and a model can only take over one"
    if len(new) != len(old) or any(now < then for now, then in zip(new, old, strict=True)):
        raise GrowthError(f"{told} of as many levels, with as many {key} each or fewer")
    if key == "channels" and sum(now > then for now, then in zip(new, old, strict=True)) > 1:
        raise GrowthError(f"{told} of which one level is narrower; widen one after the other")


def _check_others(sizes: Mapping, old_sizes: Mapping) -> None:
    """An axis is known by its length: another size that differs could be taken for the width."""
    for key in ("heads", "head_dim", "cond_channels"):
        if (new := sizes.get(key)) != (old := old_sizes.get(key)):
            raise GrowthError(
                f"config.model.{key}={new}: the run to take over has {old}; with wider channels keep that"
            )


def _deepen(fresh: Mapping, before: Mapping, blocks: Sequence[int], old_blocks: Sequence[int]) -> tuple[dict, dict]:
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


def _widen(fresh: Mapping, before: Mapping, channels: Sequence[int], old_channels: Sequence[int]) -> dict:
    widths = [(old, new) for old, new in zip(old_channels, channels, strict=True) if old != new]
    if not widths:
        return dict(before)
    leaves = flatten_dict(fresh)
    return unflatten_dict(
        {path: _within(leaves.get(path), leaf, *widths[0]) for path, leaf in flatten_dict(before).items()}
    )


def _within(fresh: jax.Array | None, before: jax.Array, old: int, new: int) -> jax.Array:
    """The old leaf at its places in the fresh one; of a kernel [..., in, out], old outputs read nothing new.

    One that differs in more than the width stays as it is: warm_start tells of it.
    """
    if fresh is None or fresh.shape == before.shape:
        return before
    if not all(_fits(*sides, old, new) for sides in zip(before.shape, fresh.shape, strict=True)):
        return before
    places = [_places(*sides, old, new) for sides in zip(before.shape, fresh.shape, strict=True)]
    if fresh.ndim > 1:
        fresh = fresh.at[..., places[-1]].set(0.0)
    return fresh.at[np.ix_(*places)].set(before)


def _fits(before: int, after: int, old: int, new: int) -> bool:
    return before == after or (before % old == 0 and after == before // old * new)


def _places(before: int, after: int, old: int, new: int) -> np.ndarray:
    """Where an axis's entries go. One that grows is a row of parts, `old` channels each: [x, skip], FiLM's two."""
    if before == after:
        return np.arange(before)
    return (np.arange(before // old)[:, None] * new + np.arange(old)).reshape(-1)
