"""Words to token ids: the T5 vocabulary, with each marker `[ref#k]` as one token (paper section 3).

The text encoder is frozen, so a marker needs a token that T5 already knows: `[ref#k]` becomes its sentinel
<extra_id_{k-1}>. The 100 sentinels count down from 32099 as in T5's own checkpoints, and tables have 32128 rows.
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import tokenizers

MARKER = re.compile(r"\[ref#([1-9][0-9]*)\]")
MAX_MARKER = 100  # T5 has 100 sentinels
BUNDLED = Path(__file__).parent / "assets" / "t5_spiece.model"


class TokenizerError(ValueError):
    """A tokenizer file that is missing, unreadable or not of the T5 family."""


class Tokenizer:
    """Text to T5 token ids; made by `load_tokenizer`.

    Attributes:
      pad_id, eos_id: the ids of <pad> and </s> (0 and 1 in T5).
      size: how many ids there are (32100).
      vocab_size: rows of the embedding table, rounded up to a multiple of 128 as T5 does (32128).
    """

    def __init__(self, pieces: Callable[[str], list[int]], space: int, sentinels: list[int], pad_id: int, eos_id: int):
        self._pieces, self._space, self._sentinels = pieces, space, sentinels
        self.pad_id, self.eos_id = pad_id, eos_id
        self.size = max(sentinels) + 1
        self.vocab_size = -(-self.size // 128) * 128
        self._cached = functools.lru_cache(maxsize=1 << 16)(self._encode)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, ending with EOS. Neither padded nor cut. Raises ValueError above [ref#100]."""
        return list(self._cached(text))

    def marker_id(self, number: int) -> int:
        """The token id of `[ref#number]`. Raises ValueError outside 1..100."""
        if not 1 <= number <= MAX_MARKER:
            raise ValueError(f"[ref#{number}] is out of range; T5 has tokens for [ref#1] to [ref#{MAX_MARKER}]")
        return self._sentinels[number - 1]

    def _encode(self, text: str) -> tuple[int, ...]:
        parts = MARKER.split(text)  # plain, number, plain, number, ..., plain
        ids = self._pieces(parts[0])
        for number, plain in zip(parts[1::2], parts[2::2], strict=True):
            following = self._pieces(plain)
            if following[:1] == [self._space] and not plain[:1].isspace():
                following = following[1:]  # "[ref#1]." has no space before the stop, as in T5's pre-training
            ids = [*ids, self.marker_id(int(number)), *following]
        return (*ids, self.eos_id)


def load_tokenizer(path: str | os.PathLike = "") -> Tokenizer:
    """The bundled T5 v1.1 tokenizer (''), or a user's SentencePiece `*.model` or Hugging Face `*.json`.

    Raises TokenizerError when the file is missing, cannot be read, or lacks T5's special tokens.
    """
    path = Path(path) if path else BUNDLED
    readers = {".model": _from_sentencepiece, ".json": _from_tokenizers}
    if path.suffix not in readers:
        raise TokenizerError(f"{path}: a tokenizer is a .model or .json file; leave data.tokenizer empty for T5's")
    if not path.is_file():
        raise TokenizerError(f"{path}: no such tokenizer file; leave data.tokenizer empty for the bundled one")
    return readers[path.suffix](path)


def _from_sentencepiece(path: Path) -> Tokenizer:
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise TokenizerError(f"{path}: not a SentencePiece model; download the file again") from error
    if (model.pad_id(), model.eos_id()) != (0, 1):
        raise TokenizerError(f"{path}: pad and EOS are {model.pad_id()} and {model.eos_id()}; T5 has 0 and 1")
    size = model.get_piece_size()  # the sentinels are not in the model: they follow it, the first one last
    sentinels = [size + MAX_MARKER - k for k in range(1, MAX_MARKER + 1)]
    return Tokenizer(model.encode, model.piece_to_id("▁"), sentinels, model.pad_id(), model.eos_id())


def _from_tokenizers(path: Path) -> Tokenizer:
    try:
        model = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path}: not a tokenizer.json of the tokenizers library ({error})") from error
    names = ["<pad>", "</s>", "▁", *(f"<extra_id_{k}>" for k in range(MAX_MARKER))]
    ids = [model.token_to_id(name) for name in names]
    if None in ids:
        raise TokenizerError(f"{path}: lacks {names[ids.index(None)]}; use the tokenizer.json of a T5 model")
    model.no_truncation()
    model.no_padding()
    return Tokenizer(lambda text: model.encode(text, add_special_tokens=False).ids, ids[2], ids[3:], ids[0], ids[1])
