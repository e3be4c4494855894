"""WikiArt, 81,444 paintings with their artist, genre and style: a caption is made of the three (paper, Table 1).

Two layouts: the parquet files of the Hugging Face set huggan/wikiart, whose classes are integers named in the schema's
metadata; and the folder STYLE/artist_title-year.jpg of the ArtGAN authors, whose genres stand in genre_train.csv,
genre_val.csv and genre_class.txt where those lie in the folder, or in wikiart_csv/, too.
"""

import argparse
import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.sources.formats import parquet
from data_pipelines.sources.formats.common import SUFFIXES, Captioned, group_of
from data_pipelines.sources.item import About, Item, Skip, SourceError

HELP = "WikiArt paintings, captioned by artist, genre and style (parquet files or folder)"
ABOUT = About(
    title="WikiArt",
    licence="non-commercial research only; the pictures belong to their artists",
    citation="Tan, Chan, Aguirre, Tanaka: Improved ArtGAN for Conditional Synthesis of Natural Image and Artwork, "
    "IEEE Transactions on Image Processing 28(1), 2019",
    home="https://www.wikiart.org",
)
CLASSES = ("artist", "genre", "style")
_PARTICLES = {"van", "von", "der", "den", "de", "da", "di", "del", "della", "du", "des", "la", "le", "y"}
_WORDS = {  # where a class's name is not what one says
    "sketch_and_study": "sketch",
    "Post_Impressionism": "Post-Impressionism",
    "Naive_Art_Primitivism": "Naive Art",
    "Art_Nouveau_Modern": "Art Nouveau",
}
_PAINTING = re.compile(r"(?P<artist>[^_]+)_(?P<title>.+?)(?:-(?P<year>1[0-9]{3}|20[0-9]{2}))?(?:\([0-9]+\))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare wikiart`."""
    parser.add_argument("--input", required=True, help="the parquet file, or the folder of parquet files or of styles")


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """A text_to_image item a painting. Raises SourceError as read_wikiart does."""
    for painting in read_wikiart(arguments.input):
        if isinstance(painting, Captioned):
            yield Item(painting.key, "text_to_image", painting.image, painting.caption, group=painting.group)
        else:
            yield painting


def read_wikiart(path: str | Path) -> Iterator[Captioned | Skip]:
    """Every painting, not decoded, captioned; meta has 'artist', 'genre' and 'style' in words where they are known.

    Raises SourceError where the folder has neither layout, or parquet files lack a column or the names of its classes.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder: give WikiArt's parquet files, or its folder of styles")
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        yield from _read_folder(path)
    for file in files:
        yield from _read_parquet(file, path if path.is_dir() else path.parent)


def _read_parquet(file: Path, root: Path) -> Iterator[Captioned | Skip]:
    name = file.relative_to(root).with_suffix("").as_posix()
    for row in parquet.read_rows(file, ("image", *CLASSES)):
        if isinstance(row, Skip):
            yield row
            continue
        number, fields = row
        for column in CLASSES:
            if isinstance(fields[column], int):
                raise SourceError(
                    f"{file}: the schema does not name the classes of {column}: download huggan/wikiart's files anew"
                )
        image = parquet.encoded(fields["image"], file.parent)
        if image is None:
            yield Skip(f"{file}: row {number}", "no picture")
        else:
            classes = {column: fields[column] or "" for column in CLASSES}
            yield _captioned(f"{name}:{number}", image, classes, group_of(image))


def _read_folder(folder: Path) -> Iterator[Captioned | Skip]:
    styles = sorted(style for style in folder.iterdir() if style.is_dir())
    files = [file for style in styles for file in sorted(style.iterdir()) if file.suffix.lower() in SUFFIXES]
    if not any(_PAINTING.fullmatch(file.stem) for file in files):
        raise SourceError(f"{folder}: neither parquet files nor STYLE/artist_title-year.jpg: choose another --input")
    genres = _read_genres(folder)
    for file in files:
        parts = _PAINTING.fullmatch(file.stem)
        if parts is None:
            yield Skip(str(file), "not named artist_title")
            continue
        key = f"{file.parent.name}/{file.name}"
        classes = {"artist": parts["artist"], "genre": genres.get(key, ""), "style": file.parent.name}
        more = {"title": parts["title"].replace("-", " "), "year": parts["year"] or ""}
        yield _captioned(key, file, classes, file.stem, more)  # some paintings lie under two styles


def _read_genres(folder: Path) -> dict[str, str]:
    """Genre by 'STYLE/file.jpg', of the lists that are there. Raises SourceError for lists without names."""
    lists = sorted([*folder.glob("genre_*.csv"), *folder.glob("wikiart_csv/genre_*.csv")])
    names: dict[str, str] = {}
    for file in {file.with_name("genre_class.txt") for file in lists}:
        if not file.is_file():
            raise SourceError(f"{file}: no such file, which names the genres of {lists[0].name}: put it there too")
        names.update(line.split(maxsplit=1) for line in file.read_text().splitlines() if " " in line.strip())
    genres = {}
    for file in lists:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            genres.update({row[0]: names.get(row[1].strip(), "") for row in csv.reader(lines) if len(row) == 2})
    return genres


def _captioned(
    key: str, image, classes: Mapping[str, str], group: str, more: Mapping[str, str] | None = None
) -> Captioned:
    known = {column: _in_words(column, name) for column, name in classes.items()}
    meta = {name: text for name, text in (known | dict(more or {})).items() if text}
    return Captioned(key, image, caption_of(meta), licence=ABOUT.licence, meta=meta, group=group)


def _in_words(column: str, name: str) -> str:
    """'vincent-van-gogh' -> 'Vincent van Gogh', 'religious_painting' -> 'religious painting'; '' for 'Unknown ...'."""
    if name.lower().startswith("unknown"):
        return ""
    words = _WORDS.get(name, name.replace("_", " "))
    return _name(words.split("-")) if column == "artist" else words


def _name(words: list[str]) -> str:
    """['m.c.', 'escher'] -> 'M.C. Escher'."""
    small = [word in _PARTICLES and i > 0 for i, word in enumerate(words)]
    capital = [".".join(letters.capitalize() for letters in word.split(".")) for word in words]
    return " ".join(word if keep else high for word, high, keep in zip(words, capital, small, strict=True))


def caption_of(meta: Mapping[str, str]) -> str:
    """'a landscape by Vincent van Gogh in the style of Realism'; what is not known is left out."""
    subject = meta.get("genre", "painting")
    caption = f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"
    if meta.get("artist"):
        caption += f" by {meta['artist']}"
    return caption + (f" in the style of {meta['style']}" if meta.get("style") else "")
