"""Parts to rows: captioned pairs are read, filtered and embedded, a block at a time (paper section 3, stage 1).

The block keeps a picture as training will see it, the centre square at `size`, and that file is what is embedded: what
is compared is what is trained on, and anybody can check it from the records.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path, PurePosixPath

import numpy as np

from data_pipelines.images import encode_image, fit_image, read_image
from data_pipelines.retrieval import quality
from data_pipelines.retrieval.blocks import (
    PAIRS_PER_BLOCK,
    READ,
    Block,
    Pair,
    Row,
    WorkFolder,
    block_name,
    with_embedding,
)
from data_pipelines.retrieval.duplicates import Marks, pixel_hash, thumbnail
from data_pipelines.retrieval.settings import Settings, same_marks, split_of
from data_pipelines.sources.captioned import Captioned, Part, read_part
from data_pipelines.sources.formats.common import without_suffix
from data_pipelines.sources.item import Skip

QUALITY, EMBED = "quality", "embed"
KEPT = "kept"  # the outcome of what goes on to the next step; any other is a reason for leaving


@dataclass(frozen=True)
class Embedders:
    """What turns pictures and texts into vectors of length 1; `joint` where both lie in one space, as CLIP's do."""

    image: Callable[[Sequence[np.ndarray]], np.ndarray] | None  # None: --embeddings has them
    text: Callable[[Sequence[str]], np.ndarray] | None
    joint: bool = False


@dataclass
class Screened:
    """What of a block passed the quality filter; rows without embeddings, and the pictures beside them."""

    name: str
    rows: list[Row]
    pictures: list[bytes]
    counts: Counter


def read_blocks(part: Part) -> Iterator[tuple[str, list[Captioned | Skip]]]:
    """Up to 512 undecoded pairs at a time, under the name of their block."""
    items = read_part(part)
    for number in count():
        pairs = list(islice(items, PAIRS_PER_BLOCK))
        if not pairs:
            return
        yield block_name(part, number), pairs


def screen(block: tuple[str, Sequence[Captioned | Skip]], work: WorkFolder, settings: Settings) -> Screened | str:
    """The block's pairs that pass the quality filter; a finished block passes by its name only, undecoded."""
    name, items = block
    if work.has(name):
        return name
    screened = Screened(name, [], [], Counter())
    for item in items:
        if isinstance(item, Skip):
            screened.counts[READ, item.reason] += 1
            continue
        screened.counts[READ, KEPT] += 1
        screened.counts[QUALITY, _screen_pair(item, screened, settings) or KEPT] += 1
    return screened


def _screen_pair(pair: Captioned, screened: Screened, settings: Settings) -> str:
    """Add the pair, or say why not."""
    if reason := quality.fault_of_caption(pair.caption, settings.limits):
        return reason
    at_least = max(settings.size, settings.limits.min_side)
    picture = quality.open_picture(pair.image, settings.limits, at_least)
    if isinstance(picture, str):
        return picture
    stored = fit_image(picture, settings.size)
    marks = Marks(np.zeros(0), thumbnail(stored), pixel_hash(stored), same_marks(pair, settings.same))
    split = split_of(pair, settings)
    known = Pair(pair.key, pair.caption, pair.url, pair.licence, split, _name_of(pair), "", 0)
    screened.rows.append(Row(known, marks, np.zeros(0)))
    screened.pictures.append(encode_image(stored))
    return ""


def _name_of(pair: Captioned) -> str:
    """What a table of embeddings calls the pair: its `key` of img2dataset, else its picture's name."""
    if pair.meta.get("key"):
        return pair.meta["key"]
    return stem_of(str(pair.image) if isinstance(pair.image, Path) else pair.key)


def stem_of(path: str) -> str:
    """'a/b.jpg' -> 'b'; a name without a picture's suffix stays whole."""
    return without_suffix(PurePosixPath(path.replace("\\", "/")).name)


def embed(screened: Screened | str, work: WorkFolder, embedders: Embedders) -> tuple[Sequence[Row], Counter]:
    """The rows of a block with their embeddings; it is finished now, or was before."""
    if isinstance(screened, Screened):
        rows = _embedded(screened, embedders)
        if rows and embedders.image is not None:
            screened.counts[EMBED, KEPT] = len(rows)
        work.write(screened.name, Block(rows, screened.counts), screened.pictures)
    block = work.read(screened.name if isinstance(screened, Screened) else screened)
    return block.rows, block.counts


def _embedded(screened: Screened, embedders: Embedders) -> list[Row]:
    """The rows with what the embedders say; nothing is added where embeddings come from elsewhere."""
    if embedders.image is None or not screened.rows:
        return screened.rows
    vectors = embedders.image([read_image(file) for file in screened.pictures]).astype(np.float16)
    match = np.zeros((len(vectors), 0), np.float16)
    if not embedders.joint:  # the prompts are near to texts only: the captions stand for the pictures
        match = embedders.text([row.pair.caption for row in screened.rows]).astype(np.float16)
    return [with_embedding(row, *found) for row, *found in zip(screened.rows, vectors, match, strict=True)]
