"""The floating-point operations of a traced program: its dot products and convolutions, as XLA counts them.

Taps of a convolution that fall on its padding are free, a loop's body counts as often as it runs, and a branch as the
mean of its sides (the paper's guidance takes turns).
"""

import math
from collections.abc import Iterator

import numpy as np
from jax.extend import core


def flops(jaxpr: core.Jaxpr) -> float:
    """Multiplications and additions of all dot products and convolutions."""
    return sum(_flops_of(eqn) for eqn in jaxpr.eqns)


def _flops_of(eqn: core.JaxprEqn) -> float:
    if eqn.primitive.name == "dot_general":
        (contracting, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * eqn.outvars[0].aval.size * math.prod(lhs[axis] for axis in contracting)
    if eqn.primitive.name == "conv_general_dilated":
        return _convolution_flops(eqn)
    bodies = [flops(jaxpr) for jaxpr in inner(eqn)]
    if eqn.primitive.name == "cond":
        return sum(bodies) / len(bodies)
    return sum(bodies) * eqn.params.get("length", 1)


def _convolution_flops(eqn: core.JaxprEqn) -> float:
    p, (lhs, rhs), out = eqn.params, (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    names = p["dimension_numbers"]
    taps = 1
    for i, (low, _) in enumerate(p["padding"]):
        size, kernel, outs = (s[spec[2 + i]] for s, spec in zip((lhs, rhs, out), names, strict=True))
        # Position, in the dilated input, that each tap of each output reads.
        at = np.arange(outs)[:, None] * p["window_strides"][i] - low + np.arange(kernel) * p["rhs_dilation"][i]
        spread = p["lhs_dilation"][i]
        taps *= int(((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)).sum())
    batch, features = (out[axis] for axis in names.out_spec[:2])
    return 2.0 * batch * features * taps * rhs[names.rhs_spec[1]]


def inner(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside an equation: of a call, a loop or the sides of a branch."""
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
