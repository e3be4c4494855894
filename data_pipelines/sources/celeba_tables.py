"""The text files published with CelebA and CelebA-HQ: whose each photograph is, what it shows, where it came from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.sources.item import SourceError

CELEBA_PAGE = "the page of CelebA (Large-scale CelebFaces Attributes Dataset)"
HQ_PAGE = "the page of CelebAMask-HQ, in its archive"
IDENTITIES, ATTRIBUTES = "identity_CelebA.txt", "list_attr_celeba.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"


def find(folder: str | Path, name: str, page: str = CELEBA_PAGE, option: str = "") -> Path:
    """The file or folder `name`, in `folder` or one level below it. Raises SourceError with where it is published."""
    found = [*sorted(Path(folder).glob(name)), *sorted(Path(folder).glob(f"*/{name}"))]
    if not found:
        mend = f"load it there{f', or give its place by {option}' if option else ''}"
        raise SourceError(f"{folder}: no {name} there: it is published on {page}: {mend}")
    return found[0]


def list_pictures(folder: Path) -> list[str]:
    """The names of the pictures in the folder, sorted. Raises SourceError where it has none."""
    found = folder.iterdir() if folder.is_dir() else ()
    names = sorted(path.name for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not names:
        raise SourceError(f"{folder}: no .jpg or .png there: unpack the pictures, or correct --input")
    return names


def read_identities(path: Path) -> dict[str, int]:
    """File name -> identity, of lines '000001.jpg 2880'. Raises SourceError for another line, or no such file."""
    identities = {}
    for where, words in _rows(path, ("file", "identity"), first=1):
        if not words[1].isdigit():
            raise SourceError(f"{where}: '{words[1]}' is not the number of an identity: load the file again")
        identities[words[0]] = int(words[1])
    return identities


def read_attributes(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """File name -> [len(names)] bool: a line with a count, one with headings, then lines of a name and 1 or -1.

    Raises SourceError, naming the columns found, where one of `names` is missing.
    """
    headings = next((words for _, words in _rows(path, (), first=2)), [])
    _require(path, names, headings)
    columns = [1 + headings.index(name) for name in names]
    rows = _rows(path, ("file", *headings), first=3)
    return {words[0]: np.array([words[column] == "1" for column in columns]) for _, words in rows}


def read_mapping(path: Path) -> dict[int, str]:
    """Number of a picture of CelebA-HQ -> file name in CelebA; by its headings idx and orig_file."""
    headings = next((words for _, words in _rows(path, (), first=1)), [])
    _require(path, ("idx", "orig_file"), headings)
    index, original = headings.index("idx"), headings.index("orig_file")
    mapping = {}
    for where, words in _rows(path, headings, first=2):
        if not words[index].isdigit():
            raise SourceError(f"{where}: '{words[index]}' is not the number of a picture: load the file again")
        mapping[int(words[index])] = words[original]
    return mapping


def _require(path: Path, names: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in names if name not in found]:
        raise SourceError(f"{path}: no column {', '.join(missing)}: its columns are {', '.join(found) or 'none'}")


def _rows(path: Path, columns: Sequence[str], first: int) -> Iterator[tuple[str, list[str]]]:
    """file:line and the words of each line from line `first` on."""
    if not path.is_file():
        raise SourceError(
            f"{path}: no such file: it is published on {HQ_PAGE if path.name == MAPPING else CELEBA_PAGE}"
        )
    with path.open(encoding="utf-8", errors="replace") as file:
        for line, text in enumerate(file, start=1):
            words = text.split()
            if line < first or not words:
                continue
            if len(words) < len(columns):
                raise SourceError(f"{path}:{line}: lacks one of the columns {' '.join(columns)}: load the file again")
            yield f"{path}:{line}", words
