"""Folders of pictures in one style each, as StyleDrop makes them: draw something else in the style of a reference.

Task `style` of the paper (Table 1: StyleDrop samples on WikiArt styles, filtered by CLIP; 0.1M, ratio 0.10). A folder
a style: reference.jpg (any of its pictures, where it has none) and samples with captions, which should name what is
shown and not the style, else the words tell what the reference should. A group is a style, so that test styles are new.
"""

import argparse
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.captioned import read_captioned
from data_pipelines.sources.formats.common import SUFFIXES, Captioned
from data_pipelines.sources.groups import choose_references
from data_pipelines.sources.item import About, Item, Skip, SourceError

HELP = "style references and captioned samples in the same style: a folder a style"
ABOUT = About(
    title="Style-reference folders",
    licence="that of your pictures: check where they come from",
    citation="Sohn et al.: StyleDrop: Text-to-Image Generation in Any Style. NeurIPS 2023 (the method of such samples)",
    home="your own folder",
)
UNNAMED = "style image"


@dataclass(frozen=True)
class Style:
    """The pictures of one style."""

    name: str
    pictures: tuple[Path, ...]

    @functools.cached_property
    def marked(self) -> tuple[Path, ...]:
        """Those named reference.*: references only."""
        return tuple(path for path in self.pictures if path.stem.lower() == "reference")

    @property
    def words(self) -> str:
        """'water_color' -> 'water color style'."""
        return self.name.replace("_", " ").removesuffix(" style") + " style"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this family."""
    layout = "folder of STYLE/reference.jpg and STYLE/*.jpg, with captions.jsonl, a .csv or a .txt beside each picture"
    parser.add_argument("--input", required=True, help=layout)
    names = f"say 'water color style' of the reference in folder water_color, not '{UNNAMED}'"
    parser.add_argument("--name_styles", action="store_true", help=names)
    similarity = "least 'similarity' (of CLIP, between caption and picture) in the captions' fields (default: all)"
    parser.add_argument("--min_similarity", type=float, help=similarity)


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """Each captioned sample with another picture of its style. Raises SourceError without styles of picture files."""
    root = Path(arguments.input)
    styles = _find_styles(root)
    expected = {f"{root}: {path.relative_to(root).as_posix()}" for style in styles.values() for path in style.marked}
    captioned = set()
    for sample in read_captioned(str(root)):
        if isinstance(sample, Captioned):
            if not isinstance(sample.image, Path):
                raise SourceError(f"{root}: its pictures are no files: give folders of picture files, one a style")
            style = _style_of(sample.image, styles, root)
            captioned.add(style)
            yield from _make_item(sample, style, arguments)
        elif sample.where not in expected:  # a reference needs no caption
            yield sample
    yield from (Skip(str(root / s.name), "style without captions") for s in styles.values() if s not in captioned)


def _style_of(picture: Path, styles: Mapping[str, Style], root: Path) -> Style | None:
    inside = picture.relative_to(root).parts if picture.is_relative_to(root) else ("",)
    return styles.get(inside[0])


def _find_styles(root: Path) -> Mapping[str, Style]:
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = (Style(folder.name, tuple(sorted(filter(_is_picture, folder.rglob("*"))))) for folder in folders)
    styles = {style.name: style for style in found if style.pictures}
    if not styles:
        raise SourceError(f"{root}: no folders with pictures: give a folder that holds one folder a style")
    return styles


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _make_item(sample: Captioned, style: Style | None, arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    target, reason = sample.image, _too_far(sample, arguments.min_similarity)
    if style is None or reason:
        yield Skip(sample.key, reason or "in no style's folder")
        return
    if target in style.marked:
        return
    others = [picture for picture in style.marked or style.pictures if picture != target]
    if not others:
        yield Skip(sample.key, "only picture of its style")
        return
    reference = choose_references(sample.key, others, 1, arguments.seed)[0]
    words = style.words if arguments.name_styles else UNNAMED
    group = f"style:{style.name}"
    yield Item(sample.key, "style", target, sample.caption, references=[(words, reference)], group=group)


def _too_far(sample: Captioned, least: float | None) -> str:
    """Why the sample is left out by its similarity, '' if it is not."""
    if least is None:
        return ""
    try:
        return "" if float(sample.meta["similarity"]) >= least else "low similarity"
    except (KeyError, ValueError):
        return "no similarity"
