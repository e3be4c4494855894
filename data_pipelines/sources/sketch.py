"""Photo-Sketching (Li et al. 2019): 1,000 photographs, each traced by five people; also any two folders of pairs.

Task `line` of the paper (Table 1: Sketch2Image, 15K, ratio 0.02), with "sketch" as the text of the reference. The
sketches stay as published, dark strokes on white: like the line drawings of the corpora, unlike edge maps. The set has
lists of its own splits, and no captions.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.sources.captioned import read_captioned
from data_pipelines.sources.formats.common import SUFFIXES
from data_pipelines.sources.item import About, Item, Skip, SourceError

HELP = "sketches and their photographs: Photo-Sketching, or two folders of pairs"
ABOUT = About(
    title="Photo-Sketching, the contour drawing dataset",
    licence="check the data set's page (said to be CC-BY-NC-SA-4.0)",
    citation="Li, Lin, Mech, Yumer, Ramanan: Photo-Sketching: Inferring Contour Drawings from Images. WACV 2019",
    home="Photo-Sketching, project page at Carnegie Mellon University",
)
REFERENCE_TEXT, NO_CAPTION = "sketch", "the drawn scene"
LISTS = {"train.txt": "train", "val.txt": "validation", "test.txt": "test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this family; their defaults are the published folders."""
    parser.add_argument("--input", required=True, help="folder ContourDrawing, or one with two folders of pairs")
    parser.add_argument("--photographs", default="image", help="folder of photographs in it (%(default)s)")
    drawings = "folder of sketches in it, named as the photograph or NAME_01, NAME_02 ... (%(default)s)"
    parser.add_argument("--drawings", default="sketch-rendered/width-5", help=drawings)
    lists = "folder of train.txt, val.txt and test.txt in it (%(default)s); '' where the pairs have no splits"
    parser.add_argument("--lists", default="list", help=lists)
    captions = ".csv or .jsonl with columns such as image and caption; the paths of photographs are relative to it"
    parser.add_argument("--captions", help=captions)
    parser.add_argument(
        "--allow_no_caption", action="store_true", help=f"say '{NO_CAPTION}' where a caption is missing"
    )


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """Each sketch with its photograph; all sketches of a photograph are in one group.

    Raises SourceError for a missing folder or list, and without captions.
    """
    root, captions = Path(arguments.input), {}
    for found in _read_captions(arguments):
        if isinstance(found, Skip):
            yield found
        else:
            captions[Path(found.image).stem] = found.caption
    photographs = {path.stem: path for path in _pictures(root / arguments.photographs, "--photographs")}
    drawings = _match(_pictures(root / arguments.drawings, "--drawings"), photographs)
    splits = _read_lists(root / arguments.lists) if arguments.lists else dict.fromkeys(photographs, "")
    neutral = NO_CAPTION if arguments.allow_no_caption else ""
    for name, split in splits.items():
        caption, photograph = captions.get(name, neutral), photographs.get(name)
        if photograph is None or not caption or name not in drawings:
            reason = "no photograph" if photograph is None else "no sketch" if caption else "no caption"
            yield Skip(str(root / arguments.photographs / name), reason)
            continue
        for drawing in drawings[name]:
            references = [(REFERENCE_TEXT, drawing)]
            yield Item(drawing.stem, "line", photograph, caption, references=references, group=name, split=split)


def _read_captions(arguments: argparse.Namespace) -> Iterator:
    if not arguments.captions:
        if not arguments.allow_no_caption:
            mend = f"give --captions=FILE, or --allow_no_caption to say '{NO_CAPTION}' of all"
            raise SourceError(f"{arguments.input}: the set has no captions: {mend}")
        return iter(())
    if Path(arguments.captions).suffix not in (".csv", ".jsonl"):
        raise SourceError(f"{arguments.captions}: is no .csv or .jsonl: give --captions=FILE of one of them")
    return read_captioned(arguments.captions)


def _pictures(folder: Path, option: str) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    pictures = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise SourceError(f"{folder}: no pictures there: unpack them, or correct --input or {option}")
    return pictures


def _match(drawings: list[Path], photographs: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Name of a photograph -> its drawings."""
    matched: dict[str, list[Path]] = {}
    for drawing in drawings:
        name = drawing.stem if drawing.stem in photographs else re.sub(r"_\d+$", "", drawing.stem)
        matched.setdefault(name, []).append(drawing)
    return matched


def _read_lists(folder: Path) -> dict[str, str]:
    """Name of a photograph -> its split."""
    splits = {}
    for file, split in LISTS.items():
        path = folder / file
        if not path.is_file():
            mend = "unpack the lists of the Photo-Sketching page, or give --lists= for pairs without splits"
            raise SourceError(f"{path}: no such file: {mend}")
        splits |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
    return splits
