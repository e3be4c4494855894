"""The optimizer and the moving average (paper, appendix: Adafactor, beta1 0.9, beta2 0.999, EMA 0.9999).

Adafactor as a drop-in for Adam: second moments of matrices are kept as a row and a column mean, beta2 is a constant
with Adam's bias correction, the update of each array is clipped to a root mean square of 1, and the rate is absolute
(not relative to the size of the parameter). Super-resolution may use Adam, as Imagen does. Muon is our own choice for
short runs: every kernel's momentum as the nearest orthogonal matrix (Jordan et al. 2024), the rest by Adafactor.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from imagen_jax.muon import scale_by_muon

EPS = {"adafactor": 1e-30, "adam": 1e-8, "muon": 1e-30}
UPDATE_RMS = 1.0  # Adafactor's clipping of each array's update
MUON = r"(^|/)kernel$"  # the parameters that are matrices, but for
NOT_MUON = r"^unet/out/"  # the layer that writes the output: the usual rule


class OptimError(ValueError):
    """The optimizer's config is wrong."""


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Gradients -> updates to add to the parameters.

    Args:
      config: `optim` of the experiment: name, learning_rate, warmup_steps (0: none), decay_share (0: none), beta1,
        beta2, eps (0: the rule's own; Adafactor adds it to the squared gradient, 1e-30, Adam to the root, 1e-8),
        clip_norm (global gradient norm, 0: off).
      steps: updates of the whole run.

    Raises:
      OptimError: an unknown name, or a decay_share that is none.
    """
    if config.name not in EPS:
        raise OptimError(f"optim.name={config.name!r} is unknown; choose one of {', '.join(EPS)}")
    if not 0 <= config.decay_share <= 1:
        raise OptimError(f"optim.decay_share={config.decay_share} is no share of the steps: choose one from 0 to 1")
    scale = {"adafactor": _scale_by_adafactor, "adam": optax.scale_by_adam, "muon": _scale_by_muon}[config.name]
    eps = config.eps or EPS[config.name]
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        scale(config.beta1, config.beta2, eps),
        optax.scale_by_learning_rate(lambda step: learning_rate(config, step, steps)),
    )


def _scale_by_adafactor(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=beta2, epsilon=eps, decay_rate_fn=bias_corrected_decay),
        optax.clip_by_block_rms(UPDATE_RMS),
        optax.ema(beta1, debias=False),  # no bias correction: the warm-up covers the first steps
    )


def _scale_by_muon(*of_adafactor) -> optax.GradientTransformation:
    def kind(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "muon" if re.search(MUON, name) and not re.search(NOT_MUON, name) else "rest"

    rules = {"muon": scale_by_muon(), "rest": _scale_by_adafactor(*of_adafactor)}
    return optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(kind, params))


def bias_corrected_decay(step: jax.Array, beta2: float) -> jax.Array:
    """The decay at update `step` (from 0) that makes a running mean equal Adam's bias-corrected second moment.

    b_t = beta2 (1 - beta2^(t-1)) / (1 - beta2^t), t = step + 1: zero at first, beta2 in the end.
    """
    log_beta2 = jnp.log(jnp.float32(beta2))
    t = jnp.asarray(step, jnp.float32) + 1
    decay = beta2 * jnp.expm1((t - 1) * log_beta2) / jnp.expm1(t * log_beta2)
    return jax.lax.optimization_barrier(decay)  # XLA would fuse it into, and repeat it for, every element


def learning_rate(config: ConfigDict, step: jax.Array | int, steps: int) -> jax.Array:
    """The rate of update `step` (from 0) of `steps`.

    It rises evenly to `learning_rate` over `warmup_steps` updates, and falls evenly to 0 over the last ones, of all
    steps the `decay_share`.
    """
    rise = (step + 1) / max(1, config.warmup_steps)
    fall = (steps - step) / (config.decay_share * steps) if config.decay_share else 1.0
    return config.learning_rate * jnp.clip(jnp.minimum(rise, fall), 0.0, 1.0)


def ema_update(ema: Any, params: Any, step: jax.Array | int, decay: float) -> Any:
    """The moving average of the parameters after update `step` (from 0); short at first, to forget the start."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(e.dtype) - e), ema, params)
