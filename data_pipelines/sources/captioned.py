"""Captioned pictures from whatever they are published in, behind one function; read alone, or part by part by many.

The common input of the rows of the paper's Table 1 that begin with captioned pictures, and of stage 1 (section 3):
a folder, WebDataset tars and parquet files as img2dataset writes them, a TFDS name, or a corpus of this project.
"""

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from etils import epath

from data_pipelines.corpus import FIXTURE
from data_pipelines.sources.formats.common import Captioned, Columns, Part, tfds_name
from data_pipelines.sources.item import Skip, SourceError

__all__ = ["Captioned", "Part", "add_arguments", "list_parts", "read_captioned", "read_part"]
SPEC = (
    "a folder with captions, *.tar, *.parquet, tfds:NAME[@DATA_DIR], or a corpus of this project (data/emoji, fixture)"
)
_WILD = re.compile(r"[*?\[]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name captioned pictures, and their columns where these have other names than usual."""
    parser.add_argument("--input", required=True, help=f"the captioned pictures: {SPEC}")
    parser.add_argument("--image_column", default="", help="where the picture stands (default: the usual names)")
    parser.add_argument("--caption_column", default="", help="where the caption stands (default: the usual names)")


def list_parts(spec: str, *, image_column: str = "", caption_column: str = "") -> list[Part]:
    """The parts of `spec` in a fixed order. Raises SourceError, one line, where it cannot be read at all.

    Of a column the usual names are tried unless it is given; a wrong one is an error that names the columns found.
    """
    columns = Columns(image_column, caption_column)
    if tfds_name(spec):
        return _format("tfds").list_parts(spec, columns)
    root, files = _expand(spec)
    if not files:
        return _list_folder(root, columns)
    formats = {".tar": "webdataset", ".parquet": "parquet", ".jsonl": "folder", ".csv": "folder"}
    suffixes = {file.suffix for file in files}
    if len(suffixes) > 1 or not suffixes <= formats.keys():
        raise SourceError(f"{spec}: holds {', '.join(sorted(suffixes))} files: give {SPEC}")
    return _format(formats[files[0].suffix]).list_parts(files, root, columns)


def _expand(spec: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files: none for a folder, which is searched."""
    if spec == "fixture":
        return FIXTURE, []
    wild = _WILD.search(spec)
    if wild is None:
        path = _path(spec)
        if not path.exists():
            raise SourceError(f"{spec}: no such file or folder: give {SPEC}")
        if path.is_dir() and "://" in spec:
            raise SourceError(f"{spec}: a folder behind an address is not searched: give a pattern, {spec}/*.tar")
        return (path, []) if path.is_dir() else (path.parent, [path])
    root = _path(spec[: wild.start()] + "x").parent
    files = sorted(root.glob(str(_path(spec).relative_to(root))))
    if not files:
        raise SourceError(f"{spec}: no file has such a name: quote the pattern, or check it with ls")
    return root, files


def _path(spec: str) -> Path:
    return epath.Path(spec) if "://" in spec else Path(spec)  # epath searches no folder for `**`


def _list_folder(folder: Path, columns: Columns) -> list[Part]:
    """What a folder holds: a corpus, tars, parquet files with pictures in them, or the pictures themselves."""
    if _format("corpus").is_corpus(folder):
        return _format("corpus").list_parts(folder, columns)
    pictures = _format("folder")
    if tars := sorted(folder.rglob("*.tar")):  # the parquet files beside them hold no pictures
        return _format("webdataset").list_parts(tars, folder, columns)
    if tables := sorted(folder.rglob("*.parquet")):
        try:
            return _format("parquet").list_parts(tables, folder, columns)
        except SourceError:
            if not pictures.has_pictures(folder):  # beside img2dataset's layout `files` they hold none either
                raise
    return pictures.list_parts(pictures.caption_files(folder), folder, columns)


def read_part(part: Part) -> Iterator[Captioned | Skip]:
    """The pictures of one part, in a fixed order and in constant memory; what is broken is a Skip."""
    return _format(part.format).read(part)


def read_captioned(
    spec: str, *, shard: tuple[int, int] = (0, 1), image_column: str = "", caption_column: str = ""
) -> Iterator[Captioned | Skip]:
    """The pictures of every n-th part from part i on, shard = (i, n): n shards share all parts without overlap."""
    index, count = shard
    if not 0 <= index < count:
        raise SourceError(f"shard {index} of {count}: must lie in 0..{count - 1}")
    for part in list_parts(spec, image_column=image_column, caption_column=caption_column)[index::count]:
        yield from read_part(part)


def corpus_licences(spec: str) -> str:
    """The licences that a corpus's manifest names; '' where `spec` is no corpus."""
    corpus, folder = _format("corpus"), FIXTURE if spec == "fixture" else Path(spec)
    return corpus.licences(folder) if corpus.is_corpus(folder) else ""


def _format(name: str) -> ModuleType:
    """A module of formats/, by name: reading a folder must not need pyarrow, nor a tar TensorFlow."""
    return importlib.import_module(f"data_pipelines.sources.formats.{name}")
