"""The types every floor of the house shares: an instruction's arrays, its encoding, and the Denoiser contract.

Axis letters: B batch, K reference slots, L text tokens, T context tokens a reference, D features,
H W image height and width. Image arrays are uint8 in [0, 255] on the host and float32 in [-1, 1] (z, x0) in the
diffusion. Paper: section 3 (multi-modal instruction), appendix Table 5 (architecture).
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array


@flax.struct.dataclass
class Text:
    """Token ids and their padding mask; with `features` the text encoder has run already."""

    tokens: Array  # [*B, L] int32
    mask: Array  # [*B, L] bool, True at real tokens
    features: Array | None = None  # [*B, L, D], zeros at the padding: read from records, or None


@flax.struct.dataclass
class Context:
    """K reference slots an example: pictures, their short texts, and which slots are filled."""

    images: Array  # [B, K, H, W, 3] uint8
    text: Text  # [B, K, L]
    mask: Array  # [B, K] bool, True at filled slots


@flax.struct.dataclass
class Batch:
    """One training batch: targets and packed instructions."""

    image: Array  # [B, H, W, 3] uint8, the target
    text: Text  # [B, L]
    context: Context
    task: Array  # [B] int32, index into the loader's task names
    index: Array  # [B] int64 on the host, the example's position in the stream


@flax.struct.dataclass
class Cond:
    """An encoded instruction: computed once, read at every denoising step. Every leaf leads with B.

    `text` and `context` hold what the UNet's cross-attention reads: the text's tokens [B, L, D] and, for each row of
    blocks, the references' [B, K * T, D]; or for each row and each of its layers (keys, values) of [B, 1 + L, heads,
    head_dim] or [B, 1 + K * T, heads, head_dim] (model.scan: the layers stacked on axis 1).
    """

    text: Any
    text_mask: Array  # [B, L] bool
    context: Any = None
    context_mask: Array | None = None  # [B, K] bool
    pooled: Array | None = None  # [B, D] attention-pooled text
    context_pooled: Array | None = None  # [B, D] attention-pooled references, where the model has them
    lowres: Array | None = None  # [B, h, w, 3] in [-1, 1], the augmented low-resolution picture (super-resolution)
    lowres_logsnr: Array | None = None  # [B] the augmentation level that the model is told

    def drop(self, *, text: Array | bool = False, context: Array | bool = False) -> "Cond":
        """Hide the text and / or all references of the examples where the flag ([B] or one bool) is True."""

        def hide(mask, flag):
            return None if mask is None else mask & ~jnp.asarray(flag, bool).reshape(-1, 1)

        return self.replace(text_mask=hide(self.text_mask, text), context_mask=hide(self.context_mask, context))


# (z [B, H, W, 3], logsnr [B], cond) -> x0 [B, H, W, 3]. Samplers, guidance and evaluation know only this.
Denoiser = Callable[[Array, Array, Cond], Array]
