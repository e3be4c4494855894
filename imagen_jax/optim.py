"""The optimizer and the moving average (paper, appendix: Adafactor, beta1 0.9, beta2 0.999, EMA 0.9999).

Adafactor as a drop-in for Adam: second moments of matrices are kept as a row and a column mean, beta2 is a constant
with Adam's bias correction, the update of each array is clipped to a root mean square of 1, and the rate is absolute
(not relative to the size of the parameter). Super-resolution may use Adam, as Imagen does.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

NAMES = ("adafactor", "adam")
UPDATE_RMS = 1.0  # Adafactor's clipping of each array's update


class OptimError(ValueError):
    """The optimizer's config is wrong."""


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Gradients -> updates to add to the parameters.

    Args:
      config: `optim` of the experiment: name, learning_rate, warmup_steps (0: none), beta1, beta2, eps (Adafactor:
        added to the squared gradient, 1e-30; Adam: added to the root, 1e-8), clip_norm (global gradient norm, 0: off).

    Raises:
      OptimError: an unknown name.
    """
    if config.name not in NAMES:
        raise OptimError(f"optim.name={config.name!r} is unknown; choose one of {', '.join(NAMES)}")
    scale = _scale_by_adafactor if config.name == "adafactor" else optax.scale_by_adam
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        scale(config.beta1, config.beta2, config.eps),
        optax.scale_by_learning_rate(lambda step: learning_rate(config, step)),
    )


def _scale_by_adafactor(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=beta2, epsilon=eps, decay_rate_fn=bias_corrected_decay),
        optax.clip_by_block_rms(UPDATE_RMS),
        optax.ema(beta1, debias=False),  # no bias correction: the warm-up covers the first steps
    )


def bias_corrected_decay(step: jax.Array, beta2: float) -> jax.Array:
    """The decay at update `step` (from 0) that makes a running mean equal Adam's bias-corrected second moment.

    b_t = beta2 (1 - beta2^(t-1)) / (1 - beta2^t), t = step + 1: zero at first, beta2 in the end.
    """
    log_beta2 = jnp.log(jnp.float32(beta2))
    t = jnp.asarray(step, jnp.float32) + 1
    decay = beta2 * jnp.expm1((t - 1) * log_beta2) / jnp.expm1(t * log_beta2)
    return jax.lax.optimization_barrier(decay)  # XLA would fuse it into, and repeat it for, every element


def learning_rate(config: ConfigDict, step: jax.Array | int) -> jax.Array:
    """The rate of update `step` (from 0): linear to `learning_rate` over `warmup_steps` updates, then constant."""
    return config.learning_rate * jnp.minimum(1.0, (step + 1) / max(1, config.warmup_steps))


def ema_update(ema: Any, params: Any, step: jax.Array | int, decay: float) -> Any:
    """The moving average of the parameters after update `step` (from 0); short at first, to forget the start."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(e.dtype) - e), ema, params)
