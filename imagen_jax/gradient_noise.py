"""--mode=noise: of several ways to fill a step, which learns most a second, on this machine and from these weights.

A step's gradient is the true one and noise: of the examples it happens to see, and of their noise levels. Small steps
get as far as noise / signal x seconds is small (McCandlish et al., 1812.06162). More examples lower that noise, and so
do more noisy copies of each (`train.noises`), which cost less, as they share the encoding of their references.
"""

import itertools
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imagen_jax import partition, runs
from imagen_jax.model import Model, make_model
from imagen_jax.train import compile_gradient
from imagen_jax.train_check import check_batch
from imagen_jax.workdir import write_json


class NoiseError(ValueError):
    """Settings that cannot be measured."""


class Filling(NamedTuple):
    """How a step is filled."""

    examples: int
    noises: int

    def __str__(self) -> str:
        return f"{self.examples}x{self.noises}"


class Gradients(NamedTuple):
    """Some independent gradients of one expectation, in sums."""

    count: int
    total: Any  # their sum, a tree of arrays
    squares: float  # the sum of their squared norms
    seconds: float  # of one of them, the median

    def together(self) -> float:
        """The sum of the products of any two different ones."""
        return float(optax.tree.norm(self.total, squared=True)) - self.squares


def measure_noise(config: ConfigDict, workdir: Path, loader, command: str = "") -> dict:
    """Print and write workdir/noise.json: for each of `config.noise.fillings` its noise, its time, and their product.

    The weights are those in workdir, else those that training would start from.

    Raises:
      NoiseError, TrainError, RunError, CheckpointError, PartitionError: one line, with the mend.
    """
    fillings, mesh, model = check(config), partition.make_mesh(config.mesh), make_model(config)
    params = _weights(config, model, workdir, mesh)
    frozen = {} if config.text_encoder.precomputed else runs.load_frozen(config, mesh)
    found, first = {}, 0
    for filling in fillings:
        gradients = _gradients(with_filling(config, filling), model, mesh, params, frozen, loader, first)
        found[filling] = collect(gradients)
        first += (config.noise.steps + 1) * filling.examples  # no example is seen twice
        print(f"{filling}: {found[filling].seconds:.3g} s a gradient", flush=True)
    report = {"command": command, "steps": config.noise.steps, "fillings": compared(found)}
    print(told(report))
    write_json(workdir / "noise.json", report)
    return report


def check(config: ConfigDict) -> list[Filling]:
    """What is to be compared. Raises NoiseError or TrainError, one line with the mend."""
    size, noises = config.train.batch_size, config.train.noises
    default = [Filling(size // n, noises * n) for n in (1, 2, 4) if size % n == 0]
    texts = [text.strip() for text in config.noise.fillings.split(",") if text.strip()]
    if wrong := [text for text in texts if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text)]:
        raise NoiseError(f"config.noise.fillings: '{wrong[0]}' is not EXAMPLESxNOISES, as in 32x1,16x4")
    fillings = [Filling(*map(int, text.split("x"))) for text in texts] or default
    if config.noise.steps < 2:
        raise NoiseError(f"config.noise.steps={config.noise.steps}: at least 2 are needed, to differ from each other")
    for filling in fillings:
        check_batch(with_filling(config, filling).train, partition.batch_ways(partition.make_mesh(config.mesh)))
    return list(dict.fromkeys(fillings))


def with_filling(config: ConfigDict, filling: Filling) -> ConfigDict:
    """The config of a training whose steps are filled so."""
    config = config.copy_and_resolve_references()
    config.train.update(batch_size=filling.examples, noises=filling.noises)
    return config


def _gradients(config: ConfigDict, model: Model, mesh: Mesh, trained: dict, frozen: dict, loader, first: int):
    """One gradient for each step, and one before them, of the examples from `first` on."""
    compute, key = compile_gradient(config, model, mesh), jax.random.key(config.seed)
    batches = loader.batches(first, config.train.batch_size)
    for i, batch in enumerate(itertools.islice(batches, config.noise.steps + 1)):
        yield compute(trained, frozen, partition.shard_batch(batch, mesh), jax.random.fold_in(key, first + i))


def collect(gradients: Iterable[Any]) -> Gradients:
    """The sums of some gradients; the first one, whose time is mostly compilation, is left out."""
    total, squares, seconds, since = None, [], [], time.perf_counter()
    for i, gradient in enumerate(gradients):
        jax.block_until_ready(gradient)
        seconds.append(time.perf_counter() - since)
        if i:
            total = gradient if total is None else _add(total, gradient)
            squares.append(float(optax.tree.norm(gradient, squared=True)))
        since = time.perf_counter()
    return Gradients(len(squares), total, sum(squares), float(np.median(seconds[1:])))


@jax.jit
def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def compared(found: dict[Filling, Gradients]) -> list[dict]:
    """A row a filling: noise / signal is E|g - G|^2 / |G|^2 of a step's gradient g around the true one, G.

    G is one for all fillings, so that |G|^2 is the mean product of any two gradients of them all. Raises NoiseError
    where that drowns in the noise.
    """
    together = sum(each.together() for each in found.values())
    for a, b in itertools.combinations(found.values(), 2):
        together += 2 * float(optax.tree.vdot(a.total, b.total))
    count = sum(each.count for each in found.values())
    signal = together / (count * (count - 1))
    if signal <= 0:
        raise NoiseError(f"{count} gradients are too few to tell the true one from noise: raise config.noise.steps")
    return [_row(filling, each, each.squares / each.count / signal - 1) for filling, each in found.items()]


def _row(filling: Filling, each: Gradients, noise: float) -> dict:
    return {
        "examples": filling.examples,
        "noises": filling.noises,
        "seconds": each.seconds,
        "noise / signal": noise,
        "noise / signal x seconds": noise * each.seconds,
    }


def told(report: dict) -> str:
    """The report in a table for people."""
    columns = "examples", "noises", "seconds", "noise / signal", "noise / signal x seconds"
    lines = ["".join(f"{name:>{len(name) + 3}}" for name in columns)]
    for row in report["fillings"]:
        lines.append("".join(f"{row[name]:>{len(name) + 3}.4g}" for name in columns))
    best = min(report["fillings"], key=lambda row: row[columns[-1]])
    settings = f"--config.train.batch_size={best['examples']} --config.train.noises={best['noises']}"
    return "\n".join([*lines, f"least, so best for small steps: {settings}"])


def _weights(config: ConfigDict, model: Model, workdir: Path, mesh: Mesh) -> dict:
    if runs.has_run(workdir):
        return runs.open_trained(workdir, mesh, config.sharding).params
    params, about = runs.take_over(
        config, runs.init_params(config, model, mesh), runs.init_source(config, workdir), mesh
    )
    print(about.splitlines()[0], flush=True)
    return params
