"""Prepared data sets as record shards: the format and its reader. The paper streams eleven of them (section 4.1).

A data set is a folder ROOT/NAME with a folder a split, each with `manifest.json` and ArrayRecord shards. A record is

    uint32 n | uint32 length_1 ... length_n | part_1 ... part_n          (little endian)

Part 1 is JSON (UTF-8), the other parts are PNG, JPEG or WebP files. In a data set of kind "examples" the JSON is a line
of training JSONL, where "image" and "target" are numbers of parts, with the "key" and "group" of the item it came from,
and with "features" where a text encoder has run already: data_pipelines/features.py. Kind "clusters" is
data_pipelines/retrieval/clusters.py. Needs no TensorFlow. The writer is record_writer.py.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import resource
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import features
from data_pipelines.images import ImageError, encode_image, read_image
from data_pipelines.instruction import Instruction, InstructionError, Reference, check, to_json
from data_pipelines.wording import Example

FORMAT = 2
KINDS = ("examples", "clusters")
_MEND = "prepare the data set again"


class RecordError(ValueError):
    """A record, shard or manifest that cannot be used; one line with the file and the mend."""


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    file: str
    count: int
    sha256: str


def encode(example: Example, key: str = "", group: str = "", encoding: str = "png") -> bytes:
    """The record of an example; `encoding` is that of `images.encode_image`, and PNG loses nothing."""
    pictures = [example.target, *(reference.image for reference in example.instruction.references)]
    names = [str(part) for part in range(3, len(pictures) + 2)]
    fields = to_json(example.instruction, names) | {"target": "2", "task": example.task, "key": key, "group": group}
    header = json.dumps(fields, ensure_ascii=False).encode(errors="replace")  # a file's name need not be UTF-8
    return join_parts([header, *(encode_image(picture, encoding) for picture in pictures)])


def with_features(record: bytes, texts: Sequence[np.ndarray]) -> bytes:
    """The record of an example with the features [n, D] of its text and of each reference's as one more part."""
    header, *files = split_parts(record)
    part, about = features.join(texts)
    fields = parse_header(header) | {"features": about | {"part": str(len(files) + 2)}}
    return join_parts([json.dumps(fields, ensure_ascii=False).encode(), *files, part])


def join_parts(parts: Sequence[bytes]) -> bytes:
    """A record of its parts."""
    return struct.pack(f"<{len(parts) + 1}I", len(parts), *(len(part) for part in parts)) + b"".join(parts)


def split_parts(record: bytes) -> list[bytes | memoryview]:
    """The JSON of a record and views of its pictures. Raises RecordError when the lengths do not fit."""
    try:
        (count,) = struct.unpack_from("<I", record)
        lengths = struct.unpack_from(f"<{count}I", record, 4)
    except struct.error as error:
        raise RecordError(f"the record's header is cut off: {_MEND}") from error
    ends = list(itertools.accumulate(lengths, initial=4 + 4 * count))
    if count < 2 or ends[-1] != len(record):
        raise RecordError(f"the record has {len(record)} bytes, its header says {ends[-1]}: {_MEND}")
    view = memoryview(record)  # a record of photographs is large: its parts are not copied
    return [record[ends[0] : ends[1]], *(view[a:b] for a, b in itertools.pairwise(ends[1:]))]


def parse_header(header: bytes) -> dict[str, Any]:
    """Part 1 as a dictionary. Raises RecordError where it is none."""
    try:
        fields = json.loads(header)
    except ValueError as error:  # of JSON or of UTF-8
        raise RecordError(f"the record's JSON is damaged ({error}): {_MEND}") from error
    if not isinstance(fields, dict):
        raise RecordError(f"the record's JSON is damaged (not an object): {_MEND}")
    return fields


def open_picture(file: bytes | memoryview, at_least: int = 0) -> np.ndarray:
    """A picture part -> [h, w, 3] uint8, as `images.read_image`. Raises RecordError."""
    try:
        return read_image(file, at_least)
    except ImageError as error:
        raise RecordError(f"a picture of the record is not readable: {error}") from error


def decode(record: bytes, picture: Callable[[memoryview], np.ndarray] = open_picture) -> Example:
    """The example of a record, checked; `picture` reads a part. Raises RecordError for whatever is wrong with it."""
    header, *files = split_parts(record)
    fields = parse_header(header)
    try:
        references = tuple(
            Reference(item["marker"], item["text"], picture(_part(files, item["image"])))
            for item in fields["references"]
        )
        stored = fields.get("features")
        texts = features.split(_part(files, stored["part"]), stored) if stored is not None else None
        instruction = Instruction(fields["text"], references, features=texts)
        check(instruction)
        return Example(instruction, picture(_part(files, fields["target"])), str(fields["task"]))
    except (InstructionError, features.FeatureError) as error:
        raise RecordError(f"the record's {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"the record's JSON is damaged ({type(error).__name__} {error}): {_MEND}") from error


class RecordReader:
    """Random access to the records of one split of a data set.

    Attributes:
      folder: the split's folder.
      manifest: what the preparation says about it: kind, source, counts, arguments, size, longest.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self.folder = Path(folder)
        self.manifest, self._shards = _read_manifest(self.folder, split)
        _allow_open_files()
        self._readers = [self._open(shard) for shard in self._shards]
        self._ends = np.cumsum([shard.count for shard in self._shards])

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int) -> bytes:
        """Record `index`, 0 ... len - 1. Raises RecordError for a damaged shard."""
        shard, number = self._locate(index)
        try:
            return self._readers[shard].read([number])[0]
        except RuntimeError:  # ArrayRecord's own checksum of the chunk
            raise RecordError(f"{self.where(index)}: the shard is damaged: {_MEND}") from None

    def where(self, index: int) -> str:
        """The shard file and the record's number in it, for messages."""
        shard, number = self._locate(index)
        return f"{self.folder / self._shards[shard].file}: record {number}"

    def verify(self, check_record: Callable[[bytes], object] = decode) -> int:
        """Check every shard's checksum and every record; returns their number. Raises RecordError."""
        for shard in self._shards:
            path = self.folder / shard.file
            if sha256(path) != shard.sha256:
                raise RecordError(f"{path}: its checksum is not the manifest's: {_MEND}")
        for index in range(len(self)):
            try:
                check_record(self.read(index))
            except RecordError as error:
                raise RecordError(f"{self.where(index)}: {error}") from error
        return len(self)

    def _locate(self, index: int) -> tuple[int, int]:
        """Shard number and the record's number in it."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, int(index) - (int(self._ends[shard - 1]) if shard else 0)

    def _open(self, shard: Shard):
        from array_record.python.array_record_module import ArrayRecordReader  # of .[data]: corpora need none

        path = self.folder / shard.file
        self._check_file(path)
        try:
            reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
            count = reader.num_records() if reader.ok() else 0
        except RuntimeError:
            count = 0
        if count != shard.count:
            raise RecordError(f"{path}: holds {count} records, the manifest says {shard.count}: {_MEND}")
        return reader

    def _check_file(self, path: Path) -> None:
        """Raises RecordError where it cannot be opened: ArrayRecord does not say why."""
        try:
            path.open("rb").close()
        except FileNotFoundError:
            raise RecordError(f"{path}: the manifest names it and it is missing: {_MEND}") from None
        except OSError as error:
            mend = f": each of {len(self._shards)} shards is one, raise `ulimit -n`" * (error.errno == errno.EMFILE)
            raise RecordError(f"{path}: {error.strerror}{mend}") from None


def _allow_open_files() -> None:
    """Raise the soft limit to the hard one: a shard is an open file, and a mixture may have thousands."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS takes no infinite one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path, split: str) -> tuple[Mapping[str, Any], list[Shard]]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise RecordError(f"{path}: no such file, so no records here: {_MEND}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"], manifest["split"], manifest.get("kind")
        shards = [Shard(**fields) for fields in manifest["shards"]] if found[0] == FORMAT else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: not a manifest of records ({error}): {_MEND}") from error
    if found[:2] != (FORMAT, split):
        raise RecordError(f"{path}: is format {found[0]} and split '{found[1]}', not {FORMAT} and '{split}': {_MEND}")
    if found[2] not in KINDS:
        raise RecordError(f"{path}: kind '{found[2]}' is none of {', '.join(KINDS)}: {_MEND}")
    return manifest, shards


def _part(files: Sequence[memoryview], number: str) -> memoryview:
    """The picture file that is part `number` of the record."""
    if not number.isdecimal() or not 2 <= int(number) < len(files) + 2:
        raise RecordError(f"the record has no part '{number}': {_MEND}")
    return files[int(number) - 2]
