"""Captioned pictures in a folder: a caption file (.jsonl, or .csv with a header), or a .txt beside each picture.

captions.jsonl and Hugging Face's metadata.jsonl hold an object a line, {"file_name": "a.png", "text": "a fox"}, with
paths relative to the file. img2dataset's layout `files` writes a .txt and a .json beside each picture.
"""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data_pipelines.sources.formats.common import SUFFIXES, Captioned, Columns, Part, make_captioned, resolve, split_of
from data_pipelines.sources.item import Skip, SourceError

CAPTION_FILES = ("captions.jsonl", "metadata.jsonl", "*.csv")
ROWS_PER_PART = 1000


def list_parts(folder: Path, columns: Columns) -> list[Part]:
    """Slices of the folder's caption files, or of its pictures where it has none, in the order of names.

    Raises SourceError where a caption file lacks a column, or where there is nothing to read.
    """
    tables = sorted({path for pattern in CAPTION_FILES for path in folder.rglob(pattern)})
    return [part for table in tables for part in table_parts(table, folder, columns)] or _picture_parts(folder)


def table_parts(table: Path, folder: Path, columns: Columns) -> list[Part]:
    """Slices of one caption file; keys are relative to `folder`. Raises SourceError for a missing column."""
    first = next((row for _, row in _rows(table) if row is not None), None)
    if first is None:
        raise SourceError(f"{table}: has no captions: write an object a line, or choose another --input")
    columns = resolve(columns, list(first), str(table))
    rows, name = sum(1 for _ in _rows(table)), table.relative_to(folder).as_posix()
    return [
        Part("folder", str(table), name, columns, start, min(start + ROWS_PER_PART, rows), split=split_of(name))
        for start in range(0, rows, ROWS_PER_PART)
    ]


def _picture_parts(folder: Path) -> list[Part]:
    pictures = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES
    )
    if not any((folder / name).with_suffix(".txt").is_file() for name in pictures):
        raise SourceError(
            f"{folder}: no captioned pictures: give a folder with captions.jsonl, a .csv, or a .txt beside each "
            "picture; or .tar or .parquet files as img2dataset writes them"
        )
    slices = (tuple(pictures[i : i + ROWS_PER_PART]) for i in range(0, len(pictures), ROWS_PER_PART))
    return [Part("folder", str(folder), members[0], members=members) for members in slices]


def read(part: Part) -> Iterator[Captioned | Skip]:
    """The pictures of one part as paths; a broken line or a picture that is not there is a Skip."""
    yield from _read_pictures(part) if part.members else _read_table(part)


def _read_pictures(part: Part) -> Iterator[Captioned | Skip]:
    for name in part.members:
        picture = Path(part.path) / name
        beside = picture.with_suffix(".txt")
        caption = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
        yield make_captioned(part.path, name, picture, caption, _read_fields(picture.with_suffix(".json")))


def _read_fields(path: Path) -> dict:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the fields are an extra: the caption stands in the .txt
    return fields if isinstance(fields, dict) else {}


def _read_table(part: Part) -> Iterator[Captioned | Skip]:
    table = Path(part.path)
    for line, row in islice(_rows(table), part.start, part.stop):
        if row is None:
            yield Skip(f"{table}:{line}", "broken line")
            continue
        fields = dict(row)
        name, caption = fields.pop(part.columns.image, None), fields.pop(part.columns.caption, None)
        picture = table.parent / name if isinstance(name, str) and name else None
        if picture is not None and not picture.is_file():
            yield Skip(f"{table}:{line}: {name}", "no such picture")
            continue
        yield make_captioned(str(table), f"{part.name}:{line}", picture, caption, fields, part.split)


def _rows(table: Path) -> Iterator[tuple[int, dict | None]]:
    """Every row with the number of its line; None for one that is broken."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        if table.suffix == ".csv":
            reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, None if None in row or None in row.values() else row
            return
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, _parse(text)


def _parse(text: str) -> dict | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
