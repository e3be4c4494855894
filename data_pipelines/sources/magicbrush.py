"""MagicBrush: real photographs edited by hand as an instruction says, with the edited area (paper, Table 2).

The parquet files of the Hugging Face set osunlp/MagicBrush: img_id, turn_index, source_img, mask_img, instruction and
target_img. The mask picture is the source with a hole in the place to edit. The set's card says "white region"; code
that reads the set takes the hole from the alpha channel. Here: the transparent pixels, else the purely white ones.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines.sources.formats import parquet
from data_pipelines.sources.formats.common import own_splits
from data_pipelines.sources.item import About, Item, Skip, SourceError

HELP = "MagicBrush, photographs edited by instruction (parquet files)"
ABOUT = About(
    title="MagicBrush",
    licence="CC-BY-4.0",
    citation="Zhang, Mo, Chen, Sun, Su: MagicBrush: A Manually Annotated Dataset for Instruction-Guided Image Editing, "
    "NeurIPS 2023 Datasets and Benchmarks, arXiv 2306.10012",
    home="https://osu-nlp-group.github.io/MagicBrush",
)
COLUMNS = ("img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img")


class MaskError(ValueError):
    """A mask picture that tells no area to edit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare magicbrush`."""
    parser.add_argument("--input", required=True, help="the parquet file, or the folder of train-* and dev-* files")
    parser.add_argument("--masked", action="store_true", help="tell the area, too: task masked_edit in place of edit")


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """An edit (or, with --masked, masked_edit) item a turn; the turns of one photograph are one group.

    The set's dev files are the validation split; train or dev files alone are dealt by photograph. Raises SourceError
    for a missing file or column.
    """
    path = Path(arguments.input)
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise SourceError(f"{path}: no parquet files: give the folder data/ of osunlp/MagicBrush")
    for file, split in zip(files, own_splits([file.name for file in files]), strict=True):
        for row in parquet.read_rows(file, COLUMNS):
            yield row if isinstance(row, Skip) else _item(file, split, *row, arguments.masked)


def _item(file: Path, split: str, number: int, fields: dict, masked: bool) -> Item | Skip:
    where = f"{file}: row {number}"
    pictures = {name: parquet.encoded(fields[name], file.parent) for name in ("source_img", "target_img", "mask_img")}
    if pictures["source_img"] is None or pictures["target_img"] is None or (masked and pictures["mask_img"] is None):
        return Skip(where, "no picture")
    change = change_of(fields["instruction"] or "")
    if not change:
        return Skip(where, "no instruction")
    references = [("content image", pictures["source_img"])]
    if masked:
        try:
            references.insert(0, ("mask", read_mask(pictures["mask_img"])))
        except MaskError as error:
            return Skip(where, str(error))
    key = f"{fields['img_id']}-{fields['turn_index']}"
    return Item(
        key,
        "masked_edit" if masked else "edit",
        pictures["target_img"],
        change=change,
        references=references,
        group=str(fields["img_id"]),
        split=split,
    )


def change_of(instruction: str) -> str:
    """The instruction as it stands inside a phrasing: one line, no final period, no capital at the start."""
    words = " ".join(instruction.split()).rstrip(".! ")
    first = words.partition(" ")[0]
    return words if first[1:] != first[1:].lower() or first == "I" else words[:1].lower() + words[1:]


def read_mask(encoded: bytes | Path) -> UInt8[np.ndarray, "h w 3"]:
    """The hole of a mask picture in white on black: [h, w, 3] uint8.

    Where the picture has no transparent pixel, its purely white ones are the hole. Raises MaskError where it is broken
    or huge, or where nothing, or everything, is hole.
    """
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise MaskError("broken mask") from None
    alpha = rgba[..., 3]
    hole = 255 - alpha if alpha.min() < 255 else np.where((rgba[..., :3] == 255).all(-1), 255, 0).astype(np.uint8)
    if not hole.any() or hole.min() > 0:
        raise MaskError("empty mask")
    return np.repeat(hole[..., None], 3, axis=-1)
