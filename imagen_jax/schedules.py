"""Noise schedules: continuous time t in [0, 1] <-> log signal-to-noise ratio <-> (alpha, sigma), variance preserving.

t = 0 is the picture and t = 1 is noise; z = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1 and logsnr =
log(alpha^2 / sigma^2). Paper: section 3 takes Imagen's continuous-time cosine schedule (2205.11487, section 2.1; the
bounded form is Kingma & Gao, 2303.00848). Networks are told logsnr, never t. A Schedule's curves take numpy and
return numpy in float64 (the samplers' time grid), or take JAX arrays and return those.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.types import Array

# DDPM's betas run from 1e-4 to 0.02 over 1000 steps (2006.11239); these are the rates a unit of time.
BETA_START, BETA_END = 0.1, 20.0


def choose(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """table[name], or a ValueError of one line that lists what `what` may be."""
    if name not in table:
        raise ValueError(f"{what} '{name}' is unknown: use one of {', '.join(table)}")
    return table[name]


def alpha_sigma(logsnr: Float[Array, "*B"]) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """alpha = sqrt(sigmoid(logsnr)) and sigma = sqrt(sigmoid(-logsnr)): neither is 1 minus the other, so both keep
    their relative precision at the extremes."""
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def resolution_shift(resolution: int, base_resolution: int) -> float:
    """2 log(base / resolution): the shift that gives a larger picture, averaged down to the base resolution, the
    signal-to-noise ratio of the base (Hoogeboom et al., 2301.11093, section 3.1)."""
    return 2 * math.log(base_resolution / resolution)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A curve logsnr(t), falling from logsnr_max + shift at t = 0 to logsnr_min + shift at t = 1.

    The bounds cut a piece out of the unbounded curve and t runs evenly over that piece.
    name: 'cosine' or 'linear' (DDPM's; with logsnr_min=-10.05 it ends where DDPM does).
    Raises ValueError for an unknown name or bounds in the wrong order.
    """

    name: str = "cosine"
    logsnr_min: float = -20.0
    logsnr_max: float = 20.0
    shift: float = 0.0

    def __post_init__(self):
        choose("schedule", self.name, _CURVES)
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(f"schedule: logsnr_min {self.logsnr_min} must be below logsnr_max {self.logsnr_max}")

    def logsnr(self, t: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """The log signal-to-noise ratio at time t."""
        curve, _ = _CURVES[self.name]
        return curve(t, self.logsnr_min, self.logsnr_max) + self.shift

    def t(self, logsnr: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """The time at which the schedule passes logsnr: the inverse of `logsnr`."""
        _, inverse = _CURVES[self.name]
        return inverse(logsnr - self.shift, self.logsnr_min, self.logsnr_max)


def _cosine(t, low: float, high: float):
    """-2 log tan(angle), the angle running from `start` to pi/2 - `end`; as a ratio of sines, since a float32 angle
    close to pi/2 has lost its distance from it."""
    xp, (start, span, end) = _array_module(t), _cosine_piece(low, high)
    return 2 * xp.log(xp.sin(end + span * (1 - t)) / xp.sin(start + span * t))


def _cosine_inverse(logsnr, low: float, high: float):
    xp, (start, span, _) = _array_module(logsnr), _cosine_piece(low, high)
    return (xp.arctan(xp.exp(-logsnr / 2)) - start) / span


def _cosine_piece(low: float, high: float) -> tuple[float, float, float]:
    start, end = math.atan(math.exp(-high / 2)), math.atan(math.exp(low / 2))
    return start, math.pi / 2 - start - end, end


def _linear(t, low: float, high: float):
    """alpha^2 = exp(-integral of beta), hence logsnr = -log(exp(integral) - 1); beta(u) is linear in u."""
    xp, start, end = _array_module(t), _linear_time(np.float64(high)), _linear_time(np.float64(low))
    u = float(start) + float(end - start) * t
    return -xp.log(xp.expm1(u * (BETA_START + u * (BETA_END - BETA_START) / 2)))


def _linear_inverse(logsnr, low: float, high: float):
    start, end = _linear_time(np.float64(high)), _linear_time(np.float64(low))
    return (_linear_time(logsnr) - float(start)) / float(end - start)


def _linear_time(logsnr):
    """The time u of the unbounded linear curve: the root of the quadratic, in the form that does not cancel."""
    xp = _array_module(logsnr)
    integral = xp.logaddexp(0.0, -logsnr)
    return 2 * integral / (BETA_START + xp.sqrt(BETA_START**2 + 2 * (BETA_END - BETA_START) * integral))


def _array_module(x):
    return jnp if isinstance(x, jax.Array) else np


_CURVES = {"cosine": (_cosine, _cosine_inverse), "linear": (_linear, _linear_inverse)}
