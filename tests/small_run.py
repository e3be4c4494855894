"""An untrained tiny run on disk, as runs.open_run finds it: for tests that draw pictures and do not look at them."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import model as model_lib
from imagen_jax import runs
from imagen_jax.checkpoint import Checkpointer
from imagen_jax.train import config_json
from tests import tiny

SIDE = 8  # pixels


def write_run(folder: Path) -> Path:
    """A run whose pictures are one denoising step of a random network away from noise."""
    config = tiny.config()
    config.text_encoder.vocab_size = 32128  # the bundled tokenizer's
    config.data.update(max_references=3, text_length=64, reference_text_length=32)
    config.sample.update(steps=1, guidance="none", threshold="static")
    model, rng = model_lib.make_model(config), np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(model_lib.init, model), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)
    checkpointer = Checkpointer(runs.checkpoint_dir(folder), keep=1)
    checkpointer.save(1, {"ema": params}, {"config": config_json(config), "next_example": config.train.batch_size})
    checkpointer.close()
    return folder
