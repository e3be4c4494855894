"""Edges and masks without a network, for corpora in memory (paper section 3.2, the control rows of Table 1).

The paper takes edges from HED and masks from a salient-object net. Here edges are a colour Sobel gradient thinned to
its ridges, and a mask is the picture's own alpha. Controls are white on black, three equal channels.
"""

import numpy as np

WEAK, STRONG = 120.0, 480.0  # gradient below WEAK is no edge, above STRONG a full one; a black-white step is 1767


def edges(image: np.ndarray) -> np.ndarray:
    """[S, S, 3] uint8 -> its edge map [S, S, 3] uint8: soft strength, lines one pixel wide."""
    x = np.pad(image.astype(np.float32), ((1, 1), (1, 1), (0, 0)), "edge")
    columns = x[:-2] + 2 * x[1:-1] + x[2:]  # [S, S+2, 3] smoothed along y
    rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]  # [S+2, S, 3] smoothed along x
    across = np.square(columns[:, 2:] - columns[:, :-2]).sum(-1)  # [S, S]
    down = np.square(rows[2:] - rows[:-2]).sum(-1)
    strength = np.sqrt(across + down)
    ridge = np.where(across >= down, _peaks(strength.T).T, _peaks(strength))
    level = np.clip((strength - WEAK) / (STRONG - WEAK), 0, 1) * ridge
    return _grey((level * 255 + 0.5).astype(np.uint8))


def mask(rgba: np.ndarray) -> np.ndarray:
    """[S, S, 4] uint8 -> its alpha as a picture [S, S, 3] uint8."""
    return _grey(rgba[..., 3])


def _peaks(strength: np.ndarray) -> np.ndarray:
    """Where a value is the maximum among its neighbours along y; of two equal neighbours, the lower one."""
    padded = np.pad(strength, ((1, 1), (0, 0)))
    return (strength >= padded[:-2]) & (strength > padded[2:])


def _grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane[..., None], 3, axis=-1)
