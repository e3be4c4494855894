"""Picture files to the model's square arrays: one rule for references and targets, in training and at sampling.

The paper trains on square pictures and does not say how it gets them. Here a picture is cut to its centre square, never
stretched and never padded: a control map and its target are cut alike, and the model sees no bars to draw.
"""

import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(ValueError):
    """A picture that cannot be used; one line that names the mend, without the file's name."""


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture file as the eye sees it -> [h, w, 3] uint8 RGB at its own size.

    The EXIF orientation is applied, transparency is laid on white, greyscale (16-bit too) becomes three equal channels,
    and of an animation the first frame counts. Raises ImageError for a missing, foreign, cut off or huge file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise ImageError("no such image file; check the path, which is relative to the JSON file") from None
    except UnidentifiedImageError:
        raise ImageError("not an image Pillow can read; save it as PNG, JPEG or WebP") from None
    except Image.DecompressionBombError:
        raise ImageError("the image is too large to open safely; scale it down") from None
    except ImageError:
        raise
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"cannot be read ({error.strerror}); give a readable image file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on broken files
        raise ImageError(
            f"the image file is broken or cut off ({' '.join(str(error).split())}); save it again"
        ) from None


def fit_image(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The centre square of [h, w, 3] uint8, resized with antialiasing -> [size, size, 3]; untouched if it fits."""
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    picture = Image.fromarray(np.ascontiguousarray(image))
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale, as depth maps are: Pillow's own conversion would clip it
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("the image has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
