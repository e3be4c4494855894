"""Parquet files of pictures, as img2dataset and Hugging Face write them: the one door to pyarrow of the sources.

img2dataset writes the picture's bytes as column `jpg`, with caption, url, key, status and sizes; Hugging Face an image
as {bytes, path} and class labels as integers, whose names stand in the schema's metadata under `huggingface`. A file is
read by row groups, about twice one of which is in memory; a broken one costs only itself.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_pipelines.sources.formats.common import (
    Captioned,
    Columns,
    Part,
    file_parts,
    make_captioned,
    parse_object,
    resolve,
)
from data_pipelines.sources.item import Pixels, Skip, SourceError

ROWS_PER_BATCH = 64  # pictures as Python objects at once
_BROKEN = (pa.ArrowException, OSError)


def list_parts(files: Sequence[Path], root: Path, columns: Columns) -> list[Part]:
    """A part a file. Raises SourceError, naming the columns found, where the first whole file lacks one."""
    for file in files:
        names = column_names(file)
        if names is not None:
            resolve(columns, names, str(file))
            break
    return file_parts("parquet", files, root, columns)


def column_names(path: str | Path) -> list[str] | None:
    """The columns of a parquet file; None where it cannot be opened."""
    try:
        with epath.Path(path).open("rb") as file:
            return pq.read_schema(file).names
    except _BROKEN:
        return None


def read(part: Part) -> Iterator[Captioned | Skip]:
    """The pictures of one file as their encoded bytes. Raises SourceError for a missing column."""
    columns = None
    for row in read_rows(part.path):
        if isinstance(row, Skip):
            yield row
            continue
        number, fields = row
        columns = columns or resolve(part.columns, list(fields), part.path)
        image = encoded(fields.pop(columns.image), Path(part.path).parent)
        key = f"{part.name}/{fields['key']}" if fields.get("key") else f"{part.name}:{number}"
        yield make_captioned(part.path, key, image, fields.pop(columns.caption), fields, part.split)


def read_rows(path: str | Path, needed: Sequence[str] = ()) -> Iterator[tuple[int, dict] | Skip]:
    """Every row with its number, class labels by name; a file or row group that is broken is a Skip.

    Raises SourceError, naming the columns found, where one of `needed` is missing.
    """
    with epath.Path(path).open("rb") as stream:
        try:
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        except _BROKEN:
            yield Skip(str(path), "broken parquet file")
            return
        _require(path, needed, file.schema_arrow.names)
        labels = class_names(file.schema_arrow)
        first = 0
        for group in range(file.num_row_groups):
            yield from _read_group(path, file, group, first, labels)
            first += file.metadata.row_group(group).num_rows


def _require(path: str | Path, needed: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise SourceError(
            f"{path}: no column {', '.join(missing)}: its columns are {', '.join(found)}: choose another --input"
        )


def _read_group(path, file: pq.ParquetFile, group: int, number: int, labels) -> Iterator[tuple[int, dict] | Skip]:
    try:
        for batch in file.iter_batches(ROWS_PER_BATCH, row_groups=[group]):
            for row in _rows(batch):
                yield (number, _with_names(row, labels)) if row else Skip(f"{path}: row {number}", "text not in UTF-8")
                number += 1
    except _BROKEN:
        yield Skip(f"{path}: row group {group}, from row {number}", "broken row group")


def _rows(batch: pa.RecordBatch) -> Iterator[dict | None]:
    """The rows; None for one whose text cannot be decoded, which Arrow does not check."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except UnicodeDecodeError:
                yield None


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of each class-label column, from Hugging Face's entry in the schema's metadata; {} without one."""
    entry = parse_object((schema.metadata or {}).get(b"huggingface", b"")) or {}
    features = (entry.get("info") or {}).get("features") or {}
    return {column: feature["names"] for column, feature in features.items() if "names" in feature}


def _with_names(row: dict, labels: dict[str, list[str]]) -> dict:
    for column, names in labels.items():
        label = row.get(column)
        if isinstance(label, int):  # -1 is Hugging Face's 'no label'
            row[column] = names[label] if 0 <= label < len(names) else ""
    return row


def encoded(value: object, folder: Path) -> Pixels | None:
    """A cell's picture: its bytes, or its path as Hugging Face's {bytes, path} may give it; None where it has none."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        return folder / value["path"] if value.get("path") else None
    return value if isinstance(value, bytes) else None
