"""What networks give, made into control maps: Canny and thinned edges, line drawings, dilation, clean masks.

The paper's edges are HED of image, depth map and mask, randomly dilated, its masks a salient-object net's (Table 1).
A plane is one channel [H, W]: a probability is float32 in 0..1, a map uint8, white on black; line drawings alone are
dark on white, as sketches are.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

WEAK, STRONG = 0.2, 0.45  # a line drawing's stroke begins above STRONG and goes on while above WEAK
SMALLEST_STROKE = 0.04  # of the picture's side: shorter strokes are specks
SMALLEST_PART = 0.004  # of the picture's area: smaller parts of a mask, or holes in it, are noise


def to_plane(probability: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """0..1 to 0..255."""
    return (probability * 255 + 0.5).astype(np.uint8)


def to_picture(plane: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Three equal channels."""
    return np.repeat(plane[..., None], 3, axis=-1)


def to_grey(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """One channel of a picture: its brightness."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def shrink(plane: UInt8[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "size size"]:
    """A square plane made smaller: each pixel the mean of those it covers."""
    return plane if plane.shape == (size, size) else cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA)


def canny(
    picture: UInt8[np.ndarray, "H W 3"], thresholds: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Canny's edges (1986), 0 or 255; on the channel of the largest gradient.

    Args:
      thresholds: low and high, of the gradient's length under a 3x3 Sobel, where a step of h grey levels has 4 h.
        None takes 2/3 and 4/3 of the picture's median brightness, held in 64..192 for black and white grounds.
    """
    if thresholds is None:
        median = np.clip(np.median(picture), 64, 192)
        thresholds = (median * 2 / 3, median * 4 / 3)
    return cv2.Canny(picture, *thresholds, L2gradient=True)


def dilate(plane: UInt8[np.ndarray, "H W"], pixels: int) -> UInt8[np.ndarray, "H W"]:
    """White grown by `pixels` on each side, round; 0 leaves the plane as it is."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(plane, disc)


def clean_mask(probability: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """What is more likely salient than not, 0 or 255, without specks and without pinholes."""
    inside = _without_small(probability > 0.5)
    return (~_without_small(~inside)).astype(np.uint8) * 255


def thin(probability: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Edges to lines of one or two pixels: what is no maximum across its line becomes 0.

    The direction across is where a smoothed map bends most: the first eigenvector of its Hessian.
    """
    smooth = cv2.GaussianBlur(probability, (0, 0), 1.0)
    along_x, along_y, mixed = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=5) for order in ((2, 0), (0, 2), (1, 1)))
    angle = np.arctan2(2 * mixed, along_x - along_y) / 2 + np.pi / 2  # of the lowest second derivative
    dx, dy = np.cos(angle), np.sin(angle)
    y, x = np.mgrid[: smooth.shape[0], : smooth.shape[1]].astype(np.float32)
    sides = [
        cv2.remap(smooth, x + sign * dx, y + sign * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for sign in (-1, 1)
    ]
    return np.where((smooth >= sides[0]) & (smooth > sides[1]), probability, 0)


def sketch(probability: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """A line drawing of an edge map: its thinned lines, weak ends kept where they go on from strong ones, as pencil."""
    ridge = thin(probability)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((ridge > WEAK).astype(np.uint8), connectivity=8)
    strongest = np.zeros(count)
    np.maximum.at(strongest, labels.ravel(), ridge.ravel())
    long = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_STROKE * max(ridge.shape)
    kept = (strongest > STRONG) & long
    kept[0] = False  # the ground
    ink = cv2.GaussianBlur(np.where(kept[labels], ridge, 0), (0, 0), 0.6) * 1.8  # the soft edge of a stroke
    return to_plane(1 - np.clip(ink, 0, 1))


def _without_small(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_PART * mask.size
    large[0] = False  # the ground
    return large[labels]
