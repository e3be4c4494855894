"""Subjects200K (Tan et al. 2024): pairs of synthetic pictures of one thing in two scenes, in parquet files.

A row's `image` holds both pictures side by side: at 528 px of height 512 px each, beginning 8 px from the left and from
the top, and 528 px from the left (the authors' own crop; their page says "16-pixel padding"). Collection 3 has pictures
of 1024 px. Each pair gives two examples, one a direction. A pair must be decoded to be cut: 2 ms.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.images import ImageError, read_image
from data_pipelines.sources.formats.parquet import encoded, read_rows
from data_pipelines.sources.item import Item, Skip

COLUMNS = ("image", "description", "quality_assessment")
QUALITIES = ("compositeStructure", "objectConsistency", "imageQuality")
_TILE, _MOST_PADDING = 512, 16  # pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this format."""
    quality = f"Subjects200K: least of {', '.join(QUALITIES)}, 0 to 5; 0 keeps all (5, as its authors advise)"
    parser.add_argument("--min_quality", type=int, default=5, choices=range(6), help=quality)
    padding = "Subjects200K: pixels around each picture (by default half of what the height exceeds a multiple of 512)"
    parser.add_argument("--padding", type=int, help=padding)


def read(files: Sequence[Path], min_quality: int, padding: int | None) -> Iterator[Item | Skip]:
    """Both directions of every pair; both, and all pairs of a thing of this name, are in one group.

    Raises SourceError, naming the columns found, where one is missing.
    """
    for file in files:
        for row in read_rows(file, COLUMNS):
            if isinstance(row, Skip):
                yield row
                continue
            number, fields = row
            reason = _why_not(fields, min_quality)
            if reason:
                yield Skip(f"{file}: row {number}", reason)
            else:
                yield from _pair(file, number, fields, padding)


def _why_not(fields: Mapping, min_quality: int) -> str:
    """Why a row is left out, '' if it is not."""
    description, scores = (fields[name] if isinstance(fields[name], Mapping) else {} for name in COLUMNS[1:])
    if min_quality and any(scores.get(quality) is None for quality in QUALITIES):
        return "quality not assessed"
    if min_quality and min(scores[quality] for quality in QUALITIES) < min_quality:
        return "low quality"
    if description.get("description_valid") is False:
        return "description not valid"
    words = (description.get(name) for name in ("item", "description_0", "description_1"))
    return "" if all(isinstance(text, str) and text.strip() for text in words) else "no caption"


def _pair(file: Path, number: int, fields: Mapping, padding: int | None) -> Iterator[Item | Skip]:
    where, picture = f"{file}: row {number}", encoded(fields["image"], file.parent)
    if picture is None:
        yield Skip(where, "no picture")
        return
    try:
        image = read_image(picture)
    except ImageError:
        yield Skip(where, "broken image")
        return
    tiles = cut(image, padding)
    if tiles is None:
        yield Skip(f"{where}: {image.shape[1]} x {image.shape[0]} px", "not a pair side by side")
        return
    description = fields["description"]
    item = description["item"].strip().rstrip(".")
    for target in (0, 1):
        yield Item(
            f"{file.stem}:{number}:{target}",
            "subject",
            tiles[target],
            description[f"description_{target}"].strip(),
            references=[(item, tiles[1 - target])],
            group=f"subjects200k:{item.lower()}",
        )


def cut(image: np.ndarray, padding: int | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """The left and the right picture of a pair [h, w, 3] -> two [s, s, 3]; None where its size is not a pair's."""
    height, width = image.shape[:2]
    if padding is None:
        padding = height % _TILE // 2
        if padding > _MOST_PADDING:
            return None
    side = height - 2 * padding
    if side <= 0 or not height + side <= width <= 2 * height:
        return None
    rows = slice(padding, padding + side)
    return image[rows, padding : padding + side], image[rows, height : height + side]
