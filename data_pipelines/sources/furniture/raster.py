"""A z-buffer in numpy: triangles -> which of them each sample of the picture sees, and how far away it is.

It gives the true depth and masks that paper section 3.2 takes from networks. Triangles of all sizes go through the same
few array operations: each is cut into the rows it crosses, each row into the samples between its two edges. Samples lie
at pixel centres and spans are half open, so neighbours that share an edge neither overlap nor leave a gap.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 20  # samples worked on at a time, which bounds the memory
_NO_TRIANGLE = -1

Fragments = tuple[np.ndarray, np.ndarray, np.ndarray]  # triangle [N], row [N], column [N]


@dataclass(frozen=True)
class Seen:
    """What each sample sees: `triangle` [S, S] int (-1: nothing), `inverse_depth` [S, S] float64 (0: nothing)."""

    triangle: np.ndarray
    inverse_depth: np.ndarray


def rasterise(
    xy: np.ndarray,
    inverse_depth: np.ndarray,
    size: int,
    keep: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Seen:
    """The nearest triangle at each of size x size samples.

    Args:
      xy: [T, 3, 2] corners on the picture in samples, x to the right and y down; sample (0, 0) lies at (0.5, 0.5).
      inverse_depth: [T, 3], positive: no corner may lie behind the camera.
      keep: of (triangle [N], weights [N, 3]) whether there is anything at those samples (holes in textures); [N] bool.
    The direction in which a triangle turns does not matter. Of two at the same depth the later one wins.
    """
    nearest = np.zeros(size * size)
    owner = np.full(size * size, _NO_TRIANGLE)
    slope = _slopes(xy, inverse_depth)
    low, high = _range(inverse_depth)
    for triangle, row, column in _fragments(xy, size):
        if keep is not None:
            stays = keep(triangle, weights(xy, triangle, row, column))
            triangle, row, column = triangle[stays], row[stays], column[stays]
        dx, dy = column + 0.5 - xy[triangle, 0, 0], row + 0.5 - xy[triangle, 0, 1]
        w = inverse_depth[triangle, 0] + slope[triangle, 0] * dx + slope[triangle, 1] * dy
        w = np.clip(w, low[triangle], high[triangle])  # seen edge-on, the plane's slope is nearly infinite
        place = row * size + column
        np.maximum.at(nearest, place, w)
        wins = w == nearest[place]
        owner[place[wins]] = triangle[wins]
    return Seen(owner.reshape(size, size), nearest.reshape(size, size))


def weights(xy: np.ndarray, triangle: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """[N, 3]: the shares of a triangle's corners at samples, on the picture (not yet in space); they sum to 1."""
    a, b, c = np.moveaxis(xy[triangle], 1, 0)  # each [N, 2]
    p = np.stack([column, row], axis=-1) + 0.5
    of_b, of_c = _cross(p - a, c - a), _cross(b - a, p - a)
    shares = np.clip(np.stack([of_b, of_c], axis=-1) / _cross(b - a, c - a)[:, None], 0, 1)
    return np.concatenate([1 - shares.sum(-1, keepdims=True), shares], axis=-1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest of [T, 3]; numpy's own reduction is several times slower along so short an axis."""
    a, b, c = values.T
    return np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)


def _slopes(xy: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[T, 2]: how a value that is linear on the picture changes along x and y; 0 on a triangle without area."""
    ab, ac = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    db, dc = value[:, 1] - value[:, 0], value[:, 2] - value[:, 0]
    area = _cross(ab, ac)
    along = np.stack([db * ac[:, 1] - dc * ab[:, 1], dc * ab[:, 0] - db * ac[:, 0]], axis=-1)
    return along / np.where(area == 0, np.inf, area)[:, None]


def _fragments(xy: np.ndarray, size: int) -> Iterator[Fragments]:
    """All samples inside each triangle, about BLOCK of them at a time."""
    if not len(xy):
        return
    order = np.argsort(xy[..., 1], axis=1, kind="stable")
    top_down = np.take_along_axis(xy, order[..., None], axis=1)  # [T, 3, 2]: an edge is always walked the same way
    first, end = (_clip(top_down[:, k, 1], size) for k in (0, 2))
    heights = np.maximum(end - first, 0)
    left, right = _range(xy[..., 0])
    widths = np.minimum(right - left + 1, size)
    work = np.cumsum(heights * (widths + 1))  # at least the samples and rows of the triangles so far
    ends = np.searchsorted(work, np.arange(BLOCK, work[-1] + BLOCK, BLOCK), side="right")
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        if stop > start:
            triangle, row = _expand(heights[start:stop], first[start:stop])
            left, right = _spans(top_down[start:stop], triangle, row, size)
            span, column = _expand(np.maximum(right - left, 0), left)
            yield triangle[span] + start, row[span], column


def _spans(top_down: np.ndarray, triangle: np.ndarray, row: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last-but-one column of each row of each triangle."""
    a, b, c = np.moveaxis(top_down[triangle], 1, 0)
    y = row + 0.5
    below = y >= b[:, 1]
    long_edge = _crossing(a, c, y)
    short_edge = _crossing(np.where(below[:, None], b, a), np.where(below[:, None], c, b), y)
    return _clip(np.minimum(long_edge, short_edge), size), _clip(np.maximum(long_edge, short_edge), size)


def _crossing(upper: np.ndarray, lower: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x where an edge crosses the height y."""
    height = lower[:, 1] - upper[:, 1]
    share = (y - upper[:, 1]) / np.where(height > 0, height, 1)
    return upper[:, 0] + share * (lower[:, 0] - upper[:, 0])


def _clip(position: np.ndarray, size: int) -> np.ndarray:
    """The first sample at or after a position, inside the picture."""
    return np.clip(np.ceil(position - 0.5), 0, size).astype(np.int64)


def _expand(lengths: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges start .. start + length as one array, and which range each number comes from."""
    source = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return source, starts[source] + offset
