"""The work folder of the retrieval pipeline: rows, and the blocks of pictures and embeddings that a killed run keeps.

A block is up to 512 pairs of one part, read, filtered and embedded (the dear steps of paper section 3, stage 1). It is
a zip file under a name that follows from its part and place, written beside and renamed: it is whole or not there, and
a run that finds it does not embed it again. Only rows travel between workers; pictures stay in their block.
"""

import dataclasses
import hashlib
import io
import json
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_pipelines.retrieval.duplicates import Marks
from data_pipelines.sources.captioned import Part

PAIRS_PER_BLOCK = 512
READ = "read"  # the step that counts all that the input has


class WorkError(ValueError):
    """A work folder that belongs to other settings or is damaged; one line with the mend."""


@dataclass(frozen=True)
class Pair:
    """A picture and its text, as they go into a record: the picture stays where it lies."""

    key: str
    caption: str
    url: str
    licence: str
    split: str
    name: str  # what pre-computed embeddings call it
    block: str = ""  # the block of its picture, and its number there
    number: int = 0


@dataclass(frozen=True)
class Row:
    """A pair with all that it is compared by."""

    pair: Pair
    marks: Marks
    match: np.ndarray  # [D] what domains are matched to; [0] where that is the embedding itself


@dataclass(frozen=True)
class Block:
    """Finished work on some pairs: `counts` are (step, outcome) -> number of pairs."""

    rows: Sequence[Row]
    counts: Counter


def block_name(part: Part, number: int) -> str:
    """The same in every run over the same files: a part that was written anew gets new blocks."""
    path = Path(part.path)
    written = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else ()
    return f"{hashlib.sha256(repr((part, written)).encode()).hexdigest()[:20]}-{number:05d}"


class WorkFolder:
    """Blocks on a disk that all workers see; picklable."""

    def __init__(self, path: Path):
        self.path = path

    def start(self, settings: Mapping) -> int:
        """Make the folder, or go on in it: the number of blocks that are there.

        Raises WorkError for other settings, and for a folder of other things: all of it is deleted at the end of a run.
        """
        file = self.path / "settings.json"
        found = () if file.exists() or not self.path.exists() else sorted(path.name for path in self.path.iterdir())
        if others := [name for name in found if name != "blocks" and not name.startswith("settings.json")]:
            raise WorkError(f"{self.path}: holds something else ({others[0]}): give a new or empty folder as --work")
        (self.path / "blocks").mkdir(parents=True, exist_ok=True)
        if file.exists():
            found = _read_settings(file)
            changed = sorted(name for name in {*settings, *found} if settings.get(name) != found.get(name))
            if changed:
                first, both = changed[0], settings.keys() & found.keys()
                other = f"with {first}={found[first]}, not {settings[first]}" if first in both else "by another version"
                raise WorkError(f"{self.path}: was begun {other}: delete it, or give another --work")
        else:
            replace_file(file, json.dumps(settings, indent=1).encode() + b"\n")
        return len(self.blocks())

    def blocks(self) -> list[str]:
        """Names of the finished blocks, in order."""
        return sorted(path.stem for path in (self.path / "blocks").glob("*.zip"))

    def has(self, name: str) -> bool:
        """Whether the block is finished."""
        return self._file(name).exists()

    def write(self, name: str, block: Block, pictures: Sequence[bytes]) -> None:
        """Finish a block; `pictures` are encoded files in the order of its rows."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("counts.json", json.dumps([[*key, n] for key, n in sorted(block.counts.items())]))
            texts = json.dumps([_texts(row) for row in block.rows], ensure_ascii=False)
            file.writestr("rows.json", texts.encode(errors="replace"))  # a file's name need not be UTF-8
            for field in ("embedding", "thumbnail"):
                file.writestr(f"{field}.npy", _pack([getattr(row.marks, field) for row in block.rows]))
            file.writestr("match.npy", _pack([row.match for row in block.rows]))
            for number, picture in enumerate(pictures):
                file.writestr(str(number), picture)
        replace_file(self._file(name), stream.getvalue())

    def read(self, name: str) -> Block:
        """A finished block without its pictures."""
        with self._open(name) as file:
            texts = json.loads(file.read("rows.json"))
            arrays = [np.load(io.BytesIO(file.read(f"{field}.npy"))) for field in ("embedding", "thumbnail", "match")]
        rows = [_row(texts[i], *(array[i] for array in arrays), name, i) for i in range(len(texts))]
        return Block(rows, self.counts(name))

    def counts(self, name: str) -> Counter:
        """How many pairs of a finished block took which way."""
        with self._open(name) as file:
            return Counter({(step, outcome): n for step, outcome, n in json.loads(file.read("counts.json"))})

    def read_pairs(self, name: str) -> int:
        """How many pairs of the input a finished block has settled."""
        return sum(n for (step, _), n in self.counts(name).items() if step == READ)

    def picture(self, name: str, number: int) -> bytes:
        """The encoded picture of a row."""
        with _whole(self._file(name)):
            return _open(str(self._file(name))).read(str(number))

    @contextmanager
    def _open(self, name: str) -> Iterator[zipfile.ZipFile]:
        with _whole(self._file(name)), zipfile.ZipFile(self._file(name)) as file:
            yield file

    def _file(self, name: str) -> Path:
        return self.path / "blocks" / f"{name}.zip"


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Raises WorkError where the block is damaged, as after a power failure."""
    try:
        yield
    except (zipfile.BadZipFile, KeyError):
        raise WorkError(f"{file}: damaged: delete it and run again") from None


@lru_cache(maxsize=64)
def _open(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _texts(row: Row) -> dict:
    fields = {name: getattr(row.pair, name) for name in ("key", "caption", "url", "licence", "split", "name")}
    return fields | {"pixels": row.marks.pixels, "same": row.marks.same}


def _row(texts: dict, embedding, thumbnail, match, block: str, number: int) -> Row:
    marks = Marks(embedding, thumbnail, texts.pop("pixels"), tuple(texts.pop("same")))
    return Row(Pair(**texts, block=block, number=number), marks, match)


def with_embedding(row: Row, embedding: np.ndarray, match: np.ndarray) -> Row:
    """The row with an embedding [D], and what domains are matched to, [0] where that is the embedding."""
    return Row(row.pair, dataclasses.replace(row.marks, embedding=embedding), match)


def _pack(arrays: Sequence[np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.stack(arrays) if arrays else np.zeros((0, 0), np.float16))
    return stream.getvalue()


def _read_settings(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WorkError(f"{file}: unreadable ({error}): delete {file.parent}, or give another --work") from None


def replace_file(file: Path, content: bytes) -> None:
    """Write beside and rename, so that a killed run leaves no half file under the name."""
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # or a power failure may leave an empty file under the name
    os.replace(temporary, file)
