"""Captioned pictures in a folder: a caption file (.jsonl, or .csv with a header), or a .txt beside each picture.

captions.jsonl and Hugging Face's metadata.jsonl hold an object a line, {"file_name": "a.png", "text": "a fox"}, with
paths relative to the file. img2dataset's layout `files` writes a .txt and a .json beside each picture.
"""

import csv
import posixpath
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from data_pipelines.sources.formats.common import (
    SUFFIXES,
    Captioned,
    Columns,
    Part,
    make_captioned,
    own_splits,
    parse_object,
    resolve,
)
from data_pipelines.sources.item import Skip, SourceError

ROWS_PER_PART, MOST_PARTS = 1000, 64  # of a caption file: each part reads it anew up to its own rows
_CAPTION_FILES = ("captions.jsonl", "metadata.jsonl", "*.csv")


def caption_files(folder: Path) -> list[Path]:
    """The caption files of a folder and those below it, in the order of names."""
    return sorted({path for pattern in _CAPTION_FILES for path in folder.rglob(pattern)})


def has_pictures(folder: Path) -> bool:
    """Whether a picture lies in the folder or below it."""
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def list_parts(files: Sequence[Path], folder: Path, columns: Columns) -> list[Part]:
    """Slices of the caption files; without any, of the pictures that lie in the folder, in the order of names.

    Raises SourceError where a caption file lacks a column, or where there is nothing to read.
    """
    names = [file.relative_to(folder).as_posix() for file in files]
    named = zip(files, names, own_splits(names), strict=True)
    return [part for each in named for part in _file_parts(*each, columns)] or _picture_parts(folder)


def _file_parts(file: Path, name: str, split: str, columns: Columns) -> list[Part]:
    first = next((row for _, row in _rows(file) if row is not None), None)
    if first is None:
        raise SourceError(f"{file}: holds no caption: write one object or row a picture, or delete it")
    columns = resolve(columns, list(first), str(file))
    rows = sum(1 for _ in _rows(file))
    step = max(ROWS_PER_PART, -(-rows // MOST_PARTS))
    return [
        Part("folder", str(file), name, columns, start, min(start + step, rows), split=split)
        for start in range(0, rows, step)
    ]


def _picture_parts(folder: Path) -> list[Part]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not any((folder / name).with_suffix(".txt").is_file() for name in names):
        raise SourceError(
            f"{folder}: no captioned pictures: give a folder with captions.jsonl, a .csv, or a .txt beside each "
            "picture; or .tar or .parquet files as img2dataset writes them"
        )
    splits = own_splits([name.rpartition("/")[0] for name in names])
    parts = []
    for split, run in groupby(zip(splits, names, strict=True), key=itemgetter(0)):
        while members := tuple(name for _, name in islice(run, ROWS_PER_PART)):
            parts.append(Part("folder", str(folder), members[0], members=members, split=split))
    return parts


def read(part: Part) -> Iterator[Captioned | Skip]:
    """The pictures of one part as paths; a broken line or a picture that is not there is a Skip."""
    yield from _read_pictures(part) if part.members else _read_file(part)


def _read_pictures(part: Part) -> Iterator[Captioned | Skip]:
    for name in part.members:
        picture = Path(part.path) / name
        caption = _text(picture.with_suffix(".txt"))
        fields = parse_object(_text(picture.with_suffix(".json"))) or {}
        yield make_captioned(part.path, name, picture, caption, fields, part.split, name)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""


def _read_file(part: Part) -> Iterator[Captioned | Skip]:
    file = Path(part.path)
    for line, row in islice(_rows(file), part.start, part.stop):
        if row is None:
            yield Skip(f"{file}:{line}", "broken line")
            continue
        fields = dict(row)
        name, caption = fields.pop(part.columns.image, None), fields.pop(part.columns.caption, None)
        name = name if isinstance(name, str) else ""
        picture = file.parent / name if name else None
        if picture is not None and not picture.is_file():
            yield Skip(f"{file}:{line}: {name}", "no such picture")
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(part.name), name))
        yield make_captioned(part.path, f"{part.name}:{line}", picture, caption, fields, part.split, path)


def _rows(file: Path) -> Iterator[tuple[int, dict | None]]:
    """Every row with the number of its (last) line; None for one that is broken."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        if file.suffix == ".csv":
            yield from _csv_rows(csv.DictReader(lines))
            return
        for line, text in enumerate(lines, start=1):
            if text.strip():
                yield line, parse_object(text)


def _csv_rows(reader: csv.DictReader) -> Iterator[tuple[int, dict | None]]:
    while True:
        try:
            row = next(reader, None)
        except csv.Error:  # a field of more than 128 KiB: most often a quote that is never closed
            yield reader.line_num, None
            continue
        if row is None:
            return
        yield reader.line_num, None if None in row or None in row.values() else row  # too many cells, or too few
