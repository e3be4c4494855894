"""Does it fit, and if not, the change that would make it fit: each is tried on the estimate, the cheapest first."""

from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from imagen_jax import partition
from imagen_jax.planning.chips import Target
from imagen_jax.planning.estimate import abstract_mesh


def mend(config: ConfigDict, target: Target, estimate: Callable[[ConfigDict, Target], dict], wanted: float) -> str:
    """The flags that bring the estimate of a config down to `wanted` GiB a device, or what is left to do."""
    best = ("", float("inf"))
    for flags, changed in _changes(config, target):
        gib = estimate(changed, target)["gib a device"]
        if gib <= wanted:
            return f"{flags} would fit, with {gib:.2f} GiB a device by the estimate"
        best = min(best, (flags, gib), key=lambda pair: pair[1])
    least = f"; the least found is {best[1]:.2f} GiB with {best[0]}" if best[0] else ""
    return f"nothing tried here fits{least}: take more chips, chips with more memory, or a smaller batch"


def _changes(config: ConfigDict, target: Target) -> Iterator[tuple[str, ConfigDict]]:
    """Recomputation, then ever smaller micro-batches."""
    changed, flags = config.copy_and_resolve_references(), []
    if changed.model.remat == "none":
        changed.model.remat = "block"
        flags.append("--config.model.remat=block")
        yield " ".join(flags), changed
    share = config.train.batch_size // partition.batch_ways(abstract_mesh(config, target))
    parts = [n for n in (2, 4, 8, 16) if n > config.train.accumulate and share % n == 0]
    for n in parts:
        changed = changed.copy_and_resolve_references()
        changed.train.accumulate = n
        yield " ".join([*flags, f"--config.train.accumulate={n}"]), changed
