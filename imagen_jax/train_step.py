"""One training step, pure: the paper's objective (section 3.3) for the base model and for super-resolution.

Randomness is a function of (seed, step), so a resumed run takes the very steps an uninterrupted one would have taken.
A frozen text encoder is an argument of the step, outside TrainState: no gradient, no EMA, no optimizer state.
"""

import dataclasses
from collections.abc import Callable

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
    accumulate: int = 1  # micro-batches that a step's batch is split into
    max_aug_level: float = 1.0  # of the noise on super-resolution's input
    noises: int = 1  # noisy copies of each example, whose instruction is encoded once


def init_state(params: dict, tx: optax.GradientTransformation) -> TrainState:
    """A fresh state: step 0, the EMA equal to the parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), tx.init(params))


@flax.struct.dataclass
class Draws:
    """All randomness of a training batch, drawn at once: so how a step splits its batch changes nothing.

    N counts noisy copies, those of an example one after the other: the batch's examples times Objective.noises.
    """

    logsnr: Array  # [N]
    eps: Array  # [N, side, side, 3]
    no_text: Array  # [N] bool, text and context dropped
    no_context: Array  # [N] bool
    aug_level: Array | None = None  # [N] in [0, 1]: noise on super-resolution's input
    lowres_eps: Array | None = None  # [N, side / factor, side / factor, 3]
    corners: Array | None = None  # [N, 2] of the training crops, in low-resolution pixels


def draw(model: Model, objective: Objective, batch_size: int, key: Array) -> Draws:
    """Noise, noise levels, and which conditions are dropped: independently 10 % and 10 % (paper, section 3.3)."""
    all_key, context_key, time_key, noise_key, lowres_key = jax.random.split(key, 5)
    side, count = objective.crop_size or model.image_size, batch_size * objective.noises
    no_text = jax.random.bernoulli(all_key, objective.drop_all, (count,))
    logsnr = diffusion.sample_logsnr(time_key, count, objective.schedule)
    draws = Draws(
        logsnr=logsnr.reshape(objective.noises, batch_size).T.reshape(-1),  # an example's copies lie far apart
        eps=jax.random.normal(noise_key, (count, side, side, 3)),
        no_text=no_text,
        no_context=no_text | jax.random.bernoulli(context_key, objective.drop_context, (count,)),
    )
    return _draw_lowres(draws, model, objective, lowres_key) if model.lowres_size else draws


def _draw_lowres(draws: Draws, model: Model, objective: Objective, key: Array) -> Draws:
    side = draws.eps.shape[1]
    level_key, eps_key, crop_key = jax.random.split(key, 3)
    count, small = draws.logsnr.shape[0], side * model.lowres_size // model.image_size
    return draws.replace(
        aug_level=jax.random.uniform(level_key, (count,), maxval=objective.max_aug_level),
        lowres_eps=jax.random.normal(eps_key, (count, small, small, 3)),
        corners=jax.random.randint(crop_key, (count, 2), 0, model.lowres_size - small + 1),
    )


def losses(model: Model, objective: Objective, params: dict, batch: Batch, draws: Draws) -> Array:
    """The loss of each noisy copy, [N]: v-prediction, L2 (paper, section 3.3).

    Encoding the references is a large part of the work, so many copies share it, as AlphaFold 3's share its trunk.
    """
    x0 = model_lib.to_float(batch.image)
    cond = model_lib.encode(model, params, batch.text, batch.context, project=objective.noises > 1)
    if objective.noises > 1:
        x0, cond = jax.tree.map(lambda x: jnp.repeat(x, objective.noises, axis=0), (x0, cond))
    cond = cond.drop(text=draws.no_text, context=draws.no_context)
    if model.lowres_size:
        x0, cond = add_lowres(model, objective, x0, cond, draws)
    z = diffusion.add_noise(x0, draws.eps, draws.logsnr)
    output = model_lib.predict(model, params, z, draws.logsnr, cond)
    return diffusion.loss(output, x0, draws.eps, draws.logsnr, model.prediction)


def add_lowres(model: Model, objective: Objective, x0: Array, cond: Cond, draws: Draws) -> tuple[Array, Cond]:
    """Super-resolution's pair: (crop of) the target, and its noised low-resolution version in cond (Imagen, 2.3)."""
    lowres = model_lib.shrink(x0, model.lowres_size)
    if objective.crop_size:
        x0, lowres = crop(x0, lowres, draws.corners, objective.crop_size)
    noised = diffusion.augment_lowres(lowres, draws.lowres_eps, draws.aug_level, objective.schedule)
    return x0, model_lib.with_lowres(cond, *noised)


def crop(x0: Array, lowres: Array, corners: Array, size: int) -> tuple[Array, Array]:
    """The same window of both, at `corners` of the low-resolution grid: [B, size, size, 3] and its low-res."""
    factor = x0.shape[1] // lowres.shape[1]

    def window(image, corner, side):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, 3))

    return (
        jax.vmap(lambda image, corner: window(image, corner, size))(x0, corners * factor),
        jax.vmap(lambda image, corner: window(image, corner, size // factor))(lowres, corners),
    )


def mean_gradient(loss_of, params: dict, parts: int, data) -> tuple[dict, Array]:
    """Gradient of the batch's mean loss, and the losses [N], from `parts` micro-batches one after the other.

    `loss_of(params, data)` is [N]; `data` is (batch, draws), B examples and N noisy copies on axis 0. Every n-th
    example goes to one part, with its copies, so each device keeps the examples that it has.
    """

    def of_part(data):
        def mean_loss(params):
            loss = loss_of(params, data)
            return loss.mean(), loss

        return jax.grad(mean_loss, has_aux=True)(params)

    if parts == 1:
        return of_part(data)

    def add(total, data):
        grads, loss = of_part(data)
        return jax.tree.map(lambda t, g: t + g / parts, total, grads), loss

    examples = data[0].image.shape[0] // parts  # of a part
    dealt = jax.tree.map(lambda x: _deal(x, examples, parts), data)
    grads, loss = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), dealt)
    return grads, loss.reshape(parts, examples, -1).swapaxes(0, 1).reshape(-1)


def _deal(x: Array, examples: int, parts: int) -> Array:
    """[N, ...], some rows an example -> [parts, N / parts, ...]."""
    copies, rest = x.shape[0] // (examples * parts), x.shape[1:]
    return x.reshape(examples, parts, copies, *rest).swapaxes(0, 1).reshape(parts, examples * copies, *rest)


def gradient(
    model: Model,
    objective: Objective,
    params: dict,
    frozen: dict,
    batch: Batch,
    key: Array,
    constrain: Callable[[dict], dict] = lambda params: params,
) -> tuple[dict, dict[str, Array]]:
    """The gradient of a batch's loss, noised by `key`, and {"loss" [N], "logsnr" [N]}.

    `constrain` holds the parameters, cast to the dtype of the computation, to their shardings.
    """
    draws = draw(model, objective, batch.image.shape[0], key)
    frozen = constrain(model_lib.in_compute_dtype(model, frozen))

    def loss_of(params, data):
        return losses(model, objective, constrain(model_lib.in_compute_dtype(model, params)) | frozen, *data)

    grads, loss = mean_gradient(loss_of, params, objective.accumulate, (batch, draws))
    return grads, {"loss": loss, "logsnr": draws.logsnr}


def train_step(
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema_decay: float,
    seed: int,
    state: TrainState,
    frozen: dict,
    batch: Batch,
    constrain: Callable[[dict], dict] = lambda params: params,
) -> tuple[TrainState, dict[str, Array]]:
    """(state, batch) -> (state, {"loss" [N], "logsnr" [N], "grad_norm" []}). Jit it with state donated."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, values = gradient(model, objective, state.params, frozen, batch, key, constrain)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = ema_update(state.ema, params, state.step, ema_decay)
    return TrainState(state.step + 1, params, ema, opt_state), values | {"grad_norm": optax.tree.norm(grads)}
