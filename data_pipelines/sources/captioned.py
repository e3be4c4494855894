"""Captioned pictures from whatever they are published in, behind one function; read alone, or part by part by many.

The common input of the rows of the paper's Table 1 that begin with captioned pictures, and of stage 1 (section 3):
a folder, WebDataset tars and parquet files as img2dataset writes them, a TFDS name, or a corpus of this project.
"""

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.sources.formats import folder
from data_pipelines.sources.formats.common import Captioned, Columns, Part
from data_pipelines.sources.item import Skip, SourceError

__all__ = ["Captioned", "Part", "add_arguments", "list_parts", "read_captioned", "read_part"]
SPEC = "a folder with captions, *.tar, *.parquet, tfds:NAME[@DATA_DIR], or a corpus of this project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name captioned pictures: pass them on with `read_captioned(**options(arguments))`."""
    parser.add_argument("--input", required=True, help=SPEC)
    parser.add_argument("--image_column", default="", help="column of the picture (default: the usual names)")
    parser.add_argument("--caption_column", default="", help="column of the caption (default: the usual names)")


def list_parts(spec: str, *, image_column: str = "", caption_column: str = "") -> list[Part]:
    """The parts of `spec` in a fixed order. Raises SourceError, one line, where it cannot be read at all."""
    columns = Columns(image_column, caption_column)
    path = Path(spec)
    if not path.is_dir():
        raise SourceError(f"{spec}: no such file or folder: give {SPEC}")
    return folder.list_parts(path, columns)


def read_part(part: Part) -> Iterator[Captioned | Skip]:
    """The pictures of one part, in a fixed order and in constant memory; what is broken is a Skip."""
    return importlib.import_module(f"data_pipelines.sources.formats.{part.format}").read(part)


def read_captioned(
    spec: str, *, shard: tuple[int, int] = (0, 1), image_column: str = "", caption_column: str = ""
) -> Iterator[Captioned | Skip]:
    """The pictures of every n-th part from part i on, shard = (i, n): n shards share all parts without overlap."""
    index, count = shard
    if not 0 <= index < count:
        raise SourceError(f"shard {index} of {count}: must lie in 0..{count - 1}")
    for part in list_parts(spec, image_column=image_column, caption_column=caption_column)[index::count]:
        yield from read_part(part)
