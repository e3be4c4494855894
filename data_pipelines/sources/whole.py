"""What the builders of corpora share: all or nothing on disk, and shares of the splits that every part gets.

The corpora stand in for the paper's training data (section 4.1); it evaluates on unseen subjects (section 5).
"""

import hashlib
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_pipelines.corpus import SPLITS, CorpusError, tile_size
from data_pipelines.record_writer import claim

SPAWN = multiprocessing.get_context("spawn")  # a fork beside the progress bar's thread may hang
LOSSLESS = {"lossless": True, "method": 1, "quality": 20}  # how Pillow writes WebP: the fast end
SHARES = (("test", 0.12), ("validation", 0.06))  # the rest is 'train'
GOLDEN_RATIO = 0.6180339887498949


def check_size(size: int) -> None:
    """Raise CorpusError unless pictures of `size` pixels can be built."""
    if not 32 <= size <= 512:
        raise CorpusError(f"--size={size}: must lie in 32..512 pixels")


def is_complete(output: Path, size: int) -> bool:
    """Whether the corpus is there already, which it then says. Raises CorpusError when something else stands there."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / "manifest.json").is_file():
        raise CorpusError(f"{output}: holds something else than a corpus: choose another --output")
    if tile_size(output) != size:
        raise CorpusError(f"{output}: holds pictures of {tile_size(output)} px, not {size}: choose another --output")
    print(f"{output} is complete: nothing to do (delete it to build it again)")
    return True


def write_whole(output: Path, write: Callable[[Path], Counter]) -> Counter:
    """Let `write` fill a temporary folder beside `output`, then rename it: all or nothing.

    What a killed run left there is removed first.
    """
    temporary = output.with_name(f"{output.name}.tmp")
    with claim(temporary):
        try:
            counts = write(temporary)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        (temporary / "lock").unlink()
        if output.exists():
            output.rmdir()  # empty: the caller has checked
        os.replace(temporary, output)
    return counts


def stable_hash(text: str) -> str:
    """An order of subjects that has nothing to do with what they show and never changes."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_evenly(ordered: Sequence[str]) -> dict[str, str]:
    """Each root of a sequence -> 'train' | 'validation' | 'test'.

    A golden-ratio sequence along the order gives every stretch of it its share, whatever its length.
    """
    return {root: _share((i * GOLDEN_RATIO) % 1.0) for i, root in enumerate(ordered)}


def _share(position: float) -> str:
    """Where a point of [0, 1) falls among the shares."""
    for split, share in SHARES:
        if position < share:
            return split
        position -= share
    return "train"


def print_counts(counts: Mapping[tuple[str, str], int], licences: Mapping[str, str]) -> None:
    """A table of pictures by style and split ((style, split) -> number), with the licence of each style."""
    print(f"{'style':<16}" + "".join(f"{split:>12}" for split in SPLITS) + "  licence")
    for style in dict.fromkeys(style for style, _ in counts):
        numbers = "".join(f"{counts[style, split]:>12,}" for split in SPLITS)
        print(f"{style:<16}{numbers}  {licences[style]}")
    totals = "".join(f"{sum(n for (_, at), n in counts.items() if at == split):>12,}" for split in SPLITS)
    print(f"{'total':<16}{totals}")
