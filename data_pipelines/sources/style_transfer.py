"""Style transfer pairs: content pictures drawn in the styles of others by the arbitrary-style network.

The last row of the paper's Table 1, made as there: contents x WikiArt styles through Ghiasi et al.'s network (2017),
whose drawing is the target. Style pictures are dealt to splits too, so none of test was ever seen in training.
"""

import argparse
import dataclasses
import heapq
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines import packages
from data_pipelines.images import ImageError, fit_image, read_image
from data_pipelines.networks import style
from data_pipelines.sources import captioned, captions, wikiart
from data_pipelines.sources.captioned import Captioned
from data_pipelines.sources.formats.common import SUFFIXES
from data_pipelines.sources.item import About, Item, Skip, SourceError
from data_pipelines.splits import Splitter, stable_hash

HELP = "style transfer pairs, drawn by the packaged arbitrary-style network"
ABOUT = About(
    title="style transfer pairs of the arbitrary-style network",
    licence="styles as their source says (WikiArt: non-commercial research only); weights Apache-2.0",
    citation="Ghiasi, Lee, Kudlur, Dumoulin, Shlens: Exploring the structure of a real-time, arbitrary neural artistic "
    "stylization network, BMVC 2017",
    home=packages.STYLE_TRANSFER.home,
)


@dataclasses.dataclass(frozen=True)
class Style:
    """A style picture, ready to be drawn with."""

    key: str
    text: str  # of its reference: "Realism style", or "style image" where its name is not known
    picture: np.ndarray  # [S, S, 3] uint8
    code: np.ndarray  # [100] float32


def about(arguments: argparse.Namespace) -> About:
    """ABOUT with the licence of the contents."""
    return dataclasses.replace(ABOUT, licence=f"contents: {captions.about(arguments).licence}; {ABOUT.licence}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare style_transfer`."""
    captioned.add_arguments(parser)
    parser.add_argument(
        "--styles", required=True,
        help="the style pictures: WikiArt's parquet files, a folder of STYLE/*.jpg, or captioned pictures as --input",
    )  # fmt: skip
    parser.add_argument("--per_content", type=int, default=1, help="styles a content picture (default: %(default)s)")
    parser.add_argument(
        "--max_styles", type=int, default=1000, help="most style pictures, kept in memory (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=packages.CACHE, help="folder of fetched packages (default: %(default)s)"
    )


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """--per_content items a picture. Raises SourceError, or FetchError for the network."""
    if min(arguments.per_content, arguments.max_styles) < 1:
        raise SourceError("--per_content and --max_styles must be 1 or more")
    network = style.load(packages.fetch(packages.STYLE_TRANSFER, arguments.cache))
    splitter = Splitter(arguments.splits)
    styles = _deal((yield from _gather(arguments)), network, Splitter(arguments.splits), arguments.size)
    columns = dict(image_column=arguments.image_column, caption_column=arguments.caption_column)
    for each in captioned.read_captioned(arguments.input, **columns):
        read = _read(each, style.CONTENT_SIZE)
        if isinstance(read, Skip):
            yield read
            continue
        split = splitter.split(Item(each.key, "style_transfer", read, group=each.group, split=each.split))
        if not styles.get(split):
            yield Skip(each.key, f"no style picture in {split}")
        for chosen in _choose(styles.get(split, []), each.key, arguments):
            yield _draw(network, each, read, chosen, arguments.size, split)


def read_styles(spec: str) -> Iterator[Captioned | Skip]:
    """The style pictures of --styles, not decoded; meta has 'style' where it is known. Raises SourceError."""
    path = Path(spec)
    try:
        captioned.list_parts(spec)
    except SourceError:  # style pictures need no captions
        if path.suffix == ".parquet" or any(path.rglob("*.parquet")):
            return wikiart.read_wikiart(path)
        files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise
        return (_in_folder(file) for file in files)
    return captioned.read_captioned(spec)


def _in_folder(file: Path) -> Captioned:
    style = file.parent.name.replace("_", " ")
    return Captioned(f"{file.parent.name}/{file.name}", file, style, meta={"style": style}, group=file.stem)


def _gather(arguments: argparse.Namespace) -> Generator[Skip, None, list[tuple[Captioned, np.ndarray]]]:
    """Yields what is broken; returns the pictures of the lowest hashes, in their order, whatever order they came in."""
    heap: list[tuple[int, str, Captioned, np.ndarray]] = []  # the highest hash, as the lowest of negatives, on top
    for each in tqdm(read_styles(arguments.styles), desc="styles", unit="picture", leave=False):
        place = 0 if isinstance(each, Skip) else -stable_hash(f"{arguments.seed}/{each.key}")
        full = len(heap) == arguments.max_styles
        if full and place < heap[0][0]:
            continue
        read = _read(each, style.STYLE_SIZE)
        if isinstance(read, Skip):
            yield read
        else:
            (heapq.heappushpop if full else heapq.heappush)(heap, (place, each.key, each, read))
    if not heap:
        raise SourceError(f"{arguments.styles}: no style picture that can be read: give another --styles")
    return [entry[2:] for entry in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def _deal(
    pictures: list[tuple[Captioned, np.ndarray]], network: style.StyleTransfer, splitter: Splitter, size: int
) -> dict[str, list[Style]]:
    """The styles of each split."""
    dealt: dict[str, list[Style]] = {}
    for each, picture in tqdm(pictures, desc="style codes", unit="picture", leave=False):
        # Some paintings of WikiArt lie in two styles: one file never straddles splits.
        item = Item(each.key, "style_transfer", picture, group=each.group, split=each.split)
        name = each.meta.get("style", "").replace("_", " ")
        text = f"{name} style" if name else "style image"
        code = network.style_code(picture)
        dealt.setdefault(splitter.split(item), []).append(Style(each.key, text, fit_image(picture, size), code))
    return dealt


def _choose(styles: list[Style], key: str, arguments: argparse.Namespace) -> list[Style]:
    """Different ones, decided by the seed and the content's key."""
    rng = np.random.default_rng(stable_hash(f"{arguments.seed}/{key}"))
    count = min(arguments.per_content, len(styles))
    return [styles[i] for i in rng.choice(len(styles), count, replace=False)] if styles else []


def _draw(
    network: style.StyleTransfer, each: Captioned, content: np.ndarray, chosen: Style, size: int, split: str
) -> Item:
    """Drawn at the network's own size; the runner shrinks it."""
    references = ((chosen.text, chosen.picture), ("content image", fit_image(content, size)))
    target = network.draw(content, chosen.code)
    key, group = f"{each.key} as {chosen.key}", each.group or each.key
    return Item(key, "style_transfer", target, references=references, group=group, split=split)


def _read(each: Captioned | Skip, size: int) -> np.ndarray | Skip:
    """The centre square of a picture, [size, size, 3]."""
    if isinstance(each, Skip):
        return each
    try:
        image = each.image if isinstance(each.image, np.ndarray) else read_image(each.image, size)
    except ImageError:
        return Skip(each.key, "broken image")
    return fit_image(image, size)
