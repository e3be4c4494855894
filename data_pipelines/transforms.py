"""Geometry and background of pictures: what the data pipeline may do to an example without changing its meaning.

The paper does not describe its augmentation; this one is ours, for a corpus of some 20k pictures. Pictures that are
aligned pixel by pixel (a drawing and its coloured version) get one Geometry and one background between them.
"""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

FLIP_PROBABILITY = 0.5
SHIFT_PROBABILITY = 0.5
SHIFT = 1 / 16  # of the side, at most, in whole pixels
SCALE_PROBABILITY = 0.25
SCALE = (0.8, 1.0)  # shrinking only: pictures already touch the border
BACKGROUND_PROBABILITY = 0.15  # of a colour other than white

WHITE = ("white", (255, 255, 255))
BACKGROUNDS = (  # pale: black line drawings must stay legible on them
    ("pale yellow", (255, 247, 190)),
    ("light blue", (190, 220, 250)),
    ("light green", (200, 238, 200)),
    ("pink", (252, 210, 225)),
    ("light grey", (215, 215, 215)),
    ("lavender", (222, 210, 246)),
)

# A mirrored clock shows another time, mirrored letters are not letters, and "left" would become "right".
_ORIENTED = re.compile(
    r"\b(left|right|leftwards|rightwards|clockwise|counterclockwise|quarter|waxing|waning|crescent|clock|o.clock|watch|stopwatch"
    r"|thirty|medal|calendar|sign|stop|button|banknote|dollar|euro|yen|pound|hundred|abc|latin|numbers|keyboard|input"
    r"|post office|hotel|convenience store|atm|8 ball|slot machine|newspaper|ticket|tickets|joker|mahjong|badge|label"
    r"|chart|increasing|decreasing|musical|music|arrow|thermometer|receipt|map|globe)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Geometry:
    """Mirror, then scale about the centre, then shift by whole pixels; the default is the identity."""

    flip: bool = False
    scale: float = 1.0
    dx: int = 0
    dy: int = 0


def may_flip(name: str) -> bool:
    """Whether the mirror image of the picture called `name` may still be called so."""
    return _ORIENTED.search(name) is None


def sample_geometry(rng: np.random.Generator, size: int, flippable: bool) -> Geometry:
    """A random Geometry for square pictures of `size` pixels."""
    flip, shift, scale, dx, dy, amount = rng.random(6)
    reach = int(size * SHIFT) if shift < SHIFT_PROBABILITY else 0
    return Geometry(
        flip=flippable and bool(flip < FLIP_PROBABILITY),
        scale=float(SCALE[0] + (SCALE[1] - SCALE[0]) * amount) if scale < SCALE_PROBABILITY else 1.0,
        dx=int(dx * (2 * reach + 1)) - reach,
        dy=int(dy * (2 * reach + 1)) - reach,
    )


def sample_background(rng: np.random.Generator) -> tuple[str, tuple[int, int, int]]:
    """(name, RGB): mostly white."""
    pick = rng.random() / BACKGROUND_PROBABILITY
    return BACKGROUNDS[int(pick * len(BACKGROUNDS))] if pick < 1 else WHITE


def composite(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Straight-alpha [..., 4] uint8 over a colour -> [..., 3] uint8, rounded to nearest."""
    alpha = rgba[..., 3:].astype(np.uint16)
    mixed = rgba[..., :3] * alpha + np.asarray(background, np.uint16) * (255 - alpha) + 127
    return (mixed // 255).astype(np.uint8)


def transform(image: np.ndarray, geometry: Geometry, fill: tuple[int, int, int]) -> np.ndarray:
    """The geometry applied to [S, S, 3] uint8; what comes into view is `fill`."""
    if geometry.flip:
        image = image[:, ::-1]
    if geometry.scale != 1.0:
        return _scale(image, geometry, fill)
    if geometry.dx or geometry.dy:
        return _shift(image, geometry.dx, geometry.dy, fill)
    return np.ascontiguousarray(image)


def _shift(image: np.ndarray, dx: int, dy: int, fill: tuple[int, int, int]) -> np.ndarray:
    size = image.shape[0]
    out = np.empty(image.shape, np.uint8)
    out[:] = fill
    rows, columns = slice(max(dy, 0), size + min(dy, 0)), slice(max(dx, 0), size + min(dx, 0))
    out[rows, columns] = image[max(-dy, 0) : size - max(dy, 0), max(-dx, 0) : size - max(dx, 0)]
    return out


def _scale(image: np.ndarray, geometry: Geometry, fill: tuple[int, int, int]) -> np.ndarray:
    middle, inverse = image.shape[0] / 2, 1 / geometry.scale
    x0 = middle - (middle + geometry.dx) * inverse  # Pillow maps output coordinates to input coordinates
    y0 = middle - (middle + geometry.dy) * inverse
    moved = Image.fromarray(np.ascontiguousarray(image)).transform(
        image.shape[1::-1],
        Image.Transform.AFFINE,
        (inverse, 0, x0, 0, inverse, y0),
        Image.Resampling.BILINEAR,
        fillcolor=tuple(fill),
    )
    return np.asarray(moved)
