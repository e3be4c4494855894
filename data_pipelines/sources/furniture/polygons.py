"""Polygons of any shape cut into triangles: fans where they are convex, ears where they are not.

Models of the furniture corpus (it stands in for paper section 4.1) have window frames and plates with dents: a fan of
those would fill the dent. Ear clipping: Meisters, "Polygons have ears", 1975.
"""

import numpy as np


def triangulate(positions: np.ndarray, index: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut faces into triangles.

    positions [V, 3]; index [C] are the vertices of all faces' corners, one face after another; counts [F] corners of
    each face. Returns (triangles [T, 3] as places in `index`, face [T]), in the order of the faces.
    """
    starts = np.cumsum(counts) - counts
    triangles, faces = [], []
    for count in np.unique(counts):
        which = np.flatnonzero(counts == count)
        places = starts[which, None] + np.arange(count)  # [F', n]
        fan = np.stack([np.zeros(count - 2, int), np.arange(1, count - 1), np.arange(2, count)], axis=-1)  # [n-2, 3]
        cut = places[:, fan]  # [F', n-2, 3]
        for i in np.flatnonzero(_is_dented(positions[index[places]])):
            cut[i] = places[i][_clip_ears(_flatten(positions[index[places[i]]]))]
        triangles.append(cut.reshape(-1, 3))
        faces.append(np.repeat(which, count - 2))
    order = np.argsort(np.concatenate(faces), kind="stable")
    return np.concatenate(triangles)[order], np.concatenate(faces)[order]


def _is_dented(points: np.ndarray) -> np.ndarray:
    """[F, n, 3] -> [F]: whether a corner turns against the polygon's own direction."""
    if points.shape[1] == 3:
        return np.zeros(len(points), bool)
    edges = np.roll(points, -1, axis=1) - points
    turns = np.cross(edges, np.roll(edges, -1, axis=1))  # [F, n, 3]
    along = np.einsum("fnx,fx->fn", turns, _area(points))
    return along.min(axis=1) < -1e-4 * np.abs(along).max(axis=1)


def _area(points: np.ndarray) -> np.ndarray:
    """[..., n, 3] -> [..., 3]: the area vector of a polygon, plane or not (Newell's method)."""
    middle = points - points.mean(axis=-2, keepdims=True)
    return np.cross(middle, np.roll(middle, -1, axis=-2)).sum(axis=-2)


def _flatten(points: np.ndarray) -> np.ndarray:
    """[n, 3] -> [n, 2], seen along the axis that its plane faces most, turning to the left."""
    area = _area(points)
    axis = int(np.abs(area).argmax())
    flat = points[:, [(axis + 1) % 3, (axis + 2) % 3]]
    return flat if area[axis] > 0 else flat * (1, -1)


def _clip_ears(points: np.ndarray) -> list[list[int]]:
    """n - 2 triangles of a polygon [n, 2] that turns to the left; where no ear is left (it cuts itself), a fan."""
    left, triangles = list(range(len(points))), []
    coordinates = points.tolist()
    while len(left) > 3:
        ear = next((k for k in range(len(left)) if _is_ear(coordinates, left, k)), 1)
        triangles.append([left[ear - 1], left[ear], left[(ear + 1) % len(left)]])
        del left[ear]
    return [*triangles, left]


def _is_ear(points: list[list[float]], left: list[int], k: int) -> bool:
    corners = left[k - 1], left[k], left[(k + 1) % len(left)]
    a, b, c = (points[i] for i in corners)
    if _turn(a, b, c) <= 0:
        return False
    others = (points[i] for i in left if i not in corners)
    return not any(
        p not in (a, b, c) and _turn(a, b, p) >= 0 and _turn(b, c, p) >= 0 and _turn(c, a, p) >= 0 for p in others
    )


def _turn(a: list[float], b: list[float], c: list[float]) -> float:
    """Twice the area of abc, positive where it turns to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
