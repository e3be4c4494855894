"""The programs that a run compiles, with shapes in place of arrays: the train step and the sampler, ready to be traced.

They are the functions that training and sampling call, under the shardings that they use (partition.py), so that what a
plan finds is true of the run. Nothing is allocated.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from imagen_jax import cascade, partition, runs, train
from imagen_jax import model as model_lib
from imagen_jax.optim import make_optimizer
from imagen_jax.train_step import init_state
from imagen_jax.types import Batch, Context, Text


class Program(NamedTuple):
    """A jitted function and the arguments to trace it with: ShapeDtypeStructs that carry their shardings."""

    name: str
    function: Callable
    arguments: tuple
    examples: int  # pictures that one call trains on, or makes
    scanned: int = 0  # layers of the text encoder, where they and the UNet's blocks are loops


def train_program(config: ConfigDict, mesh: Mesh) -> Program:
    """One step of `--mode=train`."""
    model, tx = model_lib.make_model(config), make_optimizer(config.optim, config.train.steps)
    params = parameters(config)
    encoder = {"text_encoder": params.pop("text_encoder")} if config.text_encoder.frozen else {}
    frozen = {} if config.text_encoder.precomputed else encoder
    state = jax.eval_shape(functools.partial(init_state, tx=tx), params)
    size, tasks = config.train.batch_size, tuple(config.data.mixture)
    place = functools.partial(_place, mesh=mesh, table=config.sharding)
    examples = batch(config, size, config.text_encoder.precomputed)
    arguments = place(state), place(frozen), _split(examples, mesh)
    return Program("train step", train.compile_step(config, model, tx, tasks, mesh), arguments, size, _scanned(config))


def sample_program(config: ConfigDict, mesh: Mesh, size: int) -> Program:
    """The sampler of one model of the cascade, all its steps, `size` pictures at once."""
    model, given = model_lib.make_model(config), batch(config, size)
    lowres, sample = None, config.sample
    if side := config.model.lowres_size:
        lowres, sample = jax.ShapeDtypeStruct((size, side, side, 3), jnp.float32), config.sample.super_res
    function = cascade.sampler(model, runs.make_schedule(config), FrozenConfigDict(sample), mesh)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    context = None if lowres is not None else given.context
    arguments = _place(parameters(config), mesh, config.sharding), *_split((given.text, context, keys, lowres), mesh)
    return Program("sampler", jax.jit(function), arguments, size, _scanned(config))


def _scanned(config: ConfigDict) -> int:
    return config.text_encoder.layers if config.model.scan else 0


def in_loops(shape: tuple[int, ...], scanned: int) -> list[tuple[int, ...]]:
    """The shapes that a weight also has where `scanned` text layers and the UNet's blocks are loops.

    It is one of so many that are stacked, or itself a stack, of which a loop reads one.
    """
    return [(scanned, *shape), *[shape[1:]] * (len(shape) > 2)] if scanned else []


def parameters(config: ConfigDict) -> dict:
    """{"unet": ..., "text_encoder": ...} of ShapeDtypeStructs."""
    return jax.eval_shape(functools.partial(model_lib.init, model_lib.make_model(config)), jax.random.key(0))


def batch(config: ConfigDict, size: int, precomputed: bool = False) -> Batch:
    """The shapes of a packed batch of `size` examples; with `precomputed` text features, stored in model.dtype."""
    side, slots = config.model.image_size, config.data.max_references

    def text(*shape: int) -> Text:
        features = jax.ShapeDtypeStruct((*shape, config.text_encoder.emb), config.model.dtype) if precomputed else None
        return Text(jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool), features)

    images = jax.ShapeDtypeStruct((size, slots, side, side, 3), jnp.uint8)
    own_text = text(size, slots, config.data.reference_text_length)
    numbers = jax.ShapeDtypeStruct((size,), jnp.int32)
    context = Context(images, own_text, jax.ShapeDtypeStruct((size, slots), bool))
    image = jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8)
    return Batch(image, text(size, config.data.text_length), context, numbers, numbers)


def _place(tree: Any, mesh: Mesh, table: partition.Table) -> Any:
    return jax.tree.map(_with, tree, partition.shardings(tree, mesh, table))


def _split(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(lambda leaf: _with(leaf, partition.batch_sharding(mesh)), tree)


def _with(leaf: jax.ShapeDtypeStruct, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
