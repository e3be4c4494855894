"""One training step, pure: the paper's objective (section 3.3) for the base model and for super-resolution.

Randomness is a function of (seed, step), so a resumed run takes the very steps an uninterrupted one would have taken.
A frozen text encoder is an argument of the step, outside TrainState: no gradient, no EMA, no optimizer state.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax

from imagen_jax import diffusion
from imagen_jax import model as model_lib
from imagen_jax.model import Model
from imagen_jax.optim import ema_update
from imagen_jax.schedules import Schedule
from imagen_jax.types import Array, Batch, Cond


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds."""

    step: Array  # [] int32, steps taken
    params: dict  # the trained part of {"unet", "text_encoder"}
    ema: dict  # its moving average, used at inference
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Objective:
    """The static settings of the loss."""

    schedule: Schedule
    drop_all: float
    drop_context: float
    crop_size: int  # side of super-resolution's training crops; 0: whole pictures


def init_state(params: dict, tx: optax.GradientTransformation) -> TrainState:
    """A fresh state: step 0, the EMA equal to the parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), tx.init(params))


def losses(model: Model, objective: Objective, params: dict, batch: Batch, key: Array) -> tuple[Array, Array]:
    """Per-example loss [B] and log-SNR [B]: v-prediction, L2 (paper, section 3.3)."""
    drop_key, time_key, noise_key, lowres_key = jax.random.split(key, 4)
    x0 = model_lib.to_float(batch.image)
    cond = model_lib.encode(model, params, batch.text, batch.context)
    cond = model_lib.drop_conditions(drop_key, cond, objective.drop_all, objective.drop_context)
    if model.lowres_size:
        x0, cond = add_lowres(model, objective, lowres_key, x0, cond)
    logsnr = diffusion.sample_logsnr(time_key, x0.shape[0], objective.schedule)
    eps = jax.random.normal(noise_key, x0.shape)
    output = model_lib.predict(model, params, diffusion.add_noise(x0, eps, logsnr), logsnr, cond)
    return diffusion.loss(output, x0, eps, logsnr, model.prediction), logsnr


def add_lowres(model: Model, objective: Objective, key: Array, x0: Array, cond: Cond) -> tuple[Array, Cond]:
    """Super-resolution's pair: (crop of) the target, and its noised low-resolution version in cond (Imagen, 2.3)."""
    level_key, eps_key, crop_key = jax.random.split(key, 3)
    lowres = model_lib.shrink(x0, model.lowres_size)
    if objective.crop_size:
        x0, lowres = random_crops(crop_key, x0, lowres, objective.crop_size)
    aug_level = jax.random.uniform(level_key, x0.shape[:1])
    eps = jax.random.normal(eps_key, lowres.shape)
    return x0, model_lib.with_lowres(cond, *diffusion.augment_lowres(lowres, eps, aug_level, objective.schedule))


def random_crops(key: Array, x0: Array, lowres: Array, size: int) -> tuple[Array, Array]:
    """The same random window of both, aligned to whole low-resolution pixels: [B, size, size, 3] and its low-res."""
    factor = x0.shape[1] // lowres.shape[1]
    small = size // factor
    corners = jax.random.randint(key, (x0.shape[0], 2), 0, lowres.shape[1] - small + 1)

    def crop(image, corner, side):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, 3))

    return (
        jax.vmap(lambda image, corner: crop(image, corner, size))(x0, corners * factor),
        jax.vmap(lambda image, corner: crop(image, corner, small))(lowres, corners),
    )


def train_step(
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema_decay: float,
    seed: int,
    state: TrainState,
    frozen: dict,
    batch: Batch,
) -> tuple[TrainState, dict[str, Array]]:
    """(state, batch) -> (state, {"loss" [B], "logsnr" [B], "grad_norm" []}). Jit it with state donated."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def mean_loss(params):
        loss, logsnr = losses(model, objective, params | frozen, batch, key)
        return loss.mean(), (loss, logsnr)

    grads, (loss, logsnr) = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = ema_update(state.ema, params, state.step, ema_decay)
    metrics = {"loss": loss, "logsnr": logsnr, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, ema, opt_state), metrics
