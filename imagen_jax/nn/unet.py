"""The Efficient U-Net of Imagen with Instruct-Imagen's context encoder (paper, appendix Table 5).

One class serves the base model and super-resolution. The down half, with the same weights, also encodes each reference
picture together with its own text; its last feature map, flattened, is what the context attention reads.

Our reading of Table 5, which leaves the block's inside open and fits all three published sizes (tests/test_unet.py):
DBlock-k opens with a strided convolution to its channel count, the first one on the picture itself. UBlock-k ends with
a convolution to the next level's count and then up-samples. Each of their blocks is one residual block of that channel
count with a 1x1 shortcut, then text attention, then context attention. A UBlock reads the output of its mirror DBlock
by concatenation, scaled by 1/sqrt(2). Text is projected once to heads * head_dim. There is no self-attention.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.nn.attention import AttentionPool, CrossAttention, sine_code
from imagen_jax.nn.layers import GroupNorm, ResidualBlock, conv3x3, depth_to_space, logsnr_embedding, upsample
from imagen_jax.schedules import choose
from imagen_jax.types import Cond

# What comes up from a lower level enters at a fifth of its size. It carries the text and grows fast in the first steps;
# at full size the normalisation then drowns the picture's own detail, and training from scratch stands still for
# hundreds of steps (WORKSPACE.md has the figures).
LOWER_LEVEL_GAIN = 0.2


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Shape of one UNet. Levels count from 1 as in Table 5; level k works at image_size / 2^k."""

    channels: tuple[int, ...]  # of each level
    blocks: tuple[int, ...]  # DBlocks, and as many UBlocks, of each level
    text_levels: tuple[int, ...]  # levels whose blocks attend to the text
    context_levels: tuple[int, ...]  # levels whose blocks attend to the references; () for super-resolution
    heads: int
    head_dim: int
    cond_channels: int  # width of the time + pooled text embedding
    context_zero_start: bool  # True: the adapted model equals the one it takes over (stage 1)
    context_positions: bool  # 2-D sine code on context queries and keys; the paper states none
    lowres: bool  # True: super-resolution, conditioned on a low-resolution picture
    dtype: str = "float32"
    upsample: str = "nearest"  # Table 5; or 'shuffle': the convolution writes four times the channels, depth to space
    context_pool: bool = False  # references join the time embedding too, pooled as the text is
    remat: str = "none"  # 'block': the backward pass computes each block again from its inputs, all that is kept of it


class Block(nn.Module):
    """One DBlock or UBlock row of Table 5: a residual block, then text attention, then context attention."""

    channels: int
    text: bool
    context: bool
    config: UNetConfig

    def setup(self):
        c = self.config
        self.residual = ResidualBlock(self.channels, c.dtype)
        if self.text:
            self.text_attention = CrossAttention(self.channels, c.heads, c.head_dim, dtype=c.dtype)
        if self.context:
            self.context_attention = CrossAttention(
                self.channels, c.heads, c.head_dim, c.context_zero_start, c.context_positions, c.dtype
            )

    def text_keys_values(self, tokens: jax.Array):
        return self.text_attention.keys_values(tokens) if self.text else None

    def context_keys_values(self, tokens: jax.Array, positions: jax.Array | None):
        return self.context_attention.keys_values(tokens, positions) if self.context else None

    def __call__(self, x, emb, text, text_mask, context=None, context_mask=None, skip=None) -> jax.Array:
        if skip is not None:  # joined in here, so that remat keeps the two parts and no copy of both
            x = jnp.concatenate([x, skip * 2**-0.5], axis=-1)
        x = self.residual(x, emb)
        if self.text:
            x = self.text_attention(x, text, text_mask)
        if self.context and context is not None:
            x = self.context_attention(x, context, context_mask)
        return x


class UNet(nn.Module):
    """`encode` an instruction once, then call with (z, logsnr, cond) at every step; the output is v (or eps, x0)."""

    config: UNetConfig

    def setup(self):
        c = self.config
        levels = range(1, len(c.channels) + 1)
        inner = c.heads * c.head_dim
        block = choose("model.remat", c.remat, {"none": Block, "block": nn.remat(Block)})

        def blocks(level: int) -> list[Block]:
            text, context = level in c.text_levels, level in c.context_levels
            return [block(c.channels[level - 1], text, context, c) for _ in range(c.blocks[level - 1])]

        self.downsample = [conv3x3(width, c.dtype, stride=2) for width in c.channels]
        self.down = [blocks(level) for level in levels]
        self.up = [blocks(level) for level in reversed(levels)]
        finer = c.channels[-2::-1]
        if choose("model.upsample", c.upsample, {"nearest": False, "shuffle": True}):
            self.shuffle = [conv3x3(4 * width, c.dtype) for width in finer]
        else:
            self.upsample = [conv3x3(width, c.dtype) for width in finer]
        self.out_norm = GroupNorm(c.dtype)
        self.out_film = nn.Dense(2 * c.channels[0], dtype=c.dtype)
        self.out = conv3x3(4 * 3, "float32", kernel_init=nn.initializers.zeros)
        self.time_in, self.time_out = (nn.Dense(c.cond_channels, dtype=c.dtype) for _ in range(2))
        self.text_norm = nn.LayerNorm(dtype=c.dtype)
        self.text_in = nn.Dense(inner, dtype=c.dtype)
        self.pool = AttentionPool(c.cond_channels, c.heads, c.head_dim, c.dtype)
        self.null_pooled = self.param("null_pooled", nn.initializers.zeros, (c.cond_channels,))
        if c.lowres:
            self.aug_in, self.aug_out = (nn.Dense(c.cond_channels, dtype=c.dtype) for _ in range(2))
        if c.context_levels:
            self.context_norm = nn.LayerNorm(dtype=c.dtype)
        if c.context_levels and c.context_pool:
            self.context_pool = AttentionPool(c.cond_channels, c.heads, c.head_dim, c.dtype, zero_start=True)

    # -- the instruction, once ------------------------------------------------------------------------------------

    def encode(self, text: jax.Array, text_mask: jax.Array, context: tuple | None = None) -> Cond:
        """Text features [B, L, D] and their mask, and optionally context = (images [B, K, H, W, 3] in [-1, 1],
        their text features [B, K, L, D], text mask [B, K, L], slot mask [B, K]) -> Cond with keys and values."""
        tokens = self._text_tokens(text)
        blocks = [block for level in (*self.down, *self.up) for block in level]
        cond = Cond(
            text=tuple(block.text_keys_values(tokens) for block in blocks),
            text_mask=text_mask,
            pooled=self.pool(tokens, text_mask),
        )
        if context is None or not self.config.context_levels:
            return cond
        *pictures, mask = context
        feature_map = self._encode_references(*pictures)  # [B, K, h, w, C]
        positions = self._positions(*feature_map.shape[1:])
        tokens = feature_map.reshape(feature_map.shape[0], -1, feature_map.shape[-1])
        cond = cond.replace(
            context=tuple(block.context_keys_values(tokens, positions) for block in blocks), context_mask=mask
        )
        if not self.config.context_pool:
            return cond
        return cond.replace(context_pooled=self.context_pool(tokens, self._token_mask(cond)))

    def _text_tokens(self, text: jax.Array) -> jax.Array:
        return self.text_in(self.text_norm(text))

    def _encode_references(self, images: jax.Array, text: jax.Array, text_mask: jax.Array) -> jax.Array:
        """The down half on each clean reference under its own text: [B, K, H, W, 3] -> [B, K, h, w, C]."""
        batch, slots = images.shape[:2]
        images, text, text_mask = (x.reshape(batch * slots, *x.shape[2:]) for x in (images, text, text_mask))
        tokens = self._text_tokens(text)
        text_kv = tuple(block.text_keys_values(tokens) for level in self.down for block in level)
        clean = jnp.full((batch * slots,), 20.0)  # log-SNR at its maximum
        own = Cond(text=text_kv, text_mask=text_mask, pooled=self.pool(tokens, text_mask))
        feature_map, _ = self._down(images, self._embedding(clean, own), own)
        return self.context_norm(feature_map).reshape(batch, slots, *feature_map.shape[1:])

    def _positions(self, slots: int, height: int, width: int, channels: int) -> jax.Array | None:
        return jnp.tile(sine_code(height, width, channels), (slots, 1)) if self.config.context_positions else None

    # -- every denoising step -------------------------------------------------------------------------------------

    def __call__(self, z: jax.Array, logsnr: jax.Array, cond: Cond) -> jax.Array:
        """z [B, H, W, 3], logsnr [B] -> [B, H, W, 3] float32."""
        emb = self._embedding(logsnr, cond)
        if self.config.lowres:
            lowres = jax.image.resize(cond.lowres, z.shape, "bilinear")
            z = jnp.concatenate([z, lowres.astype(z.dtype)], axis=-1)
            emb = emb + self.aug_out(nn.swish(self.aug_in(logsnr_embedding(cond.lowres_logsnr, emb.shape[-1]))))
        context_mask = self._token_mask(cond)
        h, skips = self._down(z, emb, cond, context_mask)
        return self._up(h, skips, emb, cond, context_mask)

    def _embedding(self, logsnr: jax.Array, cond: Cond) -> jax.Array:
        """Noise level plus pooled text (dropped text reads a learned vector), plus pooled references."""
        emb = self.time_out(nn.swish(self.time_in(logsnr_embedding(logsnr, self.config.cond_channels))))
        has_text = cond.text_mask.any(axis=-1, keepdims=True)
        emb = emb + jnp.where(has_text, cond.pooled, self.null_pooled.astype(emb.dtype))
        if cond.context_pooled is None:
            return emb
        return emb + jnp.where(cond.context_mask.any(axis=-1, keepdims=True), cond.context_pooled, 0.0)

    def _token_mask(self, cond: Cond) -> jax.Array | None:
        """[B, K] slots -> [B, K * T] tokens."""
        if cond.context is None:
            return None
        keys = next(kv[0] for kv in cond.context if kv is not None)
        return jnp.repeat(cond.context_mask, (keys.shape[1] - 1) // cond.context_mask.shape[1], axis=1)

    def _down(self, x, emb, cond, context_mask=None) -> tuple[jax.Array, list[jax.Array]]:
        h, skips, layer = x.astype(self.config.dtype), [], 0
        for downsample, blocks in zip(self.downsample, self.down, strict=True):
            h = downsample(h)
            for block in blocks:
                h = block(h, emb, cond.text[layer], cond.text_mask, _at(cond.context, layer), context_mask)
                skips.append(h)
                layer += 1
        return h, skips

    def _finer(self, index: int, h: jax.Array) -> jax.Array:
        """From a level to the next finer one: [B, h, w, C] -> [B, 2h, 2w, C']."""
        if self.config.upsample == "shuffle":
            return depth_to_space(self.shuffle[index](h))
        return upsample(self.upsample[index](h))

    def _up(self, h, skips, emb, cond, context_mask) -> jax.Array:
        layer = len(skips)
        for index, blocks in enumerate(self.up):
            for block in blocks:
                context = _at(cond.context, layer)
                h = block(h, emb, cond.text[layer], cond.text_mask, context, context_mask, skips.pop())
                layer += 1
            if index + 1 < len(self.up):
                h = LOWER_LEVEL_GAIN * self._finer(index, h)
        return depth_to_space(self.out(nn.swish(self.out_norm(h, self.out_film(nn.swish(emb)))).astype(jnp.float32)))


def _at(layers: Sequence | None, index: int):
    return None if layers is None else layers[index]


def make_unet(model) -> UNet:
    """UNet from the `model` section of a config (experiments/common.py)."""
    # The keys with defaults are newer than some runs' configs; any other missing key is an error.
    sizes = {f.name: model[f.name] for f in dataclasses.fields(UNetConfig) if f.name in model}
    # A config that has been through JSON has lists, which are no static argument of jit.
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    return UNet(UNetConfig(lowres=model.lowres_size > 0, **sizes))
