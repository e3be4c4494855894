"""Embeddings that were computed before, as clip-retrieval writes them: img_emb_N.npy beside metadata_N.parquet.

Row i of the table of numbers belongs to row i of the metadata, whose column `key` (or `image_path`, the picture's file)
names the pair of --input that has the picture. It spares stage 1 (paper section 3) its dearest step.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.retrieval.blocks import Row, with_embedding
from data_pipelines.retrieval.clustering import unit
from data_pipelines.retrieval.pairs import EMBED, KEPT, stem_of
from data_pipelines.sources.formats import parquet
from data_pipelines.sources.item import Skip

_NAMES = ("key", "image_path")
_BATCH = 4096


class EmbeddingsError(ValueError):
    """A folder of embeddings that cannot be used; one line with the file and the mend."""


def list_tables(folder: Path) -> list[tuple[Path, Path]]:
    """(numbers, metadata) of each table. Raises EmbeddingsError where a file lacks its other half or does not fit."""
    metadata, numbers = _by_number(folder, "metadata_*.parquet"), _by_number(folder, "img_emb_*.npy")
    if not numbers:
        raise EmbeddingsError(f"{folder}: has no img_emb_*.npy: give the output folder of `clip-retrieval inference`")
    tables = []
    for name, path in numbers.items():
        if name not in metadata:
            raise EmbeddingsError(f"{path}: has no metadata_{name}.parquet: write both anew")
        tables.append((path, metadata[name]))
    return tables


def _by_number(folder: Path, pattern: str) -> dict[str, Path]:
    """Files by what stands for the star in their names. Raises EmbeddingsError where two have the same."""
    before, found = pattern.partition("*")[0], {}
    for path in sorted(folder.rglob(pattern)):
        name = path.stem.removeprefix(before)
        if name in found:
            raise EmbeddingsError(f"{path}: {found[name]} has the same number: give the folder of one run")
        found[name] = path
    return found


def width(tables: Iterable[tuple[Path, Path]]) -> int:
    """Numbers in a row, the same in all tables. Raises EmbeddingsError."""
    widths = {path: _open(path).shape[1] for path, _ in tables}
    if len(set(widths.values())) > 1:
        path = next(path for path in widths if widths[path] != min(widths.values()))
        raise EmbeddingsError(f"{path}: rows of {widths[path]} numbers, others have {min(widths.values())}")
    return next(iter(widths.values()))


def read_table(table: tuple[Path, Path]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, embedding [D] float16) of each row. Raises EmbeddingsError where the two files do not fit."""
    path, metadata = table
    vectors, names = _open(path), list(_names(metadata))
    if len(vectors) != len(names):
        raise EmbeddingsError(f"{path}: {len(vectors)} rows, {metadata.name} has {len(names)}: write both anew")
    for start in range(0, len(names), _BATCH):
        yield from zip(names[start:], unit(vectors[start : start + _BATCH]).astype(np.float16), strict=False)


def join(item: tuple[str, Mapping[str, Iterable]]) -> tuple[list[Row], Counter]:
    """The rows of one name with their embedding; a name that is not unique on either side tells nothing."""
    rows, vectors = list(item[1]["rows"]), list(item[1]["embeddings"])
    if not rows:
        return [], Counter({("embeddings", "without a pair"): len(vectors)})
    if len(rows) == len(vectors) == 1:
        return [with_embedding(rows[0], vectors[0], np.zeros(0, np.float16))], Counter({(EMBED, KEPT): 1})
    reason = "name is not unique" if vectors else "no embedding of its name"
    return [], Counter({(EMBED, reason): len(rows)})


def _open(path: Path) -> np.ndarray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EmbeddingsError(f"{path}: unreadable ({error}): write it with numpy.save") from None
    if vectors.ndim != 2:
        raise EmbeddingsError(f"{path}: has shape {vectors.shape}, expected [rows, numbers]")
    return vectors


def _names(metadata: Path) -> Iterator[str]:
    for row in parquet.read_rows(metadata):
        if isinstance(row, Skip):
            raise EmbeddingsError(f"{metadata}: {row.reason}: write it anew")
        name = next((row[1][column] for column in _NAMES if row[1].get(column)), None)
        if name is None:
            raise EmbeddingsError(f"{metadata}: no {' or '.join(_NAMES)}: its columns are {', '.join(row[1])}")
        yield stem_of(str(name))
