"""A corpus of small pictures with known subjects, styles and splits: its format on disk, its reader and writer.

It stands in for the image side of the paper's training sets (section 4.1, Table 1). A corpus is a folder:
`manifest.json` (tile size, sources, licences), `index.tsv` (a line a subject, naming its tile in each style) and
`sheets/STYLE-N.webp` (square RGBA tiles, row by row). The bundled fixture and the full corpus differ only in size.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

FORMAT = 1
COLUMNS = 32  # tiles a row of a sheet
TILES_PER_SHEET = COLUMNS * 32
FIELDS = ("subject", "root", "split", "name", "keywords", "group", "subgroup", "tiles")
SPLITS = ("train", "validation", "test")
FIXTURE = Path(__file__).parent / "fixture"

_SUBJECT = re.compile(r"[0-9a-z][0-9a-z_-]*")


class CorpusError(ValueError):
    """A corpus that is missing or damaged; one line with the file, the line number and the mend."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One drawing: what it shows, in which style, and the split it belongs to."""

    subject: str  # its id in lower case; of an emoji the hexcode 'xxxx-xxxx', without fe0f
    root: str  # id of the root subject: variants (tone, gender, hour ...) share it, and a root lies in one split
    style: str  # of a model, the side that is seen
    split: str  # 'train' | 'validation' | 'test'; a held-out style is 'test' whatever its root
    name: str  # 'red apple'; of an emoji the CLDR short name
    keywords: tuple[str, ...]
    group: str  # of an emoji the Unicode group, 'food-drink'; of furniture its category, 'living-room'
    subgroup: str  # of an emoji the Unicode subgroup, 'food-fruit'


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Pictures and their pixels, in the same order."""

    images: np.ndarray  # [N, S, S, 4] uint8, straight-alpha RGBA
    pictures: tuple[Picture, ...]
    sources: Mapping[str, Mapping]  # style -> package, version, sha256, author, licence, home, held_out

    def take(self, ids: Sequence[int]) -> "Corpus":
        """The pictures at these places."""
        return Corpus(self.images[ids], tuple(self.pictures[i] for i in ids), self.sources)


def load_corpus(path: str | Path | Sequence[str | Path], size: int) -> Corpus:
    """Read a corpus with every tile scaled down to `size` pixels.

    `path` is a folder ('fixture': the bundled one), or several, as a sequence or with commas between:
    'data/emoji,data/furniture'. Scaling is Lanczos on premultiplied colour, so no fringe appears at transparent edges.
    Raises CorpusError, one line: a missing or damaged file, a size above the tiles' own, a subject in two folders.
    """
    parts = [_Part(folder, size) for folder in _folders(path)]
    _refuse_doubles(parts)
    images = np.empty((sum(len(part.rows) for part in parts), size, size, 4), np.uint8)
    start = 0
    for part in parts:
        stop = start + len(part.rows)
        _fill(images[start:stop], part.folder, part.manifest["tile_size"], part.rows)
        start = stop
    sources = {style: source for part in parts for style, source in part.manifest["styles"].items()}
    return Corpus(images, tuple(picture for part in parts for picture, _ in part.rows), sources)


class _Part:
    """One folder's manifest and index, read and checked; its tiles are still on disk."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.manifest = folder, _read_manifest(folder)
        own = self.manifest["tile_size"]
        if not 0 < size <= own:
            raise CorpusError(f"{folder}: its tiles are {own} px, {size} px was asked: {_mend(folder)} --size={size}")
        self.rows = list(_read_index(folder, self.manifest["styles"]))


def _folders(path: str | Path | Sequence[str | Path]) -> list[Path]:
    paths = path.split(",") if isinstance(path, str) else [path] if isinstance(path, Path) else path
    folders = [FIXTURE if str(one).strip() == "fixture" else Path(str(one).strip()) for one in paths]
    if not folders:
        raise CorpusError("no corpus is named: give a folder, several joined by commas, or 'fixture'")
    return folders


def _refuse_doubles(parts: Sequence[_Part]) -> None:
    """A subject of two folders might lie in two splits, and its pictures would be counted twice."""
    owners: dict[str, Path] = {}
    for part in parts:
        subjects = dict.fromkeys(picture.subject for picture, _ in part.rows)
        double = next((subject for subject in subjects if subject in owners), None)
        if double is not None:
            raise CorpusError(
                f"subject '{double}' is in {owners[double]} and again in {part.folder}: name only one of the two"
            )
        owners |= dict.fromkeys(subjects, part.folder)


def tile_size(folder: Path) -> int:
    """The side of a corpus's pictures in pixels. Raises CorpusError as load_corpus does."""
    return _read_manifest(folder)["tile_size"]


def sources(path: str | Path | Sequence[str | Path]) -> dict[str, Mapping]:
    """Where each style comes from: Corpus.sources, without the pictures. `path` and errors as of load_corpus."""
    return {style: source for folder in _folders(path) for style, source in _read_manifest(folder)["styles"].items()}


def licences(path: str | Path | Sequence[str | Path]) -> str:
    """The licences of a corpus's pictures, each once. `path` and errors as of load_corpus."""
    return ", ".join(sorted({source["licence"] for source in sources(path).values()}))


def read_sheet(folder: Path, sheet: str) -> Iterator[tuple[Picture, np.ndarray]]:
    """The pictures of one sheet ('noto-0') and their tiles [S, S, 4], at their own size, so without the other sheets.

    Raises CorpusError as load_corpus does.
    """
    style, _, number = sheet.rpartition("-")
    size, image = tile_size(folder), _open_sheet(folder, f"{sheet}.webp")
    for picture, position in _read_index(folder, sources(folder)):
        at, tile = divmod(position, TILES_PER_SHEET)
        if picture.style == style and at == int(number):
            yield picture, _cut(image, tile, size, size, folder / "sheets" / f"{sheet}.webp")


def _mend(folder: Path) -> str:
    if folder == FIXTURE:
        return "restore data_pipelines/fixture, or use the full corpus of `python -m data_pipelines.prepare emoji`"
    family = "furniture" if "furniture" in folder.name else "emoji"  # the names that `prepare` proposes
    return f"delete it and build it with `python -m data_pipelines.prepare {family} --output={folder}`"


def _read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    if not path.is_file():
        mend = _mend(folder).removeprefix("delete it and ")  # what stands there may be anything
        raise CorpusError(f"{folder} is no corpus: it has no manifest.json: {mend}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or manifest["tile_size"] < 1 or not manifest["styles"]:
            raise ValueError(f"not a corpus of format {FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path}: unreadable ({error}): {_mend(folder)}") from error
    return manifest


def _read_index(folder: Path, styles: Mapping[str, Mapping]) -> Iterator[tuple[Picture, int]]:
    """Every picture with its tile number inside its style."""
    path = folder / "index.tsv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: unreadable ({type(error).__name__}): {_mend(folder)}") from error
    if not lines or lines[0].split("\t") != list(FIELDS):
        raise CorpusError(f"{path}:1: the header is not '{' '.join(FIELDS)}': {_mend(folder)}")
    for number, line in enumerate(lines[1:], start=2):
        try:
            yield from _read_line(line, styles)
        except ValueError as error:
            raise CorpusError(f"{path}:{number}: {error}: {_mend(folder)}") from error


def _read_line(line: str, styles: Mapping[str, Mapping]) -> Iterator[tuple[Picture, int]]:
    values = line.split("\t")
    if len(values) != len(FIELDS):
        raise ValueError(f"{len(values)} tab-separated fields, expected {len(FIELDS)}")
    subject, root, split, name, keywords, group, subgroup, tiles = values
    if not _SUBJECT.fullmatch(subject) or not _SUBJECT.fullmatch(root):
        raise ValueError(f"'{subject}' or its root '{root}' is not an id of a-z, 0-9, - and _")
    if split not in SPLITS:
        raise ValueError(f"split '{split}' is none of {', '.join(SPLITS)}")
    for tile in tiles.split():
        style, _, position = tile.partition(":")
        if style not in styles or not position.isdecimal():
            raise ValueError(f"tile '{tile}' is not STYLE:NUMBER of a style in manifest.json")
        shown = "test" if styles[style]["held_out"] else split
        picture = Picture(subject, root, style, shown, name, tuple(keywords.split("|")), group, subgroup)
        yield picture, int(position)


def _sheet_name(style: str, number: int) -> str:
    return f"{style}-{number}.webp"


def _fill(images: np.ndarray, folder: Path, tile_size: int, rows: Iterable[tuple[Picture, int]]) -> None:
    """Decode each sheet once, in threads, and write its scaled tiles into `images`."""
    wanted: dict[str, list[tuple[int, int]]] = {}
    for i, (picture, position) in enumerate(rows):
        number, tile = divmod(position, TILES_PER_SHEET)
        wanted.setdefault(_sheet_name(picture.style, number), []).append((i, tile))

    def fill_from(name: str) -> None:
        sheet = _open_sheet(folder, name)
        for i, tile in wanted[name]:
            images[i] = _cut(sheet, tile, tile_size, images.shape[1], folder / "sheets" / name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill_from, wanted))


def _open_sheet(folder: Path, name: str) -> Image.Image:
    path = folder / "sheets" / name
    try:
        with Image.open(path) as sheet:
            return sheet.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a readable picture"
        raise CorpusError(f"{path}: {reason}: {_mend(folder)}") from error


def _cut(sheet: Image.Image, tile: int, tile_size: int, size: int, path: Path) -> np.ndarray:
    row, column = divmod(tile, COLUMNS)
    left, top = column * tile_size, row * tile_size
    if left + tile_size > sheet.width or top + tile_size > sheet.height:
        raise CorpusError(f"{path}: has no tile {tile}: {_mend(path.parent.parent)}")
    cut = sheet.crop((left, top, left + tile_size, top + tile_size))
    return np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))  # Pillow premultiplies RGBA while resizing


class SheetWriter:
    """Collects one style's tiles into sheets/STYLE-N.webp; `encoding` goes to Pillow's WebP writer."""

    def __init__(self, folder: Path, style: str, tile_size: int, **encoding):
        self._folder, self._style, self._size, self._encoding = folder / "sheets", style, tile_size, encoding
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tiles: list[np.ndarray] = []
        self._written = 0

    def add(self, tile: np.ndarray) -> int:
        """Append a tile [S, S, 4] and return its number inside the style."""
        self._tiles.append(tile)
        number = self._written * TILES_PER_SHEET + len(self._tiles) - 1
        if len(self._tiles) == TILES_PER_SHEET:
            self.flush()
        return number

    def flush(self) -> None:
        """Write the sheet begun, if any; call once after the last tile."""
        if not self._tiles:
            return
        height = -(-len(self._tiles) // COLUMNS)
        grid = np.zeros((height * COLUMNS, self._size, self._size, 4), np.uint8)
        grid[: len(self._tiles)] = self._tiles
        grid = grid.reshape(height, COLUMNS, self._size, self._size, 4).swapaxes(1, 2)
        sheet = Image.fromarray(grid.reshape(height * self._size, COLUMNS * self._size, 4))
        sheet.save(self._folder / _sheet_name(self._style, self._written), "WEBP", **self._encoding)
        self._tiles, self._written = [], self._written + 1


def write_index(
    folder: Path, tile_size: int, sources: Mapping[str, Mapping], names: Mapping, rows: Iterable[Iterable[str]]
) -> None:
    """Write index.tsv (`rows` in the order of FIELDS) and then manifest.json, whose presence says: complete.

    `sources` tells where each style's drawings come from, `names` where the subjects' names and keywords do.
    """
    lines = ["\t".join(row) for row in (FIELDS, *rows)]
    (folder / "index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest = {"format": FORMAT, "tile_size": tile_size, "names": names, "styles": sources}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
