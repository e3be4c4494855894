"""Random access to the records of a data set that TFDS has prepared, in either of its file formats, without TensorFlow.

TFDS gives random access to ArrayRecord files only and prepares TFRecord files by default. A TFRecord is
`uint64 length | uint32 crc | payload | uint32 crc` (TensorFlow's format page), so one walk over the lengths makes a
TFRecord file seekable. The sources need it for references: other pictures of the same identity lie anywhere.
"""

import itertools
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.sources.item import SourceError

_HEADER, _CRC = struct.Struct("<QI"), 4
_BROKEN = (DecodeError, OSError, RuntimeError)  # of protobuf, of a missing file, of ArrayRecord


class Records(Sequence):
    """The records of all splits by number, each as flat feature name -> list of its values (bytes, int or float)."""

    def __init__(self, folder: Path, splits: Mapping[str, Sequence[bytes]]):
        self._folder, self._names, self._splits = folder, list(splits), list(splits.values())
        self._starts = _starts(self._splits)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Mapping[str, Sequence]:
        split, row = _locate(self._starts, index)
        try:
            features = tf_example_pb2.Example.FromString(bytes(self._splits[split][row])).features.feature
        except _BROKEN as error:
            raise SourceError(f"{self._folder}: {self.key(index)} is broken: prepare the data set again") from error
        return {name: getattr(feature, feature.WhichOneof("kind")).value for name, feature in features.items()}

    def key(self, index: int) -> str:
        """'train-000012': the same for the same prepared files."""
        split, row = _locate(self._starts, index)
        return f"{self._names[split]}-{row:06d}"


def open_records(name: str, data_dir: str | os.PathLike, features: Sequence[str]) -> Records:
    """The prepared data set `name`, "celeb_a/2.1.0"; its records stay on disk.

    Raises SourceError where it is not prepared, lacks one of `features` ("identity/Identity_No"), or a file is cut off.
    """
    folder = Path(data_dir) / name
    if not (folder / "dataset_info.json").is_file():
        call = f"tfds.builder('{name.rpartition('/')[0]}', data_dir='{data_dir}').download_and_prepare()"
        raise SourceError(f"{folder}: no TFDS data set there: prepare it with {call}, or correct --data_dir")
    builder = tfds.builder_from_directory(folder)
    records = Records(folder, {split: _open_split(builder, split) for split in builder.info.splits})
    found = records[0] if len(records) else {}
    if missing := [feature for feature in features if feature not in found]:
        names = ", ".join(sorted(found)) or "none"
        raise SourceError(f"{folder}: no feature {', '.join(missing)}: its features are {names}")
    return records


def _starts(parts: Sequence[Sequence]) -> list[int]:
    return [0, *itertools.accumulate(len(part) for part in parts)]


def _locate(starts: Sequence[int], index: int) -> tuple[int, int]:
    """Which part item `index` of all lies in, and where in it."""
    if not 0 <= index < starts[-1]:
        raise IndexError(index)
    part = bisect_right(starts, index) - 1
    return part, index - starts[part]


def _open_split(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[bytes]:
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        return TFRecords([Path(path) for path in builder.info.splits[split].filepaths])
    return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


class TFRecords(Sequence):
    """The payloads of TFRecord files by number. Raises SourceError when a file ends early."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths
        self._offsets = [_offsets(path) for path in paths]
        self._starts = _starts(self._offsets)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes:
        shard, row = _locate(self._starts, index)
        with open(self._paths[shard], "rb") as file:
            file.seek(self._offsets[shard][row])
            length, _ = _HEADER.unpack(file.read(_HEADER.size))
            return file.read(length)


def _offsets(path: Path) -> np.ndarray:
    """Where each record of the file begins, int64."""
    if not path.is_file():
        raise SourceError(f"{path}: is missing: prepare the data set again")
    return np.fromiter(_walk(path), np.int64)


def _walk(path: Path) -> Iterator[int]:
    size, offset = path.stat().st_size, 0
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            end = offset + _HEADER.size + (_HEADER.unpack(header)[0] if len(header) == _HEADER.size else size) + _CRC
            if end > size:
                raise SourceError(f"{path}: is cut off in the record at byte {offset}: prepare the data set again")
            yield offset
            offset = end
