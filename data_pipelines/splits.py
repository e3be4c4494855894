"""Which split an item belongs to: decided by its group alone, so that no identity is trained on and tested on.

The paper's faces are grouped by identity and its subjects by object (section 3.2); every prepared data set deals its
groups in this one way, so a group lies in the same split in all of them.
"""

import argparse
import hashlib
import itertools
from collections.abc import Sequence

from data_pipelines.corpus import SPLITS
from data_pipelines.sources.item import Item, SourceError


def parse_shares(text: str) -> tuple[float, ...]:
    """--splits: the shares of training, validation and test."""
    shares = tuple(float(share) for share in text.split(","))
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"'{text}': give three shares that sum to 1, such as 0.96,0.02,0.02")
    return shares


def stable_hash(text: str) -> int:
    """64 bits of a text, which may be a file's name that is not UTF-8; the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def deal(group: str, shares: Sequence[float]) -> str:
    """The split of a group by its name alone: the same in every data set that names it, of either stage."""
    ends = list(itertools.accumulate(shares))
    place = stable_hash(group) / 2**64 * ends[-1]
    return next((name for name, end in zip(SPLITS, ends, strict=True) if place < end), SPLITS[-1])


class Splitter:
    """Deals items to splits so that no group is in two."""

    def __init__(self, shares: tuple[float, float, float]):
        self._shares = shares
        self._keys: set[int] = set()
        self._groups: dict[int, str] = {}  # of named groups: what they were dealt

    def is_new(self, item: Item) -> bool:
        """Whether this key comes for the first time."""
        known = len(self._keys)
        self._keys.add(stable_hash(item.key))
        return len(self._keys) > known

    def split(self, item: Item) -> str:
        """The item's own split, or that of its group. Raises SourceError for a group in two."""
        group = stable_hash(item.group)
        known = self._groups.get(group)
        split = item.split or known or deal(item.group or item.key, self._shares)
        if split not in SPLITS:
            raise SourceError(f"{item.key}: split '{split}' is none of {', '.join(SPLITS)}")
        if known not in (None, split):
            raise SourceError(
                f"identity leak: group '{item.group}' is in {known} and, with {item.key}, in {split}: mend the data "
                "set's split, so that each identity is in one"
            )
        if item.group:
            self._groups[group] = split
        return split
