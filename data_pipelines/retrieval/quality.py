"""The quality filter of stage 1 (paper section 3): pairs whose picture or caption would teach nothing are left out.

The paper names the step and not its rules; these are usual for sets from the web (LAION, img2dataset): a readable
picture of some size and shape that is not one flat colour, and a caption in words, neither a file name nor an address.
"""

import re
from dataclasses import dataclass

import numpy as np

from data_pipelines.images import ImageError, read_image
from data_pipelines.sources.item import Pixels

BLANK = 8  # of 255: a picture whose values differ by less is one flat colour
_FILE_NAME = re.compile(r"\S+\.(jpe?g|png|gif|webp|bmp|tiff?|svg)", re.IGNORECASE)
_CAMERA_NAME = re.compile(r"(img|dscn?|pict?|image|photo|picture|untitled|screenshot)?[\W_\d]*", re.IGNORECASE)
_ADDRESS = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What a pair must satisfy to stay."""

    min_side: int = 64  # pixels of the shorter side
    max_aspect: float = 3.0  # longer side / shorter side
    min_caption: int = 3  # characters
    max_caption: int = 400


def fault_of_caption(caption: str, limits: Limits) -> str:
    """Why the caption is not wanted, '' where it is."""
    if len(caption) < limits.min_caption:
        return "caption too short"
    if len(caption) > limits.max_caption:
        return "caption too long"
    if not any(letter.isalpha() for letter in caption):
        return "caption without words"
    if _FILE_NAME.fullmatch(caption) or _CAMERA_NAME.fullmatch(caption) or _ADDRESS.fullmatch(caption):
        return "caption is a file name or an address"
    return ""


def fault_of_picture(picture: np.ndarray, limits: Limits) -> str:
    """Why the picture [h, w, 3] uint8 is not wanted, '' where it is."""
    shorter, longer = sorted(picture.shape[:2])
    if shorter < limits.min_side:
        return f"side below {limits.min_side} px"
    if longer > limits.max_aspect * shorter:
        return f"aspect ratio above {limits.max_aspect:g}"
    if int(picture.max()) - int(picture.min()) < BLANK:
        return "blank picture"
    return ""


def open_picture(pixels: Pixels, limits: Limits, at_least: int) -> np.ndarray | str:
    """The decoded picture [h, w, 3] uint8, or the reason why it is left out.

    at_least: what both sides of a large JPEG may shrink to while it is decoded, not below `limits.min_side`.
    """
    try:
        picture = pixels if isinstance(pixels, np.ndarray) else read_image(pixels, at_least)
    except ImageError:
        return "broken picture"
    return fault_of_picture(picture, limits) or picture
