"""Attention of a feature map to text, to references or to itself, and attention pooling (paper, appendix Table 5).

Keys and values are computed apart from the queries: the tokens do not change during sampling, so they are projected
once for all denoising steps. In training, under one noise, a layer makes them itself where it reads them.
Each layer owns one learned null key and value: "no token at all" is a valid input.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.nn.products import Dense

Dtype = Any


class Tokens(NamedTuple):
    """What cross-attention is given to read, [B, S, D]: for the keys with the position code, if there is one, added."""

    values: jax.Array
    keys: jax.Array


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """The UNet's attention kernel: q [B, Q, N, d], k, v [B, S, N, d], mask [B, S] -> like q."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])


def attend_in_place(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """As `attend`, but each place of q's grid sees the null pair and the same place of every reference only.

    q [B, Q, N, d], k and v [B, 1 + K Q, N, d] with the null pair first, mask [B, K] of references -> like q. It costs
    what K keys do, where `attend` has K Q.
    """

    def by_reference(x):
        return x[:, 1:].reshape(x.shape[0], -1, *q.shape[1:])  # [B, K, Q, N, d]

    q = q * q.shape[-1] ** -0.5
    null = (q * k[:, :1]).sum(-1, dtype=jnp.float32)
    others = (q[:, None] * by_reference(k)).sum(-1, dtype=jnp.float32)
    others = jnp.where(mask[..., None, None], others, -jnp.inf)
    logits = jnp.concatenate([null[:, None], others], axis=1)  # [B, 1 + K, Q, N]
    weights = jax.nn.softmax(logits, axis=1).astype(q.dtype)[..., None]
    return weights[:, 0] * v[:, :1] + (weights[:, 1:] * by_reference(v)).sum(1)


def of_tokens(mask: jax.Array, count: int) -> jax.Array:
    """[B, K] of slots, each of as many tokens, -> [B, count] of tokens; one of tokens stays as it is."""
    return jnp.repeat(mask, count // mask.shape[1], axis=1)


def sine_code(height: int, width: int, features: int) -> jax.Array:
    """Fixed 2-D code [height * width, features] of the relative coordinates, so that grids of any size align.

    Its amplitude of 2, against features of unit variance, lets equal places find each other from the start.
    """
    frequencies = jnp.pi * jnp.exp(jnp.linspace(0.0, jnp.log(16.0), features // 4))
    y = (jnp.arange(height) + 0.5)[:, None] / height * frequencies  # [H, F]
    x = (jnp.arange(width) + 0.5)[:, None] / width * frequencies  # [W, F]
    y, x = (jnp.concatenate([jnp.sin(a), jnp.cos(a)], axis=-1) for a in (y, x))
    y, x = jnp.repeat(y, width, axis=0), jnp.tile(x, (height, 1))
    return 2.0 * jnp.concatenate([y, x], axis=-1)


class CrossAttention(nn.Module):
    """x + out(attention(norm(x), tokens)); `zero_start` makes the layer an identity at initialisation.

    `in_place`: each place of x attends to the same place of the tokens' grids only, and needs no code for where it is.
    """

    channels: int
    heads: int
    head_dim: int
    zero_start: bool = False
    positions: bool = False
    in_place: bool = False
    dtype: Dtype = jnp.float32

    def setup(self):
        inner = self.heads * self.head_dim
        self.norm = nn.LayerNorm(dtype=self.dtype)
        dense = functools.partial(Dense, inner, use_bias=False, dtype=self.dtype)
        aligned = self._equal_start() if self._coded else nn.initializers.lecun_normal()
        self.query, self.key, self.value = dense(kernel_init=aligned), dense(kernel_init=aligned), dense()
        out_init = nn.initializers.zeros if self.zero_start else nn.initializers.lecun_normal()
        self.out = Dense(self.channels, use_bias=False, kernel_init=out_init, dtype=self.dtype)
        self.null = self.param("null", nn.initializers.normal(1.0), (2, self.heads, self.head_dim))

    @property
    def _coded(self) -> bool:
        return self.positions and not self.in_place

    def _equal_start(self):
        """Queries and keys start as one projection: with the position code, each place looks at its own place."""
        shared = self.make_rng("params") if self.is_initializing() else None
        return lambda key, *args: nn.initializers.lecun_normal()(key if shared is None else shared, *args)

    def keys_values(self, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, 1 + S, heads, head_dim], the null pair first."""
        shape = (*tokens.values.shape[:2], self.heads, self.head_dim)
        pair = self.key(tokens.keys).reshape(shape), self.value(tokens.values).reshape(shape)
        nulls = jnp.broadcast_to(self.null[:, None, None].astype(self.dtype), (2, shape[0], 1, *shape[2:]))
        return tuple(jnp.concatenate([null, y], axis=1) for null, y in zip(nulls, pair, strict=True))

    def __call__(self, x: jax.Array, source: Tokens | tuple | None, mask: jax.Array | None = None) -> jax.Array:
        """x [B, H, W, C], S tokens or their `keys_values`, mask [B, S] or [B, K] of slots -> [B, H, W, C].

        Without a source it reads x itself: self-attention.
        """
        batch, height, width, channels = x.shape
        h = self.norm(x.reshape(batch, height * width, channels))
        if source is None:
            source, mask = Tokens(h, h), jnp.ones((batch, 1), bool)
        keys_values = self.keys_values(source) if isinstance(source, Tokens) else source
        if self._coded:
            h = h + sine_code(height, width, channels).astype(self.dtype)
        q = self.query(h).reshape(batch, height * width, self.heads, self.head_dim)
        if self.in_place:
            h = attend_in_place(q, *keys_values, mask)
        else:
            mask = of_tokens(mask, keys_values[0].shape[1] - 1)
            h = attend(q, *keys_values, jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True))  # null: always visible
        return x + self.out(h.reshape(batch, height * width, -1)).reshape(x.shape)


class AttentionPool(nn.Module):
    """One learned query over the tokens (Imagen's pooled text): [B, L, D], mask [B, L] or of slots -> [B, features]."""

    features: int
    heads: int
    head_dim: int
    dtype: Dtype = jnp.float32
    zero_start: bool = False  # the pooled vector is zero at initialisation

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        shape = (*tokens.shape[:2], self.heads, self.head_dim)
        mask = of_tokens(mask, shape[1])
        k, v = (Dense(self.heads * self.head_dim, dtype=self.dtype, name=n)(tokens) for n in ("key", "value"))
        query = self.param("query", nn.initializers.normal(1.0), (self.heads, self.head_dim)).astype(self.dtype)
        query = jnp.broadcast_to(query, (shape[0], 1, *shape[2:]))
        pooled = attend(query, k.reshape(shape), v.reshape(shape), mask | ~mask.any(-1, keepdims=True))
        out_init = nn.initializers.zeros if self.zero_start else nn.initializers.lecun_normal()
        out = Dense(self.features, dtype=self.dtype, kernel_init=out_init, name="out")
        return out(pooled.reshape(shape[0], -1))
