"""A corpus of this project (data_pipelines/corpus.py) as captioned pictures: each drawing with its subject's name.

Drawings stand on white. A part is a sheet of one style, so that a corpus larger than the memory can be read.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines import corpus
from data_pipelines.pairs import STYLES
from data_pipelines.sources.formats.common import Captioned, Columns, Part
from data_pipelines.sources.item import Skip, SourceError


def is_corpus(folder: Path) -> bool:
    """Whether the folder is one, whole or damaged."""
    return all((folder / name).is_file() for name in ("manifest.json", "index.tsv"))


def list_parts(folder: Path, columns: Columns) -> list[Part]:
    """A part a sheet, in the order of names; depth maps are no pictures. Raises SourceError for a damaged corpus."""
    with _as_source_error():
        shown = [style for style in corpus.sources(folder) if not STYLES[style].depth]
    sheets = sorted(path.stem for style in shown for path in (folder / "sheets").glob(f"{style}-[0-9]*.webp"))
    return [Part("corpus", str(folder), sheet, columns) for sheet in sheets]


def read(part: Part) -> Iterator[Captioned | Skip]:
    """The drawings of one sheet as [S, S, 3] uint8. Raises SourceError for a damaged corpus."""
    folder = Path(part.path)
    with _as_source_error():
        sources = corpus.sources(folder)
        for picture, tile in corpus.read_sheet(folder, part.name):
            yield _captioned(picture, tile, sources[picture.style])


def licences(folder: Path) -> str:
    """The licences of the corpus's drawings, as its manifest names them."""
    with _as_source_error():
        return corpus.licences(folder)


@contextlib.contextmanager
def _as_source_error():
    try:
        yield
    except corpus.CorpusError as error:
        raise SourceError(str(error)) from error


def _captioned(picture: corpus.Picture, tile: np.ndarray, source: Mapping) -> Captioned:
    """The URL names the house and the root: variants of one subject by one house are one design."""
    drawing = Image.fromarray(tile)
    image = np.asarray(Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB"))
    meta = {name: getattr(picture, name) for name in ("subject", "root", "style", "group", "subgroup")}
    meta["keywords"] = ", ".join(picture.keywords)
    key, url = f"{picture.style}/{picture.subject}", f"{source['home']}#{picture.root}"
    return Captioned(key, image, picture.name, url, source["licence"], meta, picture.split)
