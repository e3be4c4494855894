"""Dense and Conv layers whose bfloat16 products a CPU's own units (AMX, AVX-512 BF16) take, in training too.

`jax.default_matmul_precision("bfloat16")` says that the factors of float32 products may be rounded to bfloat16, while
the sums stay float32. TPUs do it by themselves; XLA on a CPU pays no heed. There these layers round, and put every
product, those of the gradients too, in the one form that XLA hands to these units: rows x columns. JAX's gradients
are transposed products and convolutions, and get a tenth of the speed of AMX. Under any other setting, and on any other
platform, these layers are flax's own.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Contractions in training run over the places of a batch. XLA's product [64, 16384] @ [16384, 576] took 46 ms, four of
# this length 4 ms together (jax 0.12, two cores; measured once): the longer one leaves the cache.
SPAN = 4096


def _in_tiles() -> bool:
    return jax.config.jax_default_matmul_precision == "bfloat16" and jax.default_backend() == "cpu"


def dot_general(lhs, rhs, dimension_numbers, *arguments, **keywords):
    """lax.dot_general as nn.Dense calls it: [..., K] x [K, N] -> [..., N]."""
    if not _in_tiles():
        return lax.dot_general(lhs, rhs, dimension_numbers, *arguments, **keywords)
    y = _multiply(lhs.reshape(-1, lhs.shape[-1]), rhs)
    return y.reshape(*lhs.shape[:-1], -1).astype(lhs.dtype)


def conv_general_dilated(lhs, rhs, window_strides, padding, **keywords):
    """lax.conv_general_dilated as nn.Conv calls it for pictures: [B, H, W, C] x [h, w, C, N] -> [B, H', W', N]."""
    if not _in_tiles():
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **keywords)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    return _convolve(lhs, rhs, tuple(window_strides), tuple(map(tuple, padding))).astype(lhs.dtype)


Dense = functools.partial(nn.Dense, dot_general=dot_general)
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """[M, K] @ [K, N] -> [M, N], in tiles where the layers' products are."""
    return _product(a, b) if _in_tiles() else a @ b


def gram(a: jax.Array) -> jax.Array:
    """a^T @ a: [M, K] -> [K, K], in tiles where the layers' products are."""
    return _over_rows(a, a) if _in_tiles() else a.T @ a


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[M, K] @ [K, N], rounded to bfloat16, -> [M, N] float32."""
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _over_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """a^T @ b: [M, K], [M, N] -> [K, N] float32, M in spans."""
    # The row of zeros keeps XLA from folding the transposition into the product, which then is no rows x columns.
    turned = jnp.pad(a.T.astype(jnp.bfloat16), ((0, 1), (0, 0)))
    spans = [slice(start, start + SPAN) for start in range(0, len(a), SPAN)]
    return sum(_product(turned[:, span], b[span]) for span in spans)[:-1]


@jax.custom_vjp
def _multiply(x: jax.Array, w: jax.Array) -> jax.Array:
    return _product(x, w)


def _multiply_gradient(factors, g):
    x, w = factors
    return _product(g, w.T).astype(x.dtype), _over_rows(x, g).astype(w.dtype)


_multiply.defvjp(lambda x, w: (_product(x, w), (x, w)), _multiply_gradient)


def _patches(x: jax.Array, sides, strides, pads) -> jax.Array:
    """What each place of a convolution's output sees: [B, H, W, C] -> [B, H', W', h w C] bfloat16."""
    x = lax.pad(x.astype(jnp.bfloat16), jnp.bfloat16(0), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    ends = [size - side + 1 for size, side in zip(x.shape[1:3], sides, strict=True)]
    shifted = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(sides[0])
        for j in range(sides[1])
    ]
    return shifted[0] if len(shifted) == 1 else jnp.concatenate(shifted, axis=-1)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, w: jax.Array, strides, pads) -> jax.Array:
    seen = _patches(x, w.shape[:2], strides, pads)
    return _product(_flat(seen), _flat(w)).reshape(*seen.shape[:3], -1)


def _convolve_gradient(strides, pads, factors, g):
    x, w = factors
    seen = _patches(x, w.shape[:2], strides, pads)  # as in the forward pass: XLA keeps that one
    to_w = _over_rows(_flat(g), _flat(seen)).T.reshape(w.shape)
    spread = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *((0, 0, stride - 1) for stride in strides), (0, 0, 0)])
    before = [side - 1 - low for side, (low, _) in zip(w.shape, pads, strict=False)]
    after = [x.shape[i + 1] + w.shape[i] - 1 - before[i] - spread.shape[i + 1] for i in range(2)]
    backwards = w[::-1, ::-1].swapaxes(2, 3)
    to_x = _convolve(spread, backwards, (1, 1), tuple(zip(before, after, strict=True)))
    return to_x.astype(x.dtype), to_w.astype(w.dtype)


_convolve.defvjp(lambda x, w, strides, pads: (_convolve(x, w, strides, pads), (x, w)), _convolve_gradient)
