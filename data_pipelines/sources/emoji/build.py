"""Builds the corpus folder: draws every picture, splits by root subject, removes duplicates, writes it at once or not
at all. The fixture script builds its smaller corpus with the same function, so no subject ever changes split.

`python -m data_pipelines.prepare emoji` runs it. Stands in for the paper's training data (section 4.1).
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.corpus import SPLITS, SheetWriter, write_index
from data_pipelines.sources import duplicates
from data_pipelines.sources.emoji import packages, styles
from data_pipelines.sources.emoji.names import Subject
from data_pipelines.sources.emoji.render import Drawing, render
from data_pipelines.sources.emoji.split import roots, split_roots
from data_pipelines.sources.whole import LOSSLESS, SPAWN, check_size, is_complete, print_counts, write_whole

HELP = "the emoji corpus: about 27,000 drawings of 3,126 subjects in 12 styles, from npm packages"


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
    check_size(arguments.size)
    if is_complete(output, arguments.size):
        return
    subjects = styles.open_subjects(arguments.cache)
    drawings = styles.open_drawings(subjects, arguments.cache)
    counts = write_whole(output, partial(build, subjects, drawings, arguments.size, dict.fromkeys(drawings, LOSSLESS)))
    print_counts(counts, licences())
    print(f"wrote {output}")


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
    with ProcessPoolExecutor(mp_context=SPAWN) as pool, tqdm(total=total, unit="picture") as progress:
        for style, by_hexcode in drawings.items():
            progress.set_description(style)
            writer = SheetWriter(folder, style, size, **encodings[style])
            tiles = pool.map(partial(render, size=size), by_hexcode.values(), chunksize=16)
            for code, tile in zip(by_hexcode, tiles, strict=True):
                pictures.append((style, code, writer.add(tile)))
                thumbnails.append(duplicates.thumbnail(tile))
                progress.update()
            writer.flush()
    return pictures, np.stack(thumbnails)


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


def licences() -> dict[str, str]:
    """Style -> licence."""
    return {style: package.licence for style, package in styles.PACKAGES.items()}
