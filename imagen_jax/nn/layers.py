"""Convolutional blocks of the UNet (paper, Table 5; Imagen, appendix B): normalisation, residual block, resampling.

Feature maps are channels-last, [B, H, W, C]. Statistics are float32 whatever the compute dtype.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.nn.products import Conv, Dense

Dtype = Any


def logsnr_embedding(logsnr: jax.Array, features: int) -> jax.Array:
    """Sinusoidal embedding of the noise level: [B] -> [B, features].

    The log-SNR is first mapped to the cosine schedule's own time, a bounded and even scale (t in [0, 1]).
    """
    t = jnp.arctan(jnp.exp(-0.5 * jnp.clip(logsnr, -20.0, 20.0))) / (0.5 * jnp.pi)
    frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), features // 2))
    angles = jnp.pi * t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def group_count(channels: int) -> int:
    """The groups that so many channels are normalised in; they must divide."""
    return min(32, channels // 4)


class GroupNorm(nn.Module):
    """Group normalisation with an optional scale and shift from the conditioning (FiLM), in one multiply-add.

    Mean and variance are taken per channel first and then per group, so that XLA makes a single pass over x:
    flax's own module costs as much as a convolution in the backward pass on a CPU.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, film: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        groups = group_count(channels)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x32 = x.astype(jnp.float32)
        moments = jnp.stack([x32.mean((1, 2)), jnp.square(x32).mean((1, 2))])  # [2, B, C]
        moments = moments.reshape(2, -1, groups, channels // groups).mean(-1, keepdims=True)
        mean, variance = moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)  # [B, G, 1]
        a = jax.lax.rsqrt(variance + 1e-5) * scale.reshape(groups, -1)  # [B, G, C / G]
        a, b = a.reshape(-1, channels), (bias.reshape(groups, -1) - mean * a).reshape(-1, channels)
        if film is not None:
            gain, shift = jnp.split(film.astype(jnp.float32), 2, axis=-1)
            a, b = a * (1.0 + gain), b * (1.0 + gain) + shift
        return (x32 * a[:, None, None] + b[:, None, None]).astype(self.dtype)


class ResidualBlock(nn.Module):
    """[GroupNorm, swish, 3x3 convolution] x 2 with scale-shift conditioning, plus a 1x1 shortcut."""

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        """x [B, H, W, C_in], emb [B, E] -> [B, H, W, channels]."""
        film = Dense(2 * self.channels, dtype=self.dtype, name="film")(nn.swish(emb))
        h = nn.swish(GroupNorm(self.dtype, name="norm_1")(x))
        h = conv3x3(self.channels, self.dtype, name="conv_1")(h)
        h = nn.swish(GroupNorm(self.dtype, name="norm_2")(h, film))
        # The block starts as its shortcut: deep stacks then train from the first step.
        h = conv3x3(self.channels, self.dtype, kernel_init=nn.initializers.zeros, name="conv_2")(h)
        return h + Conv(self.channels, (1, 1), dtype=self.dtype, name="shortcut")(x)


def conv3x3(features: int, dtype: Dtype, *, stride: int = 1, name: str | None = None, **kwargs) -> nn.Conv:
    """3x3 convolution, SAME padding; stride 2 is the DBlock's down-sampling."""
    return Conv(features, (3, 3), strides=stride, dtype=dtype, name=name, **kwargs)


def upsample(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 2H, 2W, C], nearest neighbour: after the convolution, which then costs a quarter."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def depth_to_space(x: jax.Array) -> jax.Array:
    """[B, H, W, 4 C] -> [B, 2H, 2W, C]: the four channels of a pixel become its four quarters."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).swapaxes(2, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)
