"""Instruction -> picture: the base model, then super-resolution (paper, section 3.1 and 3.3).

Each of the two models is a run of the same trainer; either can be sampled alone.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from imagen_jax import diffusion, guidance, partition, samplers
from imagen_jax import model as model_lib
from imagen_jax.model import Model
from imagen_jax.runs import Run, make_schedule
from imagen_jax.schedules import Schedule
from imagen_jax.types import Array, Context, Text


class CascadeError(ValueError):
    """Two runs that do not fit together."""


def check_fit(base: Run, super_res: Run | None) -> None:
    """Raises CascadeError unless `base` starts from noise and `super_res`, if any, enlarges what it makes."""
    if base.config.model.lowres_size:
        raise CascadeError(f"{base.config.name} is a super-resolution run: name the base run")
    given = base.config.model.image_size
    if super_res is not None and (wanted := super_res.config.model.lowres_size) != given:
        raise CascadeError(
            f"super-resolution run {super_res.config.name} enlarges {wanted or 'no'} px pictures but "
            f"{base.config.name} makes {given} px ones; name a fitting run with --config.sample.super_res.workdir="
        )


def check_sampler(sample: ConfigDict, name: str = "config.sample") -> None:
    """Raises ValueError where nothing can be drawn as `sample`, the part `name` of the config, says.

    Drawing would say the same, but only after the work before it.
    """
    if not 0 <= sample.get("aug_level", 0) <= 1:
        raise ValueError(f"{name}.aug_level={sample.aug_level}: must be from 0 to 1, a time of the noise schedule")
    guidance.from_config(None, sample, name)  # it composes functions, and calls none
    samplers.solver(sample.method, sample.steps, name)


def generate(base: Run, super_res: Run | None, sample: ConfigDict, text: Text, context: Context, keys: Array) -> dict:
    """Pictures for B packed instructions.

    Args:
      base, super_res: the two runs; super_res may be None.
      sample: the `sample` section of a config.
      text, context: [B, L] and [B, K, ...] as `pack` makes them, at the base run's layout.
      keys: [B] random keys; picture i depends on key i and instruction i alone.

    Returns:
      {"base": [B, S, S, 3]} and, with super_res, {"super_res": [B, S', S', 3]}; float32 in about [-1, 1].
    """
    check_fit(base, super_res)
    pictures = {"base": sample_base(base, sample, text, context, keys)}
    if super_res is not None:
        pictures["super_res"] = enlarge(super_res, sample, text, pictures["base"], keys)
    return pictures


def sample_base(run: Run, sample: ConfigDict, text: Text, context: Context, keys: Array) -> Array:
    """Pictures of the base model alone, [B, S, S, 3]."""
    return _compiled(run, sample)(run.params, text, context, keys, None)


def enlarge(run: Run, sample: ConfigDict, text: Text, lowres: Array, keys: Array) -> Array:
    """Super-resolution of lowres [B, s, s, 3] in [-1, 1] under the text, [B, S, S, 3]."""
    return _compiled(run, sample.super_res)(run.params, text, None, keys, lowres)


def _compiled(run: Run, sample: ConfigDict):
    """The whole sampling loop as one compiled function: the instruction is encoded once, before the scan."""
    mesh = partition.mesh_of(run.params)
    return _compile(run.model, make_schedule(run.config), FrozenConfigDict(sample), mesh)


@functools.cache
def _compile(model: Model, schedule: Schedule, sample: FrozenConfigDict, mesh: Mesh | None):
    return jax.jit(sampler(model, schedule, sample, mesh))


def sampler(model: Model, schedule: Schedule, sample: FrozenConfigDict, mesh: Mesh | None):
    """What `generate` compiles for either model: (params, text, context, keys, lowres) -> pictures."""

    def run(*arguments):
        with partition.on(mesh) if mesh else contextlib.nullcontext():
            return sample_once(model, schedule, sample, *arguments)

    return run


def sample_once(model, schedule, sample, params, text, context, keys, lowres):
    """Encode, then denoise in one scan."""
    cond = model_lib.encode(model, params, text, context)
    if lowres is not None:
        noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        eps = samplers.sample_noise(noise_keys, 0, lowres.shape[1:])
        aug_level = jnp.full(keys.shape, sample.aug_level)
        cond = model_lib.with_lowres(cond, *diffusion.augment_lowres(lowres, eps, aug_level, schedule))
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys)
    step_denoiser = guidance.from_config(model_lib.denoiser(model, params), sample)
    shape = (model.image_size, model.image_size, 3)
    return samplers.sample(step_denoiser, keys, cond, shape, schedule, method=sample.method, steps=sample.steps)
