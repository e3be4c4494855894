"""Stored examples of any form, one by one: training JSONL, a single instruction, prepared data sets of records.

What looks at data without training on it (data_pipelines/validate.py and browse.py) reads it here. All forms say the
same: a multi-modal instruction, and the picture to draw when told so (paper section 3).
"""

import abc
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.corpus import SPLITS
from data_pipelines.instruction import load_instruction, parse_line
from data_pipelines.records import RecordReader
from data_pipelines.wording import Example


class StoredError(ValueError):
    """Something that holds no examples, or a line that is not text; one line that says where, and the mend."""


class Stored(abc.ABC):
    """Random access to stored examples.

    Attributes:
      folder: the file or folder; several of one data set share `name`.
      split: 'train', 'validation', 'test', or '' where there is none.
      manifest: what the preparation said; empty for files.
    """

    def __init__(self, folder: Path, name: str, split: str = "", manifest: Mapping[str, Any] | None = None):
        self.folder, self.name, self.split, self.manifest = folder, name, split, manifest or {}

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def where(self, index: int) -> str:
        """The place of an example, for messages: file:line, or shard and record."""

    @abc.abstractmethod
    def read(self, index: int) -> bytes:
        """An example as it is stored; one thread at a time. Raises ValueError for a damaged shard."""

    @abc.abstractmethod
    def decode(self, index: int, data: bytes) -> Example:
        """The example of what `read` gave; any thread. Raises ValueError, one line, for whatever is wrong with it."""

    @abc.abstractmethod
    def fields(self, data: bytes) -> dict[str, Any]:
        """The words of what `read` gave, without its pictures: task, and of records key and group; {} when damaged."""

    def setting(self, name: str, default: int) -> int:
        """What the data set was prepared with, such as text_length."""
        value = self.manifest.get("arguments", {}).get(name, default)
        return value if isinstance(value, int) else default

    def licence(self) -> str:
        """Title and licence of the source, as far as the manifest tells them."""
        source = self.manifest.get("source", {})
        return ", ".join(str(source[key]) for key in ("title", "licence") if source.get(key))


class Lines(Stored):
    """The lines of a training JSONL file, but for blank ones; only their places are held in memory."""

    def __init__(self, path: Path):
        super().__init__(path, path.name)
        self._numbers, self._starts, position = array("Q"), array("Q"), 0
        self._file = open(path, "rb")  # noqa: SIM115 (stays open)
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                self._numbers.append(number)
                self._starts.append(position)
            position += len(line)

    def __len__(self) -> int:
        return len(self._numbers)

    def where(self, index: int) -> str:
        return f"{self.folder}:{self._numbers[index]}"

    def read(self, index: int) -> bytes:
        self._file.seek(self._starts[index])
        return self._file.readline()

    def decode(self, index: int, data: bytes) -> Example:
        try:
            line = data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise StoredError(f"{self.where(index)}: byte {error.start} is not UTF-8; save it as UTF-8 text") from None
        return Example(*parse_line(line, self.folder, self._numbers[index]))

    def fields(self, data: bytes) -> dict[str, Any]:
        return _words(data.removeprefix(b"\xef\xbb\xbf"))


class Single(Stored):
    """One instruction in a .json file: an example without a target."""

    def __init__(self, path: Path):
        super().__init__(path, path.name)
        path.stat()

    def __len__(self) -> int:
        return 1

    def where(self, index: int) -> str:
        return str(self.folder)

    def read(self, index: int) -> bytes:
        return b""

    def decode(self, index: int, data: bytes) -> Example:
        return Example(load_instruction(self.folder), None, "")

    def fields(self, data: bytes) -> dict[str, Any]:
        return {}


class Records(Stored):
    """One split of a prepared data set. Raises RecordError where its shards or manifest are damaged."""

    def __init__(self, folder: Path):
        self.reader = RecordReader(folder, folder.name)
        super().__init__(folder, folder.parent.name, folder.name, self.reader.manifest)

    def __len__(self) -> int:
        return len(self.reader)

    def where(self, index: int) -> str:
        return self.reader.where(index)

    def read(self, index: int) -> bytes:
        return self.reader.read(index)

    def decode(self, index: int, data: bytes) -> Example:
        return records.decode(data)

    def fields(self, data: bytes) -> dict[str, Any]:
        try:
            return _words(records.split_parts(data)[0])
        except ValueError:
            return {}


def is_corpus(path: Path) -> bool:
    """Whether it is a corpus (data_pipelines/corpus.py), whose examples are made and not stored."""
    return str(path) == "fixture" or (path / "index.tsv").is_file()


def split_folders(path: Path) -> list[Path]:
    """The folders of records at or below `path`: one split, the splits of a data set, or those of all under a root.

    Raises StoredError where there is none.
    """
    found = _splits(path) or ([path] if (path / "manifest.json").is_file() else [])
    if not found and path.is_dir():
        found = [folder for name in sorted(path.iterdir()) if name.suffix != ".tmp" for folder in _splits(name)]
    if not found:
        held = "is no folder" if not path.is_dir() else "holds no manifest.json of records"
        raise StoredError(
            f"{path}: {held}; give a .jsonl or .json file, a data set such as data/records/NAME, or a corpus"
        )
    return found


def open_stored(path: Path) -> list[Stored]:
    """What is stored at `path`, a split each. Raises StoredError where nothing is, RecordError for damaged shards."""
    try:
        if path.suffix == ".jsonl":
            return [Lines(path)]
        if path.suffix == ".json":
            return [Single(path)]
    except OSError as error:
        raise StoredError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return [Records(folder) for folder in split_folders(path)]


def _splits(folder: Path) -> list[Path]:
    return [folder / split for split in SPLITS if (folder / split / "manifest.json").is_file()]


def _words(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
