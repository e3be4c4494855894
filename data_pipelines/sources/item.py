"""What a reader of a published data set gives: items before their wording, and what it had to leave out.

A reader is a module of data_pipelines/sources with HELP, ABOUT (or about(arguments), where the input decides),
add_arguments(parser) and items(arguments); the common runner (data_pipelines/prepare_dataset.py) decodes, words, splits
and writes. The readers stand in for the rows of the paper's Table 1.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np

Pixels = np.ndarray | bytes | PathLike  # [h, w, 3] uint8, an encoded file's bytes, or its path


class SourceError(ValueError):
    """A data set that cannot be read at all: one line with the file, what is wrong, and the mend."""


@dataclass(frozen=True)
class About:
    """Where a data set comes from and under which terms: printed before it is read, and kept in the manifest."""

    title: str
    licence: str
    citation: str
    home: str


@dataclass(frozen=True)
class Item:
    """One example before its wording; the references are (short text, picture), in the order of their markers."""

    key: str  # unique in the data set and the same in every run: names the item, and decides its phrasing
    task: str  # a name of data_pipelines/templates
    target: Pixels
    caption: str = ""
    change: str = ""
    text: str = ""  # the whole instruction, where the data set words it itself; [ref#1] is the first reference
    references: Sequence[tuple[str, Pixels]] = ()
    group: str = ""  # items of one group (identity, subject) never straddle splits; '' is the key itself
    split: str = ""  # the data set's own split; '' is chosen by the hash of the group


@dataclass(frozen=True)
class Skip:
    """Something left out: one broken item must not stop the other million."""

    where: str  # file, file:line or key
    reason: str  # counted in the manifest under these words: 'broken image', 'truncated tar'


def told(skipped: Counter) -> str:
    """'3 broken image, 1 no caption', or 'none'."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()) if count) or "none"
