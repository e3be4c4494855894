"""Pictures that show one subject, identity or style: which serve as references for which, and how a subject is called.

Each picture is a target once; its references are others of its group (paper section 3: subject-driven sets are grouped
by identity). A function of the seed and the picture's key alone, so neither order nor number of workers matters.
"""

import argparse
import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def add_references_argument(parser: argparse.ArgumentParser) -> None:
    """--references: the most references of an example."""
    words = "most references of an example; 1 to K are drawn (3)"
    parser.add_argument("--references", type=int, default=3, choices=range(1, 17), metavar="K", help=words)


def choose_references(key: str, others: Sequence[T], most: int, seed: int) -> list[T]:
    """1 to `most` different ones of `others`, which must not hold the target itself; every count is as likely."""
    rng = np.random.default_rng((seed, zlib.crc32(key.encode(errors="surrogatepass"))))
    count = rng.integers(1, min(most, len(others)) + 1)
    return [others[i] for i in rng.choice(len(others), count, replace=False)]


def with_article(noun: str) -> str:
    """'fox' -> 'a fox', 'action figure' -> 'an action figure'; plurals such as 'sunglasses' take none."""
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    return ("an " if noun[:1].lower() in tuple("aeiou") else "a ") + noun


def join_words(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
