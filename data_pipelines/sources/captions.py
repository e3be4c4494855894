"""Captioned pictures of any origin as text-to-image items: the first row of the paper's Table 1, internal there.

`--input` names them as data_pipelines/sources/captioned.py says: COCO captions or LAION-400M as TFDS prepared them,
what img2dataset downloaded, a folder. One item a picture: of COCO's five captions the hash of its key chooses.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from data_pipelines.sources import captioned
from data_pipelines.sources.captioned import Captioned
from data_pipelines.sources.formats.common import tfds_name
from data_pipelines.sources.item import About, Item, Pixels, Skip

HELP = "captioned pictures: a folder, img2dataset's tars or parquet files, a TFDS name, a corpus"
ABOUT = About("captioned pictures", "unknown: yours to check", "none known", "none known")
_KNOWN = {
    "coco_captions": About(
        "COCO captions, in the splits of Karpathy and Li",
        "annotations CC-BY-4.0; the pictures under the terms of Flickr and of each picture",
        "Chen, Fang, Lin, Vedantam, Gupta, Dollar, Zitnick: Microsoft COCO Captions, arXiv 1504.00325",
        "https://cocodataset.org",
    ),
    "laion400m": About(
        "LAION-400M",
        "metadata CC-BY-4.0; each picture keeps its own copyright",
        "Schuhmann et al.: LAION-400M: Open Dataset of CLIP-Filtered 400 Million Image-Text Pairs, arXiv 2111.02114",
        "https://laion.ai/blog/laion-400-open-dataset",
    ),
    "wit_kaggle": About(
        "Wikipedia image and caption matching, after WIT",
        "texts CC-BY-SA-3.0; each picture under the licence of its Wikimedia Commons page",
        "Srinivasan, Raman, Chen, Bendersky, Najork: WIT, SIGIR 2021, arXiv 2103.01913",
        "https://github.com/google-research-datasets/wit",
    ),
}


def about(arguments: argparse.Namespace) -> About:
    """Origin and licence of the chosen --input; ABOUT where it is not known."""
    spec = str(arguments.input)
    if name := tfds_name(spec):
        return _KNOWN.get(name, ABOUT)
    licences = captioned.corpus_licences(spec)
    return About(f"the corpus {spec}", licences, "its manifest names each style's author", spec) if licences else ABOUT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare captions`."""
    captioned.add_arguments(parser)
    parser.add_argument(
        "--min_size", type=int, default=64, help="least shorter side of a picture in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--max_aspect", type=float, default=3.0, help="most longer / shorter side of a picture (default: %(default)s)"
    )
    parser.add_argument(
        "--min_similarity",
        type=float,
        default=0.0,
        help="least CLIP similarity of picture and caption, where the set tells it (default: %(default)s)",
    )


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """A text_to_image item a picture that passes the filters. Raises SourceError as read_captioned does."""
    columns = dict(image_column=arguments.image_column, caption_column=arguments.caption_column)
    for each in captioned.read_captioned(arguments.input, **columns):
        if isinstance(each, Captioned):
            reason = unfit(each, arguments.min_size, arguments.max_aspect, arguments.min_similarity)
            item = Item(each.key, "text_to_image", each.image, each.caption, group=each.group, split=each.split)
            yield Skip(each.key, reason) if reason else item
        else:
            yield each


def unfit(each: Captioned, min_size: int, max_aspect: float, min_similarity: float) -> str:
    """Why a picture is left out, or ''. One whose size or similarity is not known passes that filter."""
    similarity = _number(each.meta.get("similarity", ""))
    if 0 <= similarity < min_similarity:  # LAION-400M writes -1 where it has none
        return "low similarity"
    width, height = picture_size(each.image) or (min_size, min_size)
    if min(width, height) < min_size:
        return "small picture"
    return "long picture" if max(width, height) > max_aspect * min(width, height) else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def picture_size(image: Pixels) -> tuple[int, int] | None:
    """(width, height) from the file's first bytes; None where it is broken or huge: the runner finds that out."""
    if not isinstance(image, bytes | Path):
        return image.shape[1], image.shape[0]
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
