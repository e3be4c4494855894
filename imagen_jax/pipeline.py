"""A trained cascade, opened once to draw many instructions: --mode=sample, --mode=serve and notebooks.

    pipeline = open_pipeline(config, "released")
    pictures = draw(pipeline, instruction, seed=0, count=4)

gives {"base": [4, 32, 32, 3], "super_res": [4, 64, 64, 3]} with the released models.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.instruction import Instruction, layout_of, pack
from data_pipelines.text import load_tokenizer
from imagen_jax import cascade, grid, partition, release, runs, samplers
from imagen_jax.runs import Run, RunError
from imagen_jax.types import Context, Text

MAX_SEED = 2**32 - 1  # a key takes 32 bits of a seed: those above would repeat others
_tokenizer = functools.cache(load_tokenizer)


class Pipeline(NamedTuple):
    """The base model, the one that enlarges its pictures if there is one, and how both are sampled (config.sample)."""

    base: Run
    super_res: Run | None
    sample: ConfigDict


def open_pipeline(config: ConfigDict, workdir: str | Path, *to_draw: Instruction) -> Pipeline:
    """The model of config.sample.run, or else of `workdir` ('released': the package's), sampled as config.sample says.

    Files outside the run that have moved, a frozen text encoder's and the tokenizer, are named by the config too.
    Instructions that are known already are checked before the second model is read.

    Raises:
      RunError, CheckpointError, ReleaseError, InstructionError, CascadeError, ValueError: one line, with the mend.
    """
    if config.sample.count < 1:
        raise RunError(f"config.sample.count={config.sample.count} must be at least 1")
    cascade.check_sampler(config.sample)
    mesh = partition.make_mesh(config.mesh)
    base = runs.open_run(config.sample.run or workdir, mesh, config)
    for instruction in to_draw:
        _pack(base, instruction)
    super_res = open_super_res(config, workdir, mesh)
    cascade.check_fit(base, super_res)
    return Pipeline(base, super_res, config.sample)


def draw(pipeline: Pipeline, instruction: Instruction, seed: int = 0, count: int = 1) -> dict[str, np.ndarray]:
    """`count` pictures for one instruction; picture i depends on the seed, i and the instruction alone.

    Returns:
      {"base": [count, S, S, 3]} and, with super-resolution, {"super_res": [count, S', S', 3]}; uint8.

    Raises:
      RunError: a seed out of bounds.
      InstructionError: one line that says what is wrong with the instruction, or what this model cannot take.
    """
    if not 0 <= seed <= MAX_SEED:
        raise RunError(f"seed {seed}: must be from 0 to {MAX_SEED}")
    text, context = jax.tree.map(lambda x: np.stack([x] * count), _pack(pipeline.base, instruction))
    keys = samplers.sample_keys(jax.random.key(seed), jnp.arange(count))
    pictures = cascade.generate(*pipeline, text, context, keys)
    return {kind: grid.to_uint8(np.asarray(batch)) for kind, batch in pictures.items()}


def _pack(run: Run, instruction: Instruction) -> tuple[Text, Context]:
    """As the run's model reads it: by the very function that packs training examples."""
    return pack(instruction, _tokenizer(run.config.data.tokenizer), layout_of(run.config))


def open_super_res(config: ConfigDict, workdir: str | Path, mesh: Mesh) -> Run | None:
    """The cascade's second run: sample.super_res.workdir, or None, which is said aloud.

    'auto' is the run of that name beside `workdir`; of a release, what its own folder super_res holds.
    """
    given = config.sample.super_res.workdir
    if not given:
        return None
    path = _super_res_beside(config, workdir) if given == "auto" else Path(given)
    if runs.has_run(path):
        cascade.check_sampler(config.sample.super_res, "config.sample.super_res")
        return runs.open_run(path, mesh, config)
    if given != "auto":
        raise RunError(f"config.sample.super_res.workdir: no trained model in {path}; train experiments/super_res.py")
    logging.info("no super-resolution run in %s: base pictures only (train experiments/super_res.py for more)", path)
    return None


def _super_res_beside(config: ConfigDict, workdir: str | Path) -> Path:
    base = release.locate(config.sample.run or workdir)
    return base / "super_res" if release.is_release(base) else Path(workdir).parent / config.sample.super_res.name
