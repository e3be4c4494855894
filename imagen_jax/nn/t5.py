"""The T5 1.1 encoder (Raffel et al. 2020; Shazeer 2020 for the gated MLP), the paper's text encoder.

The paper conditions every network on a frozen T5-XXL (section 3; appendix Table 5); the small configs train a tiny one
together with the UNet. Parameters carry T5X's names and shapes, so published weights load without renaming layers.
bfloat16 compute is fine; float16 is not: the activations of the large sizes overflow it.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from imagen_jax.nn.products import Dense
from imagen_jax.partition import split_batch
from imagen_jax.types import Array


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of one encoder. `vocab_size` is the tokenizer's, padded: 32,000 pieces, 100 sentinels, 28 unused."""

    emb: int
    heads: int
    mlp: int
    layers: int
    head_dim: int = 64
    vocab_size: int = 32128
    buckets: int = 32  # of relative positions, half for each direction
    max_distance: int = 128  # at and beyond it, all positions share the last bucket
    epsilon: float = 1e-6
    scan: bool = False  # run the layers as a loop: the same parameters, a program that compiles sooner


T5_SIZES = {
    "small": T5Config(emb=512, heads=6, mlp=1024, layers=8),
    "base": T5Config(emb=768, heads=12, mlp=2048, layers=12),
    "large": T5Config(emb=1024, heads=16, mlp=2816, layers=24),
    "xl": T5Config(emb=2048, heads=32, mlp=5120, layers=24),
    "xxl": T5Config(emb=4096, heads=64, mlp=10240, layers=24),
}


def relative_position_bucket(offset: np.ndarray, buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """Bucket of each `offset` = key position - query position; same shape, values in [0, buckets).

    The first half of the buckets is for keys at or before the query, the second for keys after it. In each half the
    near offsets have a bucket of their own and the rest are spaced logarithmically up to `max_distance`.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # log2 and not log: exact at powers of two, where a bucket begins.
    octaves = np.log2(np.maximum(distance, 1) / exact) / np.log2(max_distance / exact)
    far = exact + np.floor(octaves * (half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return bucket + half * (offset > 0)


class RelativePositionBias(nn.Module):
    """One learned number a head and bucket, shared by all layers."""

    config: T5Config

    @nn.compact
    def __call__(self, length: int) -> Array:
        """Bias of the attention logits, [1, heads, length, length] (query, key), float32."""
        cfg = self.config
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        table = self.param("rel_embedding", init, (cfg.heads, cfg.buckets), jnp.float32)
        position = np.arange(length)
        bucket = relative_position_bucket(position[None, :] - position[:, None], cfg.buckets, cfg.max_distance)
        return table.astype(jnp.float32)[None, :, bucket]


class Attention(nn.Module):
    """Self-attention without biases, and without 1/sqrt(head_dim): the query's initialisation absorbs it."""

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, bias: Array, mask: Array) -> Array:  # x [B, L, D]; bias [1, N, L, L]; mask [B, L]
        cfg = self.config
        dense = functools.partial(Dense, use_bias=False, dtype=self.dtype)
        query_init = nn.initializers.variance_scaling(1 / cfg.head_dim, "fan_in", "truncated_normal")
        width = cfg.heads * cfg.head_dim
        query = dense(width, kernel_init=query_init, name="query")(x)
        key = dense(width, name="key")(x)
        value = dense(width, name="value")(x)
        query, key, value = (a.reshape(*a.shape[:-1], cfg.heads, cfg.head_dim) for a in (query, key, value))
        # Logits and softmax are float32 in here whatever the dtype of the inputs.
        y = jax.nn.dot_product_attention(query, key, value, bias=bias, mask=mask[:, None, None, :], scale=1.0)
        return dense(cfg.emb, name="out")(y.reshape(*y.shape[:-2], width))


class GatedMLP(nn.Module):
    """gelu(x wi_0) * (x wi_1), then wo; gelu is the tanh approximation ('gelu_new')."""

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [B, L, D]
        dense = functools.partial(Dense, use_bias=False, dtype=self.dtype)
        gate = jax.nn.gelu(dense(self.config.mlp, name="wi_0")(x), approximate=True)
        return dense(self.config.emb, name="wo")(gate * dense(self.config.mlp, name="wi_1")(x))


class Layer(nn.Module):
    """Attention, then MLP, each on the RMS-normalised residual stream. The norms compute in float32."""

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, bias: Array, mask: Array) -> Array:
        norm = functools.partial(nn.RMSNorm, epsilon=self.config.epsilon, dtype=self.dtype)
        x = split_batch(x)
        y = norm(name="pre_attention_layer_norm")(x)
        x = x + Attention(self.config, self.dtype, name="attention")(y, bias, mask)
        y = norm(name="pre_mlp_layer_norm")(x)
        return split_batch(x + GatedMLP(self.config, self.dtype, name="mlp")(y))


class Encoder(nn.Module):
    """The stack of layers and the closing norm: embeddings in, features out, [B, L, D]."""

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        bias = RelativePositionBias(self.config, name="relpos_bias")(x.shape[-2])
        if self.config.scan and not self.is_initializing():
            x = self._loop(x, bias, mask)
        else:
            for i in range(self.config.layers):
                x = Layer(self.config, self.dtype, name=f"layers_{i}")(x, bias, mask)
        return nn.RMSNorm(epsilon=self.config.epsilon, dtype=self.dtype, name="encoder_norm")(x)

    def _loop(self, x: Array, bias: Array, mask: Array) -> Array:
        """The layers, their parameters stacked here and not in the tree: published checkpoints have them apart."""
        layers = (self.variables["params"][f"layers_{i}"] for i in range(self.config.layers))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        layer = Layer(self.config, self.dtype, parent=None)
        x, _ = jax.lax.scan(lambda x, params: (layer.apply({"params": params}, x, bias, mask), None), x, stacked)
        return x


class T5Encoder(nn.Module):
    """Token ids to features: `T5Encoder(config, dtype).apply({"params": params}, tokens, mask)`."""

    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        """Encode `tokens` [*B, L] int under `mask` [*B, L] bool (True at real tokens): [*B, L, emb] in `dtype`.

        Masked positions have no influence on the others and come out as zeros, so an empty text is all zeros.
        An id outside the vocabulary gives NaN.
        """
        cfg, shape = self.config, tokens.shape
        tokens, mask = tokens.reshape(-1, shape[-1]), mask.reshape(-1, shape[-1])
        init = nn.initializers.normal(1.0)
        embed = nn.Embed(cfg.vocab_size, cfg.emb, dtype=self.dtype, embedding_init=init, name="token_embedder")
        y = Encoder(cfg, self.dtype, name="encoder")(embed(tokens), mask)
        return jnp.where(mask[..., None], y, 0).reshape(*shape, cfg.emb)
