"""Builds the corpus folder: draws every picture, splits by root subject, removes duplicates, writes it at once or not
at all. The fixture script builds its smaller corpus with the same function, so no subject ever changes split.

`python -m data_pipelines.prepare emoji` runs it. Stands in for the paper's training data (section 4.1).
"""

import argparse
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipelines.corpus import SPLITS, CorpusError, SheetWriter, tile_size, write_index
from data_pipelines.sources.emoji import duplicates, packages, styles
from data_pipelines.sources.emoji.names import Subject
from data_pipelines.sources.emoji.render import Drawing, render
from data_pipelines.sources.emoji.split import roots, split_roots

HELP = "the emoji corpus: about 27,000 drawings of 3,126 subjects in 12 styles, from npm packages"
_SPAWN = multiprocessing.get_context("spawn")  # a fork beside the progress bar's thread may hang
LOSSLESS = {"lossless": True, "method": 1, "quality": 20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare emoji`."""
    parser.add_argument("--output", type=Path, default=Path("data/emoji"), help="folder to make (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=Path("data/cache/npm"), help="folder of fetched packages (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Fetch, draw, split and write. Raises FetchError or CorpusError, one line, and then leaves nothing behind."""
    output = arguments.output
    if not 32 <= arguments.size <= 512:
        raise CorpusError(f"--size={arguments.size}: must lie in 32..512 pixels")
    if is_complete(output, arguments.size):
        print(f"{output} is complete: nothing to do (delete it to build it again)")
        return
    subjects = styles.open_subjects(arguments.cache)
    drawings = styles.open_drawings(subjects, arguments.cache)
    counts = write_whole(output, partial(build, subjects, drawings, arguments.size, dict.fromkeys(drawings, LOSSLESS)))
    print_counts(counts)
    print(f"wrote {output}")


def is_complete(output: Path, size: int) -> bool:
    """Whether the corpus is there already. Raises CorpusError when something else stands in its place."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / "manifest.json").is_file():
        raise CorpusError(f"{output}: holds something else than a corpus: choose another --output")
    if tile_size(output) != size:
        raise CorpusError(f"{output}: holds pictures of {tile_size(output)} px, not {size}: choose another --output")
    return True


def write_whole(output: Path, write: Callable[[Path], Counter]) -> Counter:
    """Let `write` fill a temporary folder beside `output`, then rename it: all or nothing."""
    temporary = output.with_name(f"{output.name}.tmp{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        counts = write(temporary)
        if output.exists():
            output.rmdir()  # empty: the caller has checked
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def build(
    subjects: Mapping[str, Subject],
    drawings: Mapping[str, Mapping[str, Drawing]],
    size: int,
    encodings: Mapping[str, Mapping],
    folder: Path,
) -> Counter:
    """Write the corpus of `drawings` (style -> hexcode -> drawing) into an existing, empty folder.

    `subjects` are all of Unicode's, since the split is made over all. Returns pictures by (style, split).
    """
    root_by_hexcode = roots(subjects)
    split_by_root = split_roots(root_by_hexcode, subjects)
    split = {code: split_by_root[root] for code, root in root_by_hexcode.items()}
    pictures, thumbnails = _draw(drawings, size, encodings, folder)
    kept = _without_duplicates(pictures, thumbnails, split)
    rows = [_row(subjects[code], root_by_hexcode[code], split[code], kept[code]) for code in subjects if code in kept]
    sources = {style: styles.source(style) for style in drawings}
    write_index(folder, size, sources, packages.NAMES.origin(), rows)
    return Counter((style, _split_of(style, split[code])) for code, tiles in kept.items() for style in tiles)


def _draw(drawings, size, encodings, folder) -> tuple[list[tuple[str, str, int]], np.ndarray]:
    """Every picture as (style, hexcode, tile number), and its thumbnails [N, 32, 32, 4]; writes the sheets."""
    pictures, thumbnails = [], []
    total = sum(map(len, drawings.values()))
    with ProcessPoolExecutor(mp_context=_SPAWN) as pool, tqdm(total=total, unit="picture") as progress:
        for style, by_hexcode in drawings.items():
            progress.set_description(style)
            writer = SheetWriter(folder, style, size, **encodings[style])
            tiles = pool.map(partial(render, size=size), by_hexcode.values(), chunksize=16)
            for code, tile in zip(by_hexcode, tiles, strict=True):
                pictures.append((style, code, writer.add(tile)))
                thumbnails.append(_thumbnail(tile))
                progress.update()
            writer.flush()
    return pictures, np.stack(thumbnails)


def _thumbnail(tile: np.ndarray) -> np.ndarray:
    side = duplicates.THUMBNAIL
    return np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.BOX))


def _without_duplicates(pictures, thumbnails: np.ndarray, split: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Hexcode -> style -> tile number of the pictures that stay."""
    ranks = np.array([SPLITS.index(_split_of(style, split[code])) for style, code, _ in pictures])
    leaves = duplicates.duplicated(thumbnails, ranks)
    kept: dict[str, dict[str, int]] = {}
    for (style, code, number), leaving in zip(pictures, leaves, strict=True):
        if not leaving:
            kept.setdefault(code, {})[style] = number
    return kept


def _split_of(style: str, split: str) -> str:
    return "test" if style in styles.HELD_OUT else split


def _row(subject: Subject, root: str, split: str, tiles: Mapping[str, int]) -> list[str]:
    places = " ".join(f"{style}:{number}" for style, number in tiles.items())
    keywords = "|".join(subject.keywords)
    return [subject.hexcode, root, split, subject.name, keywords, subject.group, subject.subgroup, places]


def print_counts(counts: Counter) -> None:
    """A table of pictures by style and split, with the licence of each style."""
    print(f"{'style':<16}" + "".join(f"{split:>12}" for split in SPLITS) + "  licence")
    for style in dict.fromkeys(style for style, _ in counts):
        numbers = "".join(f"{counts[style, split]:>12,}" for split in SPLITS)
        print(f"{style:<16}{numbers}  {styles.PACKAGES[style].licence}")
    totals = "".join(f"{sum(n for (_, at), n in counts.items() if at == split):>12,}" for split in SPLITS)
    print(f"{'total':<16}{totals}")
