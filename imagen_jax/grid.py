"""Pictures for people: a grid with a row an instruction (its text, its references, the sample, the real target)."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imagen_jax.workdir import write_bytes

CELL, GAP, TEXT_WIDTH = 128, 8, 300  # pixels


class Row(NamedTuple):
    """One line of the grid; images are [h, w, 3] uint8 of any size."""

    task: str
    text: str
    references: list[tuple[str, np.ndarray]]  # (its text, image)
    sample: np.ndarray
    target: np.ndarray
    others: Sequence[tuple[str, np.ndarray]] = ()  # (column's name, image) between the two, the same in every row


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Float [-1, 1] -> uint8 [0, 255], clipped."""
    return np.clip(np.round((np.asarray(picture, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def draw(rows: list[Row], title: str = "") -> Image.Image:
    """The grid as one picture."""
    slots = max(1, *(len(row.references) for row in rows))
    others = [name for name, _ in rows[0].others]
    columns = ["instruction", *["reference"] * slots, "sample", *others, "real target"]
    width = TEXT_WIDTH + (CELL + GAP) * (len(columns) - 1) + 2 * GAP
    height = (CELL + 3 * GAP) * len(rows) + 60
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), title, fill="black", font=ImageFont.load_default(size=15))
    for i, name in enumerate(columns):
        pen.text((_left(i), 34), name, fill="gray", font=ImageFont.load_default(size=13))
    for i, row in enumerate(rows):
        _draw_row(canvas, pen, row, top=56 + i * (CELL + 3 * GAP), slots=slots)
    return canvas


def _draw_row(canvas: Image.Image, pen: ImageDraw.ImageDraw, row: Row, top: int, slots: int) -> None:
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=10)
    pen.text((GAP, top), row.task, fill="navy", font=font)
    pen.multiline_text((GAP, top + 18), textwrap.fill(row.text, 42), fill="black", font=font)
    drawn = [row.sample, *(image for _, image in row.others), row.target]
    cells = [*enumerate(row.references, start=1), *enumerate((("", image) for image in drawn), start=slots + 1)]
    for column, (label, image) in cells:
        tile = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
        canvas.paste(tile, (_left(column), top))
        pen.rectangle((_left(column), top, _left(column) + CELL - 1, top + CELL - 1), outline="lightgray")
        pen.text((_left(column), top + CELL + 1), label[:24], fill="gray", font=small)


def _left(column: int) -> int:
    return GAP if column == 0 else TEXT_WIDTH + GAP + (column - 1) * (CELL + GAP)


def save_png(image: Image.Image | np.ndarray, path: Path) -> Path:
    """As `save`."""
    return save(image, path, "PNG")


def save(image: Image.Image | np.ndarray, path: Path, encoding: str, **options) -> Path:
    """Write whole or not at all, with Pillow's options of the encoding; returns the path."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, encoding, **options)
    return write_bytes(path, buffer.getvalue())
