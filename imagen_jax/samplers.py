"""Samplers: from noise to a picture with any StepDenoiser, as step functions and one scan.

Paper: section 3.3 samples with 256 DDPM steps. A step goes from the noise level `now` to the cleaner
`next`; both are scalars, one for the batch. Sample i depends on key i alone, not on the batch it is drawn in.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.diffusion import velocity, x0_and_eps
from imagen_jax.guidance import StepDenoiser
from imagen_jax.schedules import Schedule, alpha_sigma, choose
from imagen_jax.types import Array, Cond


class Step(NamedTuple):
    """What a step function may use."""

    z: Array  # [B, H, W, C]
    x0: Array  # [B, H, W, C] the denoised z
    last_x0: Array  # [B, H, W, C] x0 of the step before
    last: Array  # [] logsnr of the step before, -inf at the first
    now: Array  # [] logsnr of z
    next: Array  # [] logsnr to go to
    denoise: Callable[[Array, Array], Array]  # (z, logsnr []) -> x0
    noise: Callable[[], Array]  # () -> unit noise like z


def ddim(step: Step, eta: float = 0.0) -> Array:
    """Denoising diffusion implicit models (2010.02502, equation 12), first order; eta scales the fresh noise."""
    _, eps = x0_and_eps(step.x0, step.z, step.now, "x0")
    alpha, sigma = alpha_sigma(step.next)
    kept, fresh = jnp.exp(step.now - step.next), -jnp.expm1(step.now - step.next)  # shares of the variance at eta = 1
    z = alpha * step.x0 + sigma * jnp.sqrt(kept + (1 - eta**2) * fresh) * eps
    return z + sigma * eta * jnp.sqrt(fresh) * step.noise() if eta else z


def ddpm(step: Step) -> Array:
    """Ancestral sampling (2006.11239): the posterior q(z_next | z, x0), which DDIM becomes at eta = 1."""
    return ddim(step, eta=1.0)


def dpm_solver_2m(step: Step) -> Array:
    """DPM-Solver++(2M) (2211.01095, algorithm 2), second order from one evaluation a step.

    It extrapolates x0 over two steps, so both need the same guidance: not for oscillating or interleaved.
    """
    h, last_h = (step.next - step.now) / 2, (step.now - step.last) / 2
    x0 = step.x0 + h / (2 * last_h) * (step.x0 - step.last_x0)  # plain x0 at the first step, where last_h = inf
    (_, sigma), (alpha_next, sigma_next) = alpha_sigma(step.now), alpha_sigma(step.next)
    return sigma_next / sigma * step.z - alpha_next * jnp.expm1(-h) * x0


def heun(step: Step) -> Array:
    """Heun's method on the probability-flow ODE, second order from two evaluations a step.

    In the angle phi = arctan(sigma / alpha) the ODE is dz/dphi = v: smooth on the whole range, with no stiff end.
    """
    turn = _angle(step.next) - _angle(step.now)
    v = _velocity(step.z, step.x0, step.now)
    z = ddim(step)
    v_next = _velocity(z, step.denoise(z, step.next), step.next)
    return step.z + turn * (v + v_next) / 2


METHODS = {"ddpm": ddpm, "ddim": ddim, "dpm_solver_2m": dpm_solver_2m, "heun": heun}


def solver(method: str | Callable[[Step], Array], steps: int, name: str = "sample") -> Callable[[Step], Array]:
    """The step function that `method` names, or is; ValueError where it is unknown, or for no step at all.

    name: what the error calls the part of the config that both are of.
    """
    if steps < 1:
        raise ValueError(f"{name}.steps is {steps}: at least 1 is needed")
    return method if callable(method) else choose(f"{name}.method", method, METHODS)


def sample(
    denoiser: StepDenoiser,
    keys: Array,
    cond: Cond,
    shape: tuple[int, int, int],
    schedule: Schedule,
    *,
    method: str | Callable[[Step], Array] = "ddpm",
    steps: int = 256,
    z: Float[Array, "B H W C"] | None = None,
) -> Float[Array, "B H W C"]:
    """Draws one picture a key: float32, about [-1, 1] (a thresholded denoiser makes that strict).

    keys: [B] random keys, see `sample_keys`. shape: (H, W, C). z: the noise to start from, else drawn from the keys.
    method: a name in METHODS or a step function, such as partial(ddim, eta=0.5).
    The last evaluation, at t = 1 / steps, is the picture: its x0, with no noise added back. Jit it as a whole.
    Raises ValueError for an unknown method or no step at all.
    """
    take_step = solver(method, steps)
    batch = keys.shape[0]
    if z is None:
        z = sample_noise(keys, 0, shape)

    def body(carry, level):
        z, last_x0 = carry
        index, last, now, next_ = level

        def denoise(z, logsnr):
            return denoiser(z, jnp.broadcast_to(logsnr, (batch,)), cond, index)

        x0 = denoise(z, now)
        noise = partial(sample_noise, keys, index + 1, shape)
        return (take_step(Step(z, x0, last_x0, last, now, next_, denoise, noise)), x0), None

    z = z.astype(jnp.float32)
    (_, x0), _ = jax.lax.scan(body, (z, jnp.zeros_like(z)), (jnp.arange(steps), *_levels(schedule, steps)))
    return x0


def sample_keys(key: Array, indices: Array) -> Array:
    """A key [B] for each index [B], whatever the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)


def sample_noise(keys: Array, index: Array | int, shape: tuple[int, ...]) -> Array:
    """Unit noise [B, *shape] of each key [B]: the `index`-th draw of its stream."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32))(keys)


def _levels(schedule: Schedule, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (last, now, next) logsnr of each step, t running evenly from 1 to 0; in float64 until here."""
    grid = schedule.logsnr(np.linspace(1.0, 0.0, steps + 1)).astype(np.float32)
    return np.concatenate([[-np.inf], grid[:-2]]).astype(np.float32), grid[:-1], grid[1:]


def _angle(logsnr: Array) -> Array:
    return jnp.arctan(jnp.exp(-logsnr / 2))


def _velocity(z: Array, x0: Array, logsnr: Array) -> Array:
    x0, eps = x0_and_eps(x0, z, logsnr, "x0")
    return velocity(x0, eps, logsnr)
