"""Picture files to the model's square arrays: one rule for references and targets, in training and at sampling.

The paper trains on square pictures and does not say how it gets them. Here a picture is cut to its centre square, never
stretched and never padded: a control map and its target are cut alike, and the model sees no bars to draw.
"""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

try:  # the fastest way to the pixels of a JPEG, and the very pixels that Pillow gives
    import simplejpeg
except ImportError:
    simplejpeg = None

_TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ENCODINGS = ("auto", "jpeg", "png")
_DRAWING = 1 / 8  # a picture of fewer distinct colours a pixel is a drawing or a map: small and sharp as PNG


class ImageError(ValueError):
    """A picture that cannot be used; one line that names the mend, without the file's name."""


def read_image(file: str | os.PathLike | bytes | memoryview, at_least: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture file, or its bytes, as the eye sees it -> [h, w, 3] uint8 RGB.

    The EXIF orientation is applied, transparency is laid on white, greyscale (16-bit too) becomes three equal channels,
    and of an animation the first frame counts. With `at_least`, a JPEG is read at the half, quarter or eighth of its
    size that leaves both sides at `at_least` pixels or more, which is several times faster; else, at its own size.
    Raises ImageError for a missing, foreign, cut off or huge file.
    """
    try:
        in_memory = isinstance(file, bytes | memoryview)
        if simplejpeg and in_memory and (pixels := _read_plain_jpeg(file, at_least)) is not None:
            return pixels
        with Image.open(io.BytesIO(file) if in_memory else file) as image:
            if at_least:
                image.draft("RGB", tuple(side // _jpeg_scale(image.size, at_least) for side in image.size))
            image.load()
            return np.array(_to_rgb(_upright(image)))
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
    except (OSError, SyntaxError, TypeError, ValueError, EOFError) as error:  # Pillow's, for broken files
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


def encode_image(image: UInt8[np.ndarray, "h w 3"], encoding: str = "auto") -> bytes:
    """The picture as a file: 'jpeg' (quality 95, 4:4:4), 'png', or 'auto': PNG for drawings and maps, else JPEG."""
    if encoding == "auto":
        encoding = "png" if _is_drawing(image) else "jpeg"
    buffer, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(image))
    if encoding == "png":
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue()


def _read_plain_jpeg(file: bytes | memoryview, at_least: int) -> np.ndarray | None:
    """A JPEG that needs nothing but decoding; None for all else, damaged ones included: those are Pillow's to judge."""
    if file[:3] != b"\xff\xd8\xff" or b"Exif\0" in bytes(file[:4096]):  # EXIF stands at the beginning
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file)
        if colours not in ("YCbCr", "Gray") or height * width > Image.MAX_IMAGE_PIXELS:
            return None
        scale = _jpeg_scale((width, height), at_least)
        return simplejpeg.decode_jpeg(
            file, min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale
        )
    except ValueError:
        return None


def _jpeg_scale(sides: tuple[int, int], at_least: int) -> int:
    """By how much a JPEG can be scaled down while it is decoded, from its DCT coefficients."""
    if not at_least:
        return 1
    return next((scale for scale in (8, 4, 2) if min(sides) // scale >= at_least), 1)


def save_png(image: UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Write a picture, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp{os.getpid()}")
    partial.write_bytes(encode_image(image, "png"))
    os.replace(partial, path)


def _is_drawing(image: np.ndarray) -> bool:
    part = image[::2, ::2].astype(np.uint32)
    colours = np.unique(part[..., 0] << 16 | part[..., 1] << 8 | part[..., 2]).size
    return colours < _DRAWING * part.shape[0] * part.shape[1]


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF turns it; no more of EXIF is read, for in files from the web much is malformed."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever Pillow's parser stumbles on: then nobody knows how the picture stands
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale, as depth maps are: Pillow's own conversion would clip it
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("the image has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
