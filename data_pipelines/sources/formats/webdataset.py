"""WebDataset tars as img2dataset writes them: KEY.jpg, KEY.txt and KEY.json side by side, read from front to back.

KEY.json holds url, caption, sizes and status. A tar that was cut off yields what is whole and then one Skip.
"""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from etils import epath

from data_pipelines.sources.formats.common import (
    CAPTION_COLUMNS,
    SUFFIXES,
    Captioned,
    Columns,
    Part,
    file_parts,
    make_captioned,
    parse_object,
)
from data_pipelines.sources.item import Skip, SourceError

_CAPTION_SUFFIXES = (".txt", ".caption")


def list_parts(files: Sequence[Path], root: Path, columns: Columns) -> list[Part]:
    """A part a tar. The columns are a member's suffix for the picture and a field of KEY.json for the caption.

    Raises SourceError where the first sample lacks a column that is given, and names what it has.
    """
    with epath.Path(files[0]).open("rb") as stream:
        _, sample, _ = next(_samples(stream), ("", {}, True))
    found = ((columns.image, "image", [suffix[1:] for suffix in sample]), (columns.caption, "caption", _fields(sample)))
    for column, what, names in found:
        if column and sample and column not in names:
            has = ", ".join(names) or "none"
            raise SourceError(f"{files[0]}: no column '{column}': its columns are {has}: give --{what}_column=NAME")
    return file_parts("webdataset", files, root, columns)


def read(part: Part) -> Iterator[Captioned | Skip]:
    """The samples of one tar, one in memory at a time."""
    with epath.Path(part.path).open("rb") as stream:
        for key, sample, whole in _samples(stream):
            found = _captioned(part, key, sample)
            if whole or isinstance(found, Captioned):
                yield found
            if not whole:
                yield Skip(part.path, "truncated tar")


def _samples(stream: BinaryIO) -> Iterator[tuple[str, dict[str, bytes], bool]]:
    """(key, bytes by suffix, whole): the last sample, which may be empty, is not whole where the tar is cut off."""
    key, sample, whole = "", {}, True
    for member in _members(stream):
        if member is None:
            whole = False
            break
        stem, suffix = _split_name(member[0])
        if stem != key and sample:
            yield key, sample, True
            sample = {}
        key = stem
        sample[suffix] = member[1]
    if sample or not whole:
        yield key, sample, whole


def _members(stream: BinaryIO) -> Iterator[tuple[str, bytes] | None]:
    """(name, bytes) of every file; None, and then nothing, where the tar ends before its end mark."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.isfile():
                    yield member.name, tar.extractfile(member).read()
                tar.members = []  # tarfile keeps them all
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                yield None
    except (tarfile.TarError, OSError, ValueError):
        yield None


def _split_name(name: str) -> tuple[str, str]:
    """'a/000012.seg.png' is the file '.seg.png' of sample 'a/000012': the rule of WebDataset."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", f".{suffix.lower()}"


def _captioned(part: Part, key: str, sample: dict[str, bytes]) -> Captioned | Skip:
    fields = _fields(sample)
    wanted = (f".{part.columns.image}",) if part.columns.image else SUFFIXES
    image = next((sample[suffix] for suffix in wanted if suffix in sample), None)
    caption = _caption(part.columns.caption, sample, fields)
    return make_captioned(part.path, f"{part.name}/{key}", image, caption, fields, part.split)


def _fields(sample: dict[str, bytes]) -> dict:
    return parse_object(sample.get(".json", b"")) or {}  # they are an extra


def _caption(column: str, sample: dict[str, bytes], fields: dict) -> object:
    if column:
        return fields.get(column)
    for suffix in _CAPTION_SUFFIXES:
        if suffix in sample:
            return sample[suffix].decode("utf-8", errors="replace")
    return next((fields[name] for name in CAPTION_COLUMNS if fields.get(name)), None)
