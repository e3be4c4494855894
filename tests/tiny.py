"""One tiny model and one random batch that several test modules share."""

import functools

import jax
import numpy as np

from experiments import stage2
from imagen_jax import model as model_lib
from imagen_jax.types import Batch, Context, Text


def config(**model):
    """The bare stage-2 config at a size that compiles in seconds."""
    c = stage2.get_config()
    c.model.update(image_size=8, channels=(8, 16), blocks=(1, 1), heads=2, head_dim=8, cond_channels=16)
    c.text_encoder.update(emb=16, heads=2, head_dim=8, mlp=16, layers=1, vocab_size=64)
    c.optim.name = "adam"  # fewer operations to trace than adafactor's, which the mesh test and test_main.py have
    c.model.update(model)
    return c


def perturbed(params, seed: int = 0):
    """All leaves random: an initialisation at zero would hide what a test looks for."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@functools.cache
def model_and_params(**model):
    """A model with every parameter perturbed."""
    net = model_lib.make_model(config(**model))
    return net, perturbed(init(net))


def init(net, seed: int = 0):
    """Parameters as a run starts with."""
    return jax.jit(functools.partial(model_lib.init, net))(jax.random.key(seed))


def batch(size: int = 2, slots: int = 2, side: int = 8, seed: int = 0) -> Batch:
    """Random pictures and texts; every slot is filled."""
    rng = np.random.default_rng(seed)

    def text(*shape):
        return Text(rng.integers(1, 64, shape).astype(np.int32), np.ones(shape, bool))

    def images(*shape):
        return rng.integers(0, 256, (*shape, side, side, 3)).astype(np.uint8)

    context = Context(images(size, slots), text(size, slots, 4), np.ones((size, slots), bool))
    return Batch(images(size), text(size, 6), context, np.zeros(size, np.int32), np.arange(size))
