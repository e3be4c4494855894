"""Closed-form measures of a picture against its target or its control map: no network, and nothing to train.

Targets are pixel by pixel only where an aligned pair gives ground truth. Control fidelity (paper section 4.1, control
rows of Table 1) reads the picture by the same extractor that made the map, so the real target's own score is the
ceiling. All take batches of uint8 pictures and return one float a picture.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from data_pipelines import conditions

Pictures = UInt8[np.ndarray, "N S S 3"]
Scores = Float[np.ndarray, "N"]
Planes = Float[np.ndarray, "N S S"]

ROUNDING = 1 / 12  # mean square of what rounding to whole grey levels takes away
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # Wang et al. 2004: a Gaussian window of 11 pixels
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
EDGE = 64  # of 255: an edge of this strength counts, in map and picture alike
GROUND = 24  # of 255: what differs from the border's colour by more, in any channel, is no ground


def psnr(pictures: Pictures, targets: Pictures) -> Scores:
    """Peak signal-to-noise ratio in dB; equal pictures have 58.9, what rounding to uint8 allows."""
    error = np.square(pictures.astype(np.float64) - targets).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, ROUNDING))


def ssim(pictures: Pictures, targets: Pictures) -> Scores:
    """Structural similarity (Wang et al. 2004), the mean over channels and over windows that lie inside the picture."""
    x, y = pictures.astype(np.float64), targets.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    value = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    value /= (mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2)
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    return value[:, inside, inside].mean((1, 2, 3))


def _blur(x: np.ndarray) -> np.ndarray:
    for axis in (1, 2):
        x = ndimage.gaussian_filter1d(x, SSIM_SIGMA, axis, radius=SSIM_RADIUS)
    return x


def edge_f1(pictures: Pictures, maps: Pictures) -> Scores:
    """F1 of the picture's edges against an edge map, white on black, with a pixel of tolerance."""
    return f1(_edges(pictures), maps[..., 0] >= EDGE)


def line_f1(pictures: Pictures, drawings: Pictures) -> Scores:
    """F1 of the picture's edges against those of a line drawing, with a pixel of tolerance.

    The same extractor reads both: a stroke and the outline it becomes have the same two sides, whatever the colours
    between them. Edges between colours that the drawing leaves open cost precision, the real target's as well.
    """
    return f1(_edges(pictures), _edges(drawings))


def _edges(pictures: Pictures) -> Bool[np.ndarray, "N S S"]:
    return np.stack([conditions.edges(picture)[..., 0] for picture in pictures]) >= EDGE


def f1(found: Bool[np.ndarray, "N S S"], wanted: Bool[np.ndarray, "N S S"]) -> Scores:
    """Harmonic mean of precision and recall, where a pixel is right with one of the other side within a pixel of it.

    Nothing found where something is wanted, or the reverse, is 0; nothing found where nothing is wanted is 1.
    """
    precision, recall = _share_near(found, wanted), _share_near(wanted, found)
    both = precision + recall
    return np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)


def _share_near(points: np.ndarray, others: np.ndarray) -> Scores:
    """Share of `points` with one of `others` in the 3x3 square around; where there are no points, whether none is."""
    near = ndimage.binary_dilation(others, np.ones((1, 3, 3), bool))
    count, empty = points.sum((1, 2)), ~others.any((1, 2))
    return np.where(count > 0, (points & near).sum((1, 2)) / np.maximum(count, 1), empty)


def mask_iou(pictures: Pictures, maps: Pictures) -> Scores:
    """Intersection over union of the picture's foreground and the map's bright part; 1 where both are empty."""
    found, wanted = foreground(pictures), maps[..., 0] >= 128
    union = (found | wanted).sum((1, 2))
    return np.where(union > 0, (found & wanted).sum((1, 2)) / np.maximum(union, 1), 1.0)


def foreground(pictures: Pictures) -> Bool[np.ndarray, "N S S"]:
    """What is not ground, from the picture alone: the ground has the border's median colour and reaches the border.

    So a white eye inside a face on white is foreground; the hole of a ring is, too, whose map has it open.
    """
    x = pictures.astype(np.int16)
    border = np.concatenate([x[:, 0], x[:, -1], x[:, 1:-1, 0], x[:, 1:-1, -1]], axis=1)  # [N, 4 S - 4, 3]
    ground = np.median(border, axis=1)[:, None, None]
    different = np.abs(x - ground).max(-1) > GROUND
    return np.stack([ndimage.binary_fill_holes(plane) for plane in different])


def depth_error(found: Planes, maps: Pictures) -> Scores:
    """Root mean square error of estimated depth in 0..1, over what the map shows, after the best scale and shift.

    Scale and shift are free, as in MiDaS (Ranftl et al. 2020): a picture does not tell how near its nearest point is.
    A reversed estimate gets no scale: it is as wrong as a flat one, which errs by the map's own deviation. Nan where
    the map shows nothing.
    """
    return np.array([_aligned_error(plane, shown[..., 0] / 255) for plane, shown in zip(found, maps, strict=True)])


def _aligned_error(found: np.ndarray, wanted: np.ndarray) -> float:
    seen = wanted > 0
    if not seen.any():
        return np.nan
    x, y = found[seen] - found[seen].mean(), wanted[seen] - wanted[seen].mean()
    power = np.square(x).mean()
    scale = max((x * y).mean() / power, 0.0) if power > 0 else 0.0
    return float(np.sqrt(np.square(scale * x - y).mean()))
