"""What all formats of captioned pictures share: the picture with its caption, the part, and which column is which.

A part is what one worker reads alone: a file of shards, or a slice of a folder. Paper section 3 trains stage 1 on
web-scale (image, text) pairs, so a set is never read through one door.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.sources.item import Pixels, Skip, SourceError

IMAGE_COLUMNS = ("image", "file_name", "jpg", "png", "webp")  # of image folders, Hugging Face and img2dataset
CAPTION_COLUMNS = ("caption", "text", "txt", "TEXT", "captions")
URL_FIELDS = ("url", "URL", "image_url")
LICENCE_FIELDS = ("license", "LICENSE", "licence")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SPLITS = {
    "train": "train",
    "restval": "train",  # the rest of COCO's validation pictures, as Karpathy and Li divide them
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Captioned:
    """A picture, not decoded where it can be, with its caption and what else is known of it."""

    key: str  # unique in the data set and the same in every run
    image: Pixels
    caption: str
    url: str = ""
    licence: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)  # further fields, as text
    split: str = ""  # the data set's own: 'train' | 'validation' | 'test', or '' where it has none
    group: str = ""  # of one picture under all its captions: decides the split where the set has none


@dataclass(frozen=True)
class Columns:
    """Which column holds what; '' is the first known name that is there."""

    image: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Part:
    """A share of a data set that one worker reads alone; small, and picklable."""

    format: str  # a module of data_pipelines/sources/formats
    path: str
    name: str  # unique in the data set: its keys begin with it
    columns: Columns = Columns()
    start: int = 0  # rows [start, stop) of the file, or of the TFDS split
    stop: int = 0
    members: tuple[str, ...] = ()  # picture files of a folder without a caption file; the TFDS split
    split: str = ""


def resolve(columns: Columns, found: Sequence[str], where: str) -> Columns:
    """The columns by name. Raises SourceError, naming those found, where one is missing."""
    image = _pick("image", columns.image, IMAGE_COLUMNS, found, where)
    caption = _pick("caption", columns.caption, CAPTION_COLUMNS, found, where)
    if image == caption:
        raise SourceError(f"{where}: column '{image}' cannot be both picture and caption: choose another")
    return Columns(image, caption)


def _pick(what: str, wanted: str, known: Sequence[str], found: Sequence[str], where: str) -> str:
    for name in (wanted,) if wanted else known:
        if name in found:
            return name
    missing = f"no column '{wanted}'" if wanted else f"no {what} column ({', '.join(known)})"
    raise SourceError(f"{where}: {missing}: its columns are {', '.join(found)}: give --{what}_column=NAME")


def make_captioned(
    where: str, key: str, image: Pixels | None, caption: object, fields: Mapping, split: str = "", path: str = ""
) -> Captioned | Skip:
    """The picture with its caption, or the Skip that says what it lacks.

    Of several captions one is chosen by the hash of the key. `fields` are the row's other columns, `path` is the
    picture's below the folder of the data set.
    """
    if str(fields.get("status")).startswith("failed_to_"):  # img2dataset keeps a row for what it could not download
        return Skip(f"{where}: {key}", "not downloaded")
    if isinstance(caption, (list, tuple)):
        caption = caption[zlib.crc32(key.encode(errors="surrogatepass")) % len(caption)] if caption else ""
    caption = _utf8(" ".join(caption.split())) if isinstance(caption, str) else ""
    if not caption:
        return Skip(f"{where}: {key}", "no caption")
    if image is None or (isinstance(image, bytes) and not image):
        return Skip(f"{where}: {key}", "no picture")
    meta = {name: _utf8(str(value)) for name, value in fields.items() if isinstance(value, (str, int, float))}
    url, licence = _first(meta, URL_FIELDS), _first(meta, LICENCE_FIELDS)
    return Captioned(key, image, caption, url, licence, meta, split, "" if split else group_of(image, path, url))


def group_of(image: Pixels, path: str = "", url: str = "") -> str:
    """The name of a picture under whatever key: its URL, else its path in the data set, else a hash of its file."""
    if url or path:
        return url or path
    if isinstance(image, os.PathLike):
        file = Path(image)
        image = file.read_bytes() if file.is_file() else os.fsencode(file.name)  # a missing one is skipped later
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def _utf8(text: str) -> str:
    """The text without half characters, such as '\\ud83d', which JSON may hold and no record can."""
    return text.encode(errors="replace").decode()


def _first(meta: Mapping[str, str], names: Sequence[str]) -> str:
    return next((meta[name] for name in names if meta.get(name)), "")


def split_of(name: str) -> str:
    """The split that a name tells: 'dev-00000-of-00004', 'val/00012' or 'val2017' -> 'validation'; '' where none."""
    words = (re.split("[-_.0-9]", step, maxsplit=1)[0].lower() for step in reversed(name.split("/")))
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


def without_suffix(name: str) -> str:
    """'a/b.jpg' -> 'a/b'; a name without a picture's suffix stays whole."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def own_splits(names: Sequence[str]) -> list[str]:
    """The split that each name tells; none where all say 'train', or all 'validation': such a set is dealt.

    It has nothing to test on, or nothing to train on. What has only 'test' stays held out.
    """
    splits = [split_of(name) for name in names]
    return [""] * len(splits) if set(splits) in ({"train"}, {"validation"}) else splits


def tfds_name(spec: str) -> str:
    """'coco_captions' of 'tfds:coco_captions/2014:1.1.0@data'; '' where `spec` names no TFDS set."""
    return re.split("[/:@]", spec.removeprefix("tfds:"), maxsplit=1)[0] if spec.startswith("tfds:") else ""


def parse_object(text: str | bytes) -> dict | None:
    """A JSON object; None where the text is not one."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def file_parts(form: str, files: Sequence[Path], root: Path, columns: Columns) -> list[Part]:
    """A part a file of shards, named by its path below `root` without the suffix: 'train/00000'."""
    names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    named = zip(files, names, own_splits(names), strict=True)
    return [Part(form, str(file), name, columns, split=split) for file, name, split in named]
