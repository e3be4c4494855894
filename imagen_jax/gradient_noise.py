"""--mode=noise: of several ways to fill a step, which learns most a second, on this machine and from these weights.

A step's gradient is the true one and noise: of the examples it happens to see, and of their noise levels. At the best
learning rate it gets 1 / (1 + noise) as far as a step without (McCandlish et al., 1812.06162). More examples lower that
noise, and so do more noisy copies of each (`train.noises`), which cost less, as they share the encoding of their
references.
"""

import functools
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
from imagen_jax.train_check import TrainError, check_batch
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
        return float(_product(self.total, self.total)) - self.squares


def measure_noise(config: ConfigDict, workdir: Path, loader, command: str = "") -> dict:
    """Print and write workdir/noise.json: for each of `config.noise.fillings` its seconds, its noise and what a step's
    progress without noise then costs.

    The weights are the averaged ones in workdir, else those that training would start from. The optimizer is not timed.

    Raises:
      NoiseError, TrainError, RunError, CheckpointError, PartitionError: one line, with the mend.
    """
    fillings, mesh, model = check(config), partition.make_mesh(config.mesh), make_model(config)
    params, first = _weights(config, model, workdir, mesh)
    frozen = {} if config.text_encoder.precomputed else runs.load_frozen(config, mesh)
    found = {}
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
    """What is to be compared. Raises NoiseError or PartitionError, one line with the mend."""
    if config.noise.steps < 2:
        raise NoiseError(f"config.noise.steps={config.noise.steps}: at least 2 are needed, to differ from each other")
    ways = partition.batch_ways(partition.make_mesh(config.mesh))
    texts = [text.strip() for text in config.noise.fillings.split(",") if text.strip()]
    if not texts:
        size, noises = config.train.batch_size, config.train.noises
        shares = [n for n in (1, 2, 4) if n == 1 or size % (n * ways * config.train.accumulate) == 0]
        return [Filling(size // n, noises * n) for n in shares]
    return list(dict.fromkeys(_parse(config, text, ways) for text in texts))


def _parse(config: ConfigDict, text: str, ways: int) -> Filling:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise NoiseError(f"config.noise.fillings: '{text}' is not EXAMPLESxNOISES, as in 32x1,16x4")
    filling = Filling(*map(int, text.split("x")))
    try:
        check_batch(with_filling(config, filling).train, ways)
    except TrainError as error:
        raise NoiseError(f"config.noise.fillings, {text}: {error}") from None
    return filling


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
            squares.append(float(_product(gradient, gradient)))
        since = time.perf_counter()
    return Gradients(len(squares), total, sum(squares), float(np.median(seconds[1:])))


# Each one program: on a mesh of CPU devices, many small ones that wait for each other's sums can lock up.
_add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
_product = jax.jit(optax.tree.vdot)


def compared(found: dict[Filling, Gradients]) -> list[dict]:
    """A row a filling: "noise" is E|g - G|^2 / |G|^2 of a step's gradient g around the true one, G; "cost" the seconds
    of as much progress as one step makes without noise, seconds (1 + noise).

    G is one for all fillings, so that |G|^2 is the mean product of any two gradients of them all. Raises NoiseError
    where that drowns in the noise.
    """
    together = sum(each.together() for each in found.values())
    for a, b in itertools.combinations(found.values(), 2):
        together += 2 * float(_product(a.total, b.total))
    count = sum(each.count for each in found.values())
    signal = together / (count * (count - 1))
    if signal <= 0:
        raise NoiseError(f"{count} gradients are too few to tell the true one from noise: raise config.noise.steps")
    return [_row(filling, each, each.squares / each.count / signal) for filling, each in found.items()]


def _row(filling: Filling, each: Gradients, whole: float) -> dict:
    plain = {"examples": filling.examples, "noises": filling.noises, "seconds": each.seconds}
    return plain | {"noise": whole - 1, "cost": whole * each.seconds}


def told(report: dict) -> str:
    """The report in a table for people."""
    columns = "examples", "noises", "seconds", "noise", "cost"
    lines = ["".join(f"{name:>10}" for name in columns)]
    lines += ["".join(f"{row[name]:>10.4g}" for name in columns) for row in report["fillings"]]
    best = min(report["fillings"], key=lambda row: row["cost"])
    settings = f"--config.train.batch_size={best['examples']} --config.train.noises={best['noises']}"
    return "\n".join([*lines, f"of least cost: {settings}"])


def _weights(config: ConfigDict, model: Model, workdir: Path, mesh: Mesh) -> tuple[dict, int]:
    """The trained parameters, and the first example that they have not seen."""
    fresh = functools.partial(runs.init_params, config, model, mesh)
    if not runs.has_run(workdir):
        params, about = runs.take_over(config, fresh(), runs.init_source(config, workdir), mesh)
        print(about.splitlines()[0], flush=True)
        return params, 0
    run = runs.open_trained(workdir, mesh, config.sharding)
    if jax.tree.map(jnp.shape, run.params) != jax.tree.map(jnp.shape, jax.eval_shape(fresh)):
        raise NoiseError(
            f"{workdir} holds another model than this config: name another --workdir, or that run's config"
        )
    print(f"weights: {workdir}, step {run.step}", flush=True)
    return run.params, run.step * run.config.train.batch_size
