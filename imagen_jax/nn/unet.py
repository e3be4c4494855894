"""The Efficient U-Net of Imagen with Instruct-Imagen's context encoder (paper, appendix Table 5).

One class serves the base model and super-resolution. The down half, with the same weights, also encodes each reference
picture together with its own text; its feature maps, flattened, are what the context attention reads, each level's
the one of its own resolution. The paper has that attention at the last level only.

Our reading of Table 5, which leaves the block's inside open and fits all three published sizes (tests/test_unet.py):
DBlock-k opens with a strided convolution to its channel count, the first one on the picture itself. UBlock-k ends with
a convolution to the next level's count and then up-samples. Each of their blocks is one residual block of that channel
count with a 1x1 shortcut, then text attention, then context attention. A UBlock reads the output of its mirror DBlock
by concatenation, scaled by 1/sqrt(2). Text is projected once to heads * head_dim. Self-attention is ours
(`self_levels`), off at the paper's size.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.nn.attention import AttentionPool, Tokens, sine_code
from imagen_jax.nn.blocks import UNetConfig, keys_values, make_row, part_of, run_row
from imagen_jax.nn.layers import GroupNorm, conv3x3, depth_to_space, logsnr_embedding, upsample
from imagen_jax.nn.products import Dense
from imagen_jax.types import Cond

# What comes up from a lower level enters at a fifth of its size. It carries the text and grows fast in the first steps;
# at full size the normalisation then drowns the picture's own detail, and training from scratch stands still for
# hundreds of steps (WORKSPACE.md has the figures).
LOWER_LEVEL_GAIN = 0.2


class UNet(nn.Module):
    """`encode` an instruction once, then call with (z, logsnr, cond) at every step; the output is v (or eps, x0)."""

    config: UNetConfig

    def setup(self):
        c = self.config
        levels = range(1, len(c.channels) + 1)
        inner = c.heads * c.head_dim
        self.downsample = [conv3x3(width, c.dtype, stride=2) for width in c.channels]
        self.down = [make_row(c, level) for level in levels]
        self.up = [make_row(c, level) for level in reversed(levels)]
        finer = c.channels[-2::-1]
        if c.upsample == "shuffle":
            self.shuffle = [conv3x3(4 * width, c.dtype) for width in finer]
        else:
            self.upsample = [conv3x3(width, c.dtype) for width in finer]
        self.out_norm = GroupNorm(c.dtype)
        self.out_film = Dense(2 * c.channels[0], dtype=c.dtype)
        self.out = conv3x3(4 * 3, "float32", kernel_init=nn.initializers.zeros)
        self.time_in, self.time_out = (Dense(c.cond_channels, dtype=c.dtype) for _ in range(2))
        self.text_norm = nn.LayerNorm(dtype=c.dtype)
        self.text_in = Dense(inner, dtype=c.dtype)
        self.pool = AttentionPool(c.cond_channels, c.heads, c.head_dim, c.dtype)
        self.null_pooled = self.param("null_pooled", nn.initializers.zeros, (c.cond_channels,))
        if c.lowres:
            self.aug_in, self.aug_out = (Dense(c.cond_channels, dtype=c.dtype) for _ in range(2))
        if c.context_levels:
            self.context_norm = nn.LayerNorm(dtype=c.dtype)  # of the last of these levels
            self.finer_context_norms = [nn.LayerNorm(dtype=c.dtype) for _ in c.context_levels[:-1]]
        if c.context_levels and c.context_pool:
            self.context_pool = AttentionPool(c.cond_channels, c.heads, c.head_dim, c.dtype, zero_start=True)

    # -- the instruction, once ------------------------------------------------------------------------------------

    def encode(self, text: jax.Array, text_mask: jax.Array, context: tuple | None = None, project: bool = True) -> Cond:
        """Text features [B, L, D] and their mask, and optionally context = (images [B, K, H, W, 3] in [-1, 1],
        their text features [B, K, L, D], text mask [B, K, L], slot mask [B, K]) -> Cond.

        With `project` it holds the keys and values of every layer, for many denoising steps or noisy copies; without it
        the tokens, which take less memory: for one step, as in training under one noise.
        """
        tokens = self._text_tokens(text)
        cond = Cond(text=tokens, text_mask=text_mask, pooled=self.pool(tokens.values, text_mask))
        if context is not None and self.config.context_levels:
            *pictures, mask = context
            of_level = self._encode_references(*pictures)
            rows = tuple(of_level.get(level) for level in self._levels_of_rows())
            cond = cond.replace(context=rows, context_mask=mask)
            if self.config.context_pool:
                cond = cond.replace(context_pooled=self.context_pool(of_level[max(of_level)].values, mask))
        return self._project(cond) if project else cond

    def _project(self, cond: Cond) -> Cond:
        rows = (*self.down, *self.up)
        text = tuple(keys_values(row, "text", cond.text) for row in rows)
        if cond.context is None:
            return cond.replace(text=text)
        pairs = zip(rows, cond.context, strict=True)
        context = tuple(None if tokens is None else keys_values(row, "context", tokens) for row, tokens in pairs)
        return cond.replace(text=text, context=context)

    def _levels_of_rows(self) -> tuple[int, ...]:
        """The level of each row: down, then up."""
        levels = range(1, len(self.config.channels) + 1)
        return (*levels, *reversed(levels))

    def _text_tokens(self, text: jax.Array) -> Tokens:
        tokens = self.text_in(self.text_norm(text))
        return Tokens(tokens, tokens)

    def _encode_references(self, images: jax.Array, text: jax.Array, text_mask: jax.Array) -> dict[int, Tokens]:
        """The down half on each clean reference under its own text: [B, K, H, W, 3] -> {level: [B, K h w, C]}."""
        c, slots = self.config, images.shape[1]
        images, text, text_mask = (x.reshape(-1, *x.shape[2:]) for x in (images, text, text_mask))
        tokens = self._text_tokens(text)
        clean = jnp.full(images.shape[:1], 20.0)  # log-SNR above all of the schedule's: no noise
        own = Cond(text=tokens, text_mask=text_mask, pooled=self.pool(tokens.values, text_mask))
        lowest, outputs = self._down(images, self._embedding(clean, own), own)
        # A loop of which only the end is read keeps no more: so not outputs[-1][-1].
        ends = {level: lowest if level == len(outputs) else outputs[level - 1][-1] for level in c.context_levels}
        norms = dict(zip(c.context_levels, (*self.finer_context_norms, self.context_norm), strict=True))
        return {level: self._as_tokens(norms[level](end), slots, level) for level, end in ends.items()}

    def _as_tokens(self, feature_map: jax.Array, slots: int, level: int) -> Tokens:
        """[B K, h, w, C] -> [B, K h w, C]."""
        height, width, channels = feature_map.shape[1:]
        tokens = feature_map.reshape(-1, slots * height * width, channels)
        if not self.config.context_positions or level in self.config.context_in_place:
            return Tokens(tokens, tokens)
        positions = jnp.tile(sine_code(height, width, channels), (slots, 1))
        return Tokens(tokens, tokens + positions.astype(tokens.dtype))

    # -- every denoising step -------------------------------------------------------------------------------------

    def __call__(self, z: jax.Array, logsnr: jax.Array, cond: Cond) -> jax.Array:
        """z [B, H, W, 3], logsnr [B] -> [B, H, W, 3] float32."""
        emb = self._embedding(logsnr, cond)
        if self.config.lowres:
            lowres = jax.image.resize(cond.lowres, z.shape, "bilinear")
            z = jnp.concatenate([z, lowres.astype(z.dtype)], axis=-1)
            emb = emb + self.aug_out(nn.swish(self.aug_in(logsnr_embedding(cond.lowres_logsnr, emb.shape[-1]))))
        h, skips = self._down(z, emb, cond)
        return self._up(h, skips, emb, cond)

    def _embedding(self, logsnr: jax.Array, cond: Cond) -> jax.Array:
        """Noise level plus pooled text (dropped text reads a learned vector), plus pooled references."""
        emb = self.time_out(nn.swish(self.time_in(logsnr_embedding(logsnr, self.config.cond_channels))))
        has_text = cond.text_mask.any(axis=-1, keepdims=True)
        emb = emb + jnp.where(has_text, cond.pooled, self.null_pooled.astype(emb.dtype))
        if cond.context_pooled is None:
            return emb
        return emb + jnp.where(cond.context_mask.any(axis=-1, keepdims=True), cond.context_pooled, 0.0)

    def _down(self, x, emb, cond) -> tuple[jax.Array, list]:
        h, skips = x.astype(self.config.dtype), []
        for level, (downsample, row) in enumerate(zip(self.downsample, self.down, strict=True)):
            text, context = part_of(cond.text, level), part_of(cond.context, level)
            h, outputs = run_row(row, downsample(h), emb, text, cond.text_mask, context, cond.context_mask)
            skips.append(outputs)
        return h, skips

    def _finer(self, index: int, h: jax.Array) -> jax.Array:
        """From a level to the next finer one: [B, h, w, C] -> [B, 2h, 2w, C']."""
        if self.config.upsample == "shuffle":
            return depth_to_space(self.shuffle[index](h))
        return upsample(self.upsample[index](h))

    def _up(self, h, skips, emb, cond) -> jax.Array:
        for index, row in enumerate(self.up):
            number = index + len(self.down)
            text, context = part_of(cond.text, number), part_of(cond.context, number)
            h, _ = run_row(row, h, emb, text, cond.text_mask, context, cond.context_mask, skips.pop())
            if index + 1 < len(self.up):
                h = LOWER_LEVEL_GAIN * self._finer(index, h)
        return depth_to_space(self.out(nn.swish(self.out_norm(h, self.out_film(nn.swish(emb)))).astype(jnp.float32)))


def make_unet(model) -> UNet:
    """UNet from the `model` section of a config (experiments/common.py)."""
    # The keys with defaults are newer than some runs' configs; any other missing key is an error.
    sizes = {f.name: model[f.name] for f in dataclasses.fields(UNetConfig) if f.name in model}
    # A config that has been through JSON has lists, which are no static argument of jit.
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    return UNet(UNetConfig(lowres=model.lowres_size > 0, **sizes))
