"""Finds held-out pictures that are nearly the same as one of an earlier split, so that they can leave.

A test on such a picture would measure memory. So duplicates at 32 px leave the test set (paper, section 5:
evaluation on unseen subjects).
"""

import numpy as np
from PIL import Image

THUMBNAIL = 32  # px
THRESHOLD = 8.0  # root mean square difference of premultiplied RGBA, of 255; by eye: above it the drawings differ
_BLOCK = 512


def thumbnail(tile: np.ndarray) -> np.ndarray:
    """[S, S, 4] uint8 -> [THUMBNAIL, THUMBNAIL, 4]."""
    return np.asarray(Image.fromarray(tile).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def duplicated(thumbnails: np.ndarray, ranks: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Which pictures nearly equal one of a lower rank (train 0, validation 1, test 2).

    thumbnails: [N, S, S, 4] uint8 straight-alpha RGBA; ranks: [N] int. Returns [N] bool.
    """
    flat = _premultiplied(thumbnails)
    squares = np.einsum("nd,nd->n", flat, flat)
    found = np.zeros(len(flat), bool)
    for rank in (1, 2):
        earlier = ranks < rank
        others, other_squares = flat[earlier], squares[earlier]
        for rows in _blocks(np.flatnonzero(ranks == rank)):
            distance = squares[rows, None] + other_squares - 2 * flat[rows] @ others.T
            found[rows] = (distance < threshold**2 * flat.shape[1]).any(axis=1)
    return found


def _premultiplied(thumbnails: np.ndarray) -> np.ndarray:
    flat = thumbnails.astype(np.float32)
    flat[..., :3] *= flat[..., 3:] / 255
    return flat.reshape(len(flat), -1)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
