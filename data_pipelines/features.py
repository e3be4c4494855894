"""Text features stored beside the words that they are of, so that training reads them and needs no text encoder.

The paper's T5 is frozen (section 3.3), so a text has the same features in every epoch. In a record they are one part,
[tokens, D] of the instruction and then of each reference, without padding, and {"part", "dtype", "tokens"} in its JSON.
`python -m data_pipelines.embed_text` puts them there.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from imagen_jax.types import Context, Text

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
MEND = (
    "python -m data_pipelines.embed_text --input {folder} --output ROOT --weights T5 makes a set that does, or set "
    "text_encoder.precomputed=False"
)
UNWORDED = (
    "holds clusters, whose words are drawn when read, so no features can be stored: text_encoder.precomputed=False"
)


class FeatureError(ValueError):
    """Stored text features that are damaged, or not those of the text beside them."""


def join(features: Sequence[np.ndarray]) -> tuple[bytes, dict[str, Any]]:
    """Features [n, D] of several texts -> the bytes of a record's part, and what its JSON says about it."""
    about = {"dtype": features[0].dtype.name, "tokens": [len(rows) for rows in features]}
    return b"".join(np.ascontiguousarray(rows).tobytes() for rows in features), about


def split(part: bytes | memoryview, about: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """The features [n, D] of each text; views. Raises FeatureError where bytes and numbers do not fit."""
    dtype, tokens = DTYPES.get(about["dtype"]), [int(count) for count in about["tokens"]]
    row = sum(tokens) * dtype.itemsize if dtype is not None and min(tokens, default=0) > 0 else 0
    if not row or not len(part) or len(part) % row:
        raise FeatureError(
            f"text features of {len(part)} bytes are not {tokens} tokens of {about['dtype']}: embed again"
        )
    rows = np.frombuffer(part, dtype).reshape(sum(tokens), -1)
    return tuple(rows[a:b] for a, b in itertools.pairwise(itertools.accumulate(tokens, initial=0)))


def pack(features: Sequence[np.ndarray], text: Text, context: Context, width: int) -> tuple[Text, Context]:
    """Put the features of an instruction into its packed arrays: [L, width] and [K, Lr, width], zeros at the padding.

    Raises FeatureError where they are of other tokens, or of another width.
    """
    own, *others = features
    filled = int(context.mask.sum())
    if len(others) != filled:
        raise FeatureError(f"text features of {len(others)} references, the instruction has {filled}: embed again")
    slots = np.zeros((*context.text.mask.shape, width), own.dtype)
    for slot, rows in enumerate(others):
        slots[slot] = _padded(rows, context.text.mask[slot], width)
    text = text.replace(features=_padded(own, text.mask, width))
    return text, context.replace(text=context.text.replace(features=slots))


def _padded(rows: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    if rows.shape != (mask.sum(), width):
        wanted = [int(mask.sum()), width]
        raise FeatureError(
            f"text features are {list(rows.shape)}, the model reads {wanted} (tokens, text_encoder.emb): embed again "
            "with its text encoder and data.tokenizer"
        )
    padded = np.zeros((len(mask), width), rows.dtype)
    padded[mask] = rows
    return padded
