"""Writes a prepared data set: all splits of it, or nothing (the paper makes its data sets once, section 4.1).

Everything goes to a temporary folder beside the data set, which is renamed at the end. A killed run leaves only that
folder, and the next run of the same data set removes it.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_pipelines.records import FORMAT, RecordError, Shard, sha256

SHARD_RECORDS = 20_000
_OPTIONS = "group_size:1,uncompressed"  # one record a chunk, for random access; pictures are compressed already


class SplitWriter:
    """Writes the shards of one split to an existing folder; `finish` adds the manifest."""

    def __init__(self, folder: Path, split: str, shard_records: int = SHARD_RECORDS):
        self._folder, self._split, self._shard_records = folder, split, shard_records
        self._shards: list[Shard] = []
        self._writer, self._count = None, 0

    def write(self, record: bytes) -> None:
        """Add a record to the open shard."""
        if self._writer is None:
            from array_record.python.array_record_module import ArrayRecordWriter

            self._writer = ArrayRecordWriter(str(self._folder / self._file()), _OPTIONS)
        self._writer.write(record)
        self._count += 1
        if self._count == self._shard_records:
            self.close()

    def finish(self, **fields: Any) -> None:
        """Close the last shard and write the manifest; `fields` are added to it, and kind must be among them."""
        self.close()
        write_manifest(self._folder, self._split, self._shards, **fields)

    def close(self) -> None:
        """Close the open shard, if any."""
        if self._writer is not None:
            self._writer.close()
            self._shards.append(Shard(self._file(), self._count, sha256(self._folder / self._file())))
            self._writer, self._count = None, 0

    def _file(self) -> str:
        return f"{len(self._shards):05d}.array_record"


class DatasetWriter:
    """Writes the data set `folder`, split by split; nothing is there before the `with` block ends well.

    with DatasetWriter(folder) as writer:
        writer.split("train").write(record)
        writer.split("train").finish(kind="examples", ...)

    Raises RecordError when the folder exists, or when another run is writing it.
    """

    def __init__(self, folder: str | os.PathLike, shard_records: int = SHARD_RECORDS):
        self._folder, self._shard_records = Path(folder), shard_records
        self._temporary = self._folder.with_name(f"{self._folder.name}.tmp")
        self._splits: dict[str, SplitWriter] = {}

    def __enter__(self) -> "DatasetWriter":
        if self._folder.exists():
            raise RecordError(f"{self._folder}: exists already: delete it, or choose another --output")
        self._lock = claim(self._temporary)
        return self

    def __exit__(self, kind, error, trace):
        with self._lock:
            for split in self._splits.values():
                split.close()
            if kind is None:
                (self._temporary / "lock").unlink()
                os.replace(self._temporary, self._folder)
            else:
                shutil.rmtree(self._temporary)

    def split(self, name: str) -> SplitWriter:
        """The writer of a split, made at its first use."""
        if name not in self._splits:
            (self._temporary / name).mkdir()
            self._splits[name] = SplitWriter(self._temporary / name, name, self._shard_records)
        return self._splits[name]


def write_manifest(folder: Path, split: str, shards: Iterable[Shard], **fields: Any) -> None:
    """The manifest of a split's folder. `kind` must be among the fields, and "threshold" too where it is 'clusters'."""
    manifest = {"format": FORMAT, "split": split, **fields}
    manifest["shards"] = [asdict(shard) for shard in sorted(shards, key=lambda shard: shard.file)]
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8", errors="replace")


def claim(temporary: Path):
    """Make the folder empty and this process's own for as long as the file returned is open."""
    temporary.mkdir(parents=True, exist_ok=True)
    lock = open(temporary / "lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RecordError(f"{temporary}: another run is writing it: wait, or choose another --output") from None
    for path in temporary.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return lock
