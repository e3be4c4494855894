"""Draws one emoji as a square RGBA tile: SVG through resvg, WebP through Pillow. Font-free, so the same everywhere.

The tiles are the pictures of the corpus that stands in for the paper's training images (section 4.1).
"""

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

INK = "#000000"  # what `currentColor` becomes: line sets have no colour of their own


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An undrawn picture: an SVG document whose sides stand as width : height, or an encoded square picture."""

    source: str | bytes
    width: float = 1
    height: float = 1
    mirrored: bool = False


def icon_drawing(icons: Mapping, name: str) -> Drawing:
    """An icon of an iconify set, by its name or an alias of it. Raises KeyError when the set has neither."""
    if name not in icons["icons"]:
        alias = icons["aliases"][name]
        return dataclasses.replace(icon_drawing(icons, alias["parent"]), mirrored=alias.get("hFlip", False))
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    return Drawing(svg, width, height)


def render(drawing: Drawing, size: int) -> np.ndarray:
    """[size, size, 4] uint8, straight-alpha RGBA; a drawing that is not square is centred."""
    picture = _draw_svg(drawing, size) if isinstance(drawing.source, str) else _decode(drawing.source, size)
    tile = np.asarray(picture)
    return tile[:, ::-1] if drawing.mirrored else tile


def _draw_svg(drawing: Drawing, size: int) -> Image.Image:
    import resvg_py  # only needed to build: reading a corpus, or building another family, must work without it

    svg = drawing.source.replace("currentColor", INK)
    fit = {"width": size} if drawing.width >= drawing.height else {"height": size}
    picture = _decode(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **fit)))
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return canvas


def _decode(data: bytes, size: int | None = None) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture = picture.convert("RGBA")
    return picture.resize((size, size), Image.Resampling.LANCZOS) if size else picture
