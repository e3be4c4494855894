"""The central claim at toy size: a trained model reads its references, so shuffling them raises its loss."""

import functools

import jax
import numpy as np

from imagen_jax import model as model_lib
from imagen_jax import runs
from imagen_jax.evaluation import training_report
from imagen_jax.optim import make_optimizer
from imagen_jax.train_step import Objective, init_state, train_step
from tests import tiny


def coloured(seed: int):
    """A target of one colour, which only the picture of its one reference tells."""
    batch, rng = tiny.batch(size=16, slots=1, seed=0), np.random.default_rng(seed)
    colour = rng.integers(0, 2, (16, 1, 1, 3)).astype(np.uint8) * 255
    image = np.broadcast_to(colour, batch.image.shape)
    return batch.replace(image=image, context=batch.context.replace(images=image[:, None]))


def test_after_training_shuffled_references_raise_the_loss():
    config = tiny.config()
    config.optim.update(learning_rate=3e-3, warmup_steps=10)
    net, tx = model_lib.make_model(config), make_optimizer(config.optim, config.train.steps)
    schedule = runs.make_schedule(config)
    step = jax.jit(functools.partial(train_step, net, Objective(schedule, 0.0, 0.0, 0), tx, 0.9, 0))
    state = init_state(tiny.init(net), tx)
    loss = jax.jit(functools.partial(training_report.noisy_half_losses, net, schedule))

    def ratio() -> float:
        batch, key = coloured(10_000), jax.random.key(0)
        true, shuffled = (loss(state.ema, b, key).mean() for b in (batch, training_report.shuffle_references(batch)))
        return float(shuffled / true)

    assert abs(ratio() - 1) < 0.02, "untrained, it ignores them"
    for seed in range(400):
        state, _ = step(state, {}, coloured(seed))
    assert ratio() > 1.5
