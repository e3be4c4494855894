"""Pictures for benchmarks with the statistics of photographs, so that nothing must be downloaded to repeat a number.

Occluding discs of all sizes ("dead leaves": Lee, Mumford, Huang, Occlusion models for natural images, IJCV 2001) with
smooth shading and a little grain, about as many bytes as a photograph of the same side when saved as JPEG.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.images import fit_image, read_image

_LEAVES = 150  # discs a picture


def make_photographs(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    """`count` pictures [size, size, 3] uint8."""
    rng = np.random.default_rng(seed)
    return [_dead_leaves(rng, size) for _ in range(count)]


def load_photographs(folder: Path, size: int) -> list[np.ndarray]:
    """The pictures of a folder, cut to their centre square [size, size, 3]. Raises ValueError where there is none."""
    names = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not names:
        raise ValueError(f"--photographs={folder}: holds no .jpg, .png or .webp file")
    return [fit_image(read_image(path), size) for path in names]


def to_jpeg(picture: np.ndarray, quality: int, subsampling: str = "4:2:0") -> bytes:
    """The picture as cameras and web sites save it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def _dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    picture = np.full((size, size, 3), 128.0)
    for _ in range(_LEAVES):
        radius = size / 60 * (rng.pareto(2.0) + 1)
        inside = (y - rng.uniform(0, size)) ** 2 + (x - rng.uniform(0, size)) ** 2 < radius**2
        picture[inside] = rng.uniform(0, 255, 3)
    shading = _pink(rng, size) * 14
    grain = rng.normal(0, 1.5, (size, size))
    return np.clip(picture * 0.75 + 30 + (shading + grain)[..., None], 0, 255).astype(np.uint8)


def _pink(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise [size, size] of unit variance whose amplitude falls with frequency, as that of natural pictures does."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / frequency**1.4).real
    return (noise - noise.mean()) / noise.std()
