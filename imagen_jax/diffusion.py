"""The diffusion process: noising, what a network may predict, the training loss, and noise-conditioning augmentation.

Paper: section 3 (v-prediction with an L2 loss, continuous time) and Imagen (2205.11487), sections 2.1 and
2.3. x0 is the picture in [-1, 1], eps its unit noise, z the noisy picture and v = alpha eps - sigma x0 (Salimans & Ho,
2202.00512, appendix D), each [B, H, W, C]; logsnr is [B], or one scalar for the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from imagen_jax.schedules import Schedule, alpha_sigma, choose
from imagen_jax.types import Array

Image = Float[Array, "B H W C"]
PerExample = Float[Array, "#B"]
PREDICTIONS = ("v", "eps", "x0")


def add_noise(x0: Image, eps: Image, logsnr: PerExample) -> Image:
    """z = alpha x0 + sigma eps: a draw from q(z | x0)."""
    alpha, sigma = _coefficients(logsnr, x0)
    return alpha * x0 + sigma * eps


def velocity(x0: Image, eps: Image, logsnr: PerExample) -> Image:
    """v = alpha eps - sigma x0: the slope of z along the angle arctan(sigma / alpha)."""
    alpha, sigma = _coefficients(logsnr, x0)
    return alpha * eps - sigma * x0


def x0_and_eps(output: Image, z: Image, logsnr: PerExample, prediction: str) -> tuple[Image, Image]:
    """The x0 and the eps that a prediction of 'v', 'eps' or 'x0' means at (z, logsnr); `velocity` of both is its v.

    v is well conditioned at every logsnr; eps loses x0 as alpha -> 0, and x0 loses eps as sigma -> 0.
    Raises ValueError for another prediction.
    """
    alpha, sigma = _coefficients(logsnr, z)
    forms = {
        "v": lambda: (alpha * z - sigma * output, sigma * z + alpha * output),
        "eps": lambda: ((z - sigma * output) / alpha, output),
        "x0": lambda: (output, (z - alpha * output) / sigma),
    }
    return choose("prediction", prediction, forms)()


def prediction_of(x0: Image, eps: Image, logsnr: PerExample, prediction: str) -> Image:
    """What a network that predicts 'v', 'eps' or 'x0' says where it knows both. Raises ValueError for another one."""
    forms = {"v": lambda: velocity(x0, eps, logsnr), "eps": lambda: eps, "x0": lambda: x0}
    return choose("prediction", prediction, forms)()


def gaussian_estimate(z: Image, logsnr: PerExample, mean: Image, variance: Array) -> tuple[Image, Image, Image]:
    """(x0, eps) to expect at z where x0 ~ N(mean, variance), and z's own distance from what it is expected to be, of
    unit variance. It is all that there is to know of a Gaussian; EDM (2206.00364, section 5) has it for mean 0.

    variance broadcasts against z. The squared error of that x0 is variance sigma^2 / (alpha^2 variance + sigma^2).
    """
    alpha, sigma = _coefficients(logsnr, z)
    total = jnp.square(alpha) * variance + jnp.square(sigma)
    off = z - alpha * mean
    return mean + alpha * variance / total * off, sigma / total * off, off * jax.lax.rsqrt(total)


def loss(output: Image, x0: Image, eps: Image, logsnr: PerExample, prediction: str = "v") -> PerExample:
    """Mean squared error of the network's raw output against what it predicts, an example.

    Seen as an error of x0, 'x0' weighs it by 1, 'eps' by snr and 'v' by snr + 1.
    """
    error = prediction_of(x0, eps, logsnr, prediction) - output
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def sample_logsnr(key: Array, batch_size: int, schedule: Schedule) -> PerExample:
    """The noise levels of a training batch: one uniform draw, spread evenly round the unit circle.

    Each t is still uniform in [0, 1), but the batch covers all levels, which lowers the variance of the loss (VDM,
    2107.00630, appendix I.1).
    """
    return schedule.logsnr((jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0)


def augment_lowres(lowres: Image, eps: Image, aug_level: PerExample, schedule: Schedule) -> tuple[Image, PerExample]:
    """Noise-conditioning augmentation of the super-resolution input (Imagen, section 2.3 and algorithm 1).

    aug_level: [B] in [0, 1], a time on `schedule`: drawn uniformly in training, 0.1 to 0.3 at sampling; 0 leaves the
    picture clean up to logsnr_max. Returns (Cond.lowres, Cond.lowres_logsnr).
    """
    logsnr = schedule.logsnr(aug_level)
    return add_noise(lowres, eps, logsnr), logsnr


def _coefficients(logsnr: PerExample, image: Image) -> tuple[Array, Array]:
    """alpha and sigma as [B, 1, 1, 1]: the one place where a noise level meets the axes of a picture."""
    return alpha_sigma(logsnr.reshape(logsnr.shape + (1,) * (image.ndim - logsnr.ndim)))
