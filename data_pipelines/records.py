"""Record shards: examples written once and streamed at scale, as the paper streams its eleven datasets (section 4.1).

A folder holds one split: `manifest.json` and ArrayRecord shards, each of one task. A record is

    uint32 n | uint32 length_1 ... length_n | part_1 ... part_n          (little endian)

Part 1 is the example as a line of training JSONL (UTF-8), where "image" and "target" are numbers of parts; the other
parts are PNG or WebP files. Needs no TensorFlow.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from data_pipelines.instruction import Instruction, InstructionError, Reference, check, to_json
from data_pipelines.wording import Example

FORMAT = 1
SHARD_RECORDS = 20_000
_MEND = "write it again with `python -m data_pipelines.prepare records`"
_FIELDS = {
    "header": "uint32 n | uint32 length_1 ... length_n, little endian",
    "part 1": "JSON: text, references [{marker, text, image: part number}], target: part number, task",
    "part 2": "the target, PNG or WebP",
    "parts 3 ...": "the references, PNG or WebP",
}


class RecordError(ValueError):
    """A record, shard or manifest that cannot be used; one line with the file and the mend."""


@dataclass(frozen=True)
class Shard:
    """One file of records of one task."""

    file: str
    task: str
    count: int
    sha256: str


def encode(example: Example) -> bytes:
    """The record of an example; pictures as PNG, so nothing is lost."""
    pictures = [example.target, *(reference.image for reference in example.instruction.references)]
    names = [str(part) for part in range(3, len(pictures) + 2)]
    fields = to_json(example.instruction, names) | {"target": "2", "task": example.task}
    parts = [json.dumps(fields, ensure_ascii=False).encode(), *(_png(picture) for picture in pictures)]
    return struct.pack(f"<{len(parts) + 1}I", len(parts), *(len(part) for part in parts)) + b"".join(parts)


def split_parts(record: bytes) -> list[bytes]:
    """The parts of a record. Raises RecordError when the lengths do not fit."""
    try:
        (count,) = struct.unpack_from("<I", record)
        lengths = struct.unpack_from(f"<{count}I", record, 4)
    except struct.error as error:
        raise RecordError(f"the record's header is cut off: {_MEND}") from error
    ends = 4 + 4 * count + np.cumsum((0, *lengths))
    if count < 2 or ends[-1] != len(record):
        raise RecordError(f"the record has {len(record)} bytes, its header says {ends[-1]}: {_MEND}")
    return [record[a:b] for a, b in itertools.pairwise(ends)]


def decode(record: bytes) -> Example:
    """The example of a record, checked. Raises RecordError for whatever is wrong with it."""
    header, *files = split_parts(record)
    return assemble(header, [_open_picture(file) for file in files])


def assemble(header: bytes, pictures: Sequence[np.ndarray]) -> Example:
    """Part 1 and the decoded pictures of parts 2 ... n -> Example. Raises RecordError where they do not fit."""
    try:
        fields = json.loads(header)
        references = tuple(
            Reference(item["marker"], item["text"], _part(pictures, item["image"])) for item in fields["references"]
        )
        example = Example(
            Instruction(fields["text"], references), _part(pictures, fields["target"]), str(fields["task"])
        )
        check(example.instruction)
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"the record's JSON is damaged ({type(error).__name__} {error}): {_MEND}") from error
    except InstructionError as error:
        raise RecordError(f"the record's {error}") from error
    return example


class RecordWriter:
    """Writes examples to a new folder of shards; nothing is there before the `with` block ends well.

    Raises RecordError when the folder exists.
    """

    def __init__(self, folder: str | os.PathLike, split: str, shard_records: int = SHARD_RECORDS):
        self._folder, self._split, self._shard_records = Path(folder), split, shard_records
        self._temporary = self._folder.with_name(f"{self._folder.name}.tmp-{os.getpid()}")
        self._open: dict[str, tuple[str, ArrayRecordWriter, int]] = {}  # task -> file, writer, records so far
        self._shards: list[Shard] = []

    def __enter__(self) -> "RecordWriter":
        if self._folder.exists():
            raise RecordError(f"{self._folder}: exists already: delete it, or choose another --output")
        self._temporary.mkdir(parents=True)
        return self

    def __exit__(self, kind, error, trace):
        for task in list(self._open):
            self._close(task)
        if kind is None:
            self._write_manifest()
            os.replace(self._temporary, self._folder)
        else:
            shutil.rmtree(self._temporary)

    def write(self, example: Example):
        """Add an example to the open shard of its task."""
        file, writer, count = self._open.get(example.task) or self._begin(example.task)
        writer.write(encode(example))
        self._open[example.task] = file, writer, count + 1
        if count + 1 == self._shard_records:
            self._close(example.task)

    def _begin(self, task: str) -> tuple[str, ArrayRecordWriter, int]:
        number = sum(shard.task == task for shard in self._shards)
        file = f"{task}-{number:05d}.array_record"
        return file, ArrayRecordWriter(str(self._temporary / file), "group_size:1,uncompressed"), 0

    def _close(self, task: str):
        file, writer, count = self._open.pop(task)
        writer.close()
        self._shards.append(Shard(file, task, count, _sha256(self._temporary / file)))

    def _write_manifest(self):
        shards = [asdict(shard) for shard in sorted(self._shards, key=lambda shard: shard.file)]
        manifest = {"format": FORMAT, "split": self._split, "record": _FIELDS, "shards": shards}
        (self._temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


class RecordReader:
    """Random access to the records of a folder, by task.

    Attributes:
      counts: task -> number of records.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self._folder = Path(folder)
        self._shards = _read_manifest(self._folder, split)
        self._readers = [self._open(shard) for shard in self._shards]
        self.counts: dict[str, int] = {}
        self._starts: dict[str, list[tuple[int, int]]] = {}  # task -> (first record, shard number), ascending
        for number, shard in enumerate(self._shards):
            first = self.counts.get(shard.task, 0)
            self._starts.setdefault(shard.task, []).append((first, number))
            self.counts[shard.task] = first + shard.count

    def read(self, task: str, index: int) -> bytes:
        """Record `index` of a task, 0 ... counts[task] - 1."""
        first, number = max(start for start in self._starts[task] if start[0] <= index)
        return self._readers[number].read([index - first])[0]

    def verify(self) -> int:
        """Check every shard's checksum and decode every record; returns their number. Raises RecordError."""
        for shard, reader in zip(self._shards, self._readers, strict=True):
            path = self._folder / shard.file
            if _sha256(path) != shard.sha256:
                raise RecordError(f"{path}: its checksum is not the manifest's: {_MEND}")
            for number in range(shard.count):
                try:
                    decode(reader.read([number])[0])
                except RecordError as error:
                    raise RecordError(f"{path}: record {number}: {error}") from error
        return sum(self.counts.values())

    def _open(self, shard: Shard) -> ArrayRecordReader:
        path = self._folder / shard.file
        if not path.is_file():
            raise RecordError(f"{path}: the manifest names it and it is missing: {_MEND}")
        try:
            reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
            count = reader.num_records() if reader.ok() else 0
        except RuntimeError:
            count = 0
        if count != shard.count:
            raise RecordError(f"{path}: holds {count} records, the manifest says {shard.count}: {_MEND}")
        return reader


def _read_manifest(folder: Path, split: str) -> list[Shard]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise RecordError(f"{path}: no such file, so no records here: {_MEND} --split={split} --output={folder}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        shards = [Shard(**fields) for fields in manifest["shards"]]
        found = manifest["format"], manifest["split"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a manifest of records ({error}): {_MEND}") from error
    if found != (FORMAT, split):
        raise RecordError(f"{path}: is format {found[0]} and split '{found[1]}', not {FORMAT} and '{split}': {_MEND}")
    return shards


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _open_picture(file: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(file)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise RecordError(f"a picture of the record is not readable ({error}): {_MEND}") from error


def _part(pictures: Sequence[np.ndarray], number: str) -> np.ndarray:
    """The picture that is part `number` of the record."""
    if not number.isdecimal() or not 2 <= int(number) < len(pictures) + 2:
        raise RecordError(f"the record has no part '{number}': {_MEND}")
    return pictures[int(number) - 2]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
