"""The rows of the paper's Table 5: several DBlocks or UBlocks of one level, one after another.

They are written out (`list[Block]`), or, with `model.scan`, one traced Block that a loop runs over stacked parameters:
the program is then smaller by the number of blocks and compiles so much faster, as deep models on TPUs want it.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.nn.attention import CrossAttention, Tokens
from imagen_jax.nn.layers import ResidualBlock, group_count
from imagen_jax.partition import split_batch
from imagen_jax.schedules import choose

DTYPES = ("float32", "bfloat16")  # float16 overflows in T5
UPSAMPLES, REMATS = ("nearest", "shuffle"), ("none", "block")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Shape of one UNet. Levels count from 1 as in Table 5; level k works at image_size / 2^k."""

    channels: tuple[int, ...]  # of each level
    blocks: tuple[int, ...]  # DBlocks, and as many UBlocks, of each level
    text_levels: tuple[int, ...]  # levels whose blocks attend to the text
    context_levels: tuple[int, ...]  # levels whose blocks attend to the references' map of that level, in rising order
    heads: int
    head_dim: int
    cond_channels: int  # width of the time + pooled text embedding
    context_zero_start: bool  # True: the adapted model equals the one it takes over (stage 1)
    context_positions: bool  # 2-D sine code on context queries and keys; the paper states none
    lowres: bool  # True: super-resolution, conditioned on a low-resolution picture
    dtype: str = "float32"
    context_in_place: tuple[int, ...] = ()  # of context_levels, those that read the same place of each reference only
    upsample: str = "nearest"  # Table 5; or 'shuffle': the convolution writes four times the channels, depth to space
    self_levels: tuple[int, ...] = ()  # levels whose blocks attend to their own map; the paper has none
    context_pool: bool = False  # references join the time embedding too, pooled as the text is
    remat: str = "none"  # 'block': the backward pass computes each block again from its inputs, all that is kept of it
    scan: bool = False  # the blocks of a level are a loop over stacked parameters

    def __post_init__(self):
        count = len(self.channels)
        for key in ("text_levels", "context_levels", "context_in_place", "self_levels"):
            if missing := [level for level in getattr(self, key) if not 1 <= level <= count]:
                raise ValueError(f"model.{key}: there is no level {missing[0]}, model.channels has levels 1 to {count}")
        if len(self.blocks) != count:
            raise ValueError(f"model.blocks={self.blocks} needs a number for each of model.channels={self.channels}")
        if odd := [width for width in self.channels if not _normalisable(width)]:
            raise ValueError(
                f"model.channels={self.channels}: {odd[0]} does not divide into the groups of the normalisation; use "
                "multiples of 4 up to 64, of 16 below 128, then of 32"
            )
        for key, known in (("dtype", DTYPES), ("upsample", UPSAMPLES), ("remat", REMATS)):
            choose(f"model.{key}", getattr(self, key), dict.fromkeys(known))


def _normalisable(width: int) -> bool:
    """Whether GroupNorm takes so many channels, and twice as many: UBlocks read them beside a skip."""
    return width >= 4 and not any(channels % group_count(channels) for channels in (width, 2 * width))


class Block(nn.Module):
    """One DBlock or UBlock row of Table 5: a residual block, then attention to itself, to text and to context."""

    channels: int
    text: bool
    context: bool
    in_place: bool
    itself: bool
    config: UNetConfig

    def setup(self):
        c = self.config
        self.residual = ResidualBlock(self.channels, c.dtype)
        if self.itself:
            self.self_attention = CrossAttention(self.channels, c.heads, c.head_dim, zero_start=True, dtype=c.dtype)
        if self.text:
            self.text_attention = CrossAttention(self.channels, c.heads, c.head_dim, dtype=c.dtype)
        if self.context:
            self.context_attention = CrossAttention(
                self.channels, c.heads, c.head_dim, c.context_zero_start, c.context_positions, self.in_place, c.dtype
            )

    def keys_values(self, kind: str, tokens: Tokens):
        """What the 'text' or the 'context' attention makes of its tokens; None where there is none."""
        return getattr(self, f"{kind}_attention").keys_values(tokens) if getattr(self, kind) else None

    def __call__(self, x, emb, text, text_mask, context=None, context_mask=None, skip=None) -> jax.Array:
        if skip is not None:  # joined in here, so that remat keeps the two parts and no copy of both
            x = jnp.concatenate([x, skip * 2**-0.5], axis=-1)
        x = self.residual(split_batch(x), emb)
        if self.itself:
            x = self.self_attention(x, None)
        if self.text:
            x = self.text_attention(x, text, text_mask)
        if self.context and context is not None:
            x = self.context_attention(x, context, context_mask)
        return split_batch(x)


class ScannedBlocks(nn.Module):
    """The equal Blocks of a level as a loop: parameters are stacked on axis 0, keys and values on axis 1."""

    config: UNetConfig
    level: int

    def setup(self):
        self.block = _make_block(self.config, self.level)

    @property
    def count(self) -> int:
        return self.config.blocks[self.level - 1]

    def keys_values(self, kind: str, tokens: Tokens):
        """As each block's own."""
        each = nn.vmap(
            lambda block, tokens: block.keys_values(kind, tokens), variable_axes={"params": 0},
            split_rngs={"params": True}, in_axes=None, out_axes=1, axis_size=self.count,
        )  # fmt: skip
        return each(self.block, tokens)

    def __call__(self, x, emb, text, text_mask, context=None, context_mask=None, skips=None):
        """Returns x and the output of every block, [count, B, H, W, C].

        The UBlock of parameters i reads skips[i], so it runs from the last to the first.
        """

        shared = [source if isinstance(source, Tokens) else None for source in (text, context)]
        own = [None if isinstance(source, Tokens) else source for source in (text, context)]

        def step(block, x, text, context, skip):
            x = block(x, emb, shared[0] or text, text_mask, shared[1] or context, context_mask, skip)
            return x, (x if skip is None else None)

        loop = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=(1, 1, 0), length=self.count,
            reverse=skips is not None,
        )  # fmt: skip
        return loop(self.block, x, *own, skips)


def make_row(config: UNetConfig, level: int) -> list[Block] | ScannedBlocks:
    """The DBlocks, or the UBlocks, of a level; call it in the setup of a module."""
    if config.scan:
        return ScannedBlocks(config, level)
    return [_make_block(config, level) for _ in range(config.blocks[level - 1])]


def _make_block(config: UNetConfig, level: int) -> Block:
    kind = nn.remat(Block, prevent_cse=not config.scan) if config.remat == "block" else Block
    reads = config.text_levels, config.context_levels, config.context_in_place, config.self_levels
    reads = (level in levels for levels in reads)
    return kind(config.channels[level - 1], *reads, config)


def keys_values(row: list[Block] | ScannedBlocks, kind: str, tokens: Tokens):
    """What the 'text' or 'context' attention of each block of a row makes of its tokens, for `run_row`."""
    if isinstance(row, ScannedBlocks):
        return row.keys_values(kind, tokens)
    return tuple(block.keys_values(kind, tokens) for block in row)


def run_row(row: list[Block] | ScannedBlocks, x, emb, text, text_mask, context=None, context_mask=None, skips=None):
    """The blocks of a row in turn: x and, for DBlocks, the outputs that the UBlocks of the level read as `skips`.

    `text` and `context` are Tokens, or the `keys_values` of the row.
    """
    if isinstance(row, ScannedBlocks):
        return row(x, emb, text, text_mask, context, context_mask, skips)
    outputs = []
    for i, block in enumerate(row):
        skip = None if skips is None else skips[-1 - i]
        x = block(x, emb, part_of(text, i), text_mask, part_of(context, i), context_mask, skip)
        outputs.append(x)
    return x, outputs


def part_of(source, index: int):
    """What row or block `index` reads of a Cond's text or context: all of the same tokens, or its own projections."""
    return source if source is None or isinstance(source, Tokens) else source[index]
