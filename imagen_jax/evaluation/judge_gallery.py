"""The gallery in which a picture must find its subject: real test pictures, less those of the designs that were shown.

Recall@1 over up to 150 root subjects, in designs other than those that the instruction shows or asks for: so copying a
reference earns no more than its likeness to what others drew (paper section 4.1, subject rows; the measure is ours).
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data_pipelines.corpus import Picture
from data_pipelines.pairs import STYLES
from imagen_jax.evaluation.judge_training import Pool

ROOTS = 150


def look_of(style: str) -> str:
    """What two pictures of a subject share that are one design of it: the house, of a model the side."""
    return style if STYLES[style].view else STYLES[style].house


def is_coloured(picture: Picture) -> bool:
    """Whether the picture is neither a black drawing nor a depth map."""
    return not (STYLES[picture.style].drawing or STYLES[picture.style].depth)


class Gallery:
    """Real test pictures on white, and their vectors.

    Args:
      embed: pictures [N, S, S, 3] uint8 -> vectors [N, D] of length 1.

    Attributes:
      pictures, vectors, roots, looks: of each picture of the gallery, in the same order.
    """

    def __init__(self, pool: Pool, embed: Callable[[np.ndarray], np.ndarray]):
        ids = pool.ids("test", is_coloured)
        self._embed, self.pictures = embed, pool.white(ids)
        self.vectors = embed(self.pictures)
        self.roots = np.array([pool.pictures[i].root for i in ids])
        self.looks = np.array([look_of(pool.pictures[i].style) for i in ids])
        self._names = sorted(set(self.roots), key=_digest)  # an order without meaning, the same for ever
        self._shown = _looks_by_pixels(pool)

    def looks_shown(self, pictures: Sequence[np.ndarray], style: str) -> set[str]:
        """The designs that a case gives away: of the style it asks for ('' none), and of the real pictures in it.

        A real picture is known by its pixels, so nobody need tell who drew a reference.
        """
        shown = set().union(*(self._shown.get(_digest(picture.tobytes()), ()) for picture in pictures))
        return shown | ({look_of(style)} if style else set())

    def find(
        self, pictures: UInt8[np.ndarray, "N S S 3"], roots: Sequence[Sequence[str]], looks: Sequence[Collection[str]]
    ) -> Float[np.ndarray, "N"]:
        """For each picture 1 if each of its `roots` is what its part of the picture is nearest to, else 0.

        One root has the whole picture; n roots, from left to right, have a square of 1/n of the side each, at half
        height. The picture's own `looks` are left out; nan where that leaves a root without any, or without `roots`.
        """
        parts = [_parts(picture, len(wanted)) for picture, wanted in zip(pictures, roots, strict=True)]
        ends = np.cumsum([len(part) for part in parts])
        vectors = np.split(self._embed(np.concatenate(parts)), ends[:-1]) if ends[-1] else parts
        return np.array([self._find(*row) for row in zip(vectors, roots, looks, strict=True)])

    def _find(self, vectors: np.ndarray, roots: Sequence[str], looks: Collection[str]) -> float:
        kept = ~np.isin(self.looks, list(looks))
        if not len(roots) or not all((kept & (self.roots == root)).any() for root in roots):
            return float("nan")
        others = [name for name in self._names if name not in roots]
        kept &= np.isin(self.roots, [*roots, *others[: ROOTS - len(roots)]])
        found = self.roots[kept][(vectors @ self.vectors[kept].T).argmax(axis=1)]
        return float((found == np.asarray(roots)).all())

    def recall(self) -> tuple[float, int]:
        """Recall@1 of the gallery's own pictures, each searched in the other designs; and how many could be."""
        own = zip(self.vectors[:, None], self.roots[:, None], self.looks[:, None], strict=True)
        found = np.array([self._find(*row) for row in own])
        return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0, int(np.isfinite(found).sum())


def _looks_by_pixels(pool: Pool) -> dict[str, set[str]]:
    """The looks of all test pictures with the same pixels; houses copy a few drawings from each other."""
    ids = pool.ids("test", lambda picture: not STYLES[picture.style].depth)
    looks = defaultdict(set)
    for i, picture in zip(ids, pool.white(ids), strict=True):
        looks[_digest(picture.tobytes())].add(look_of(pool.pictures[i].style))
    return dict(looks)


def _digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def _parts(picture: np.ndarray, count: int) -> np.ndarray:
    """[count, S, S, 3]: squares of 1/count of the side at half height, from left to right, enlarged to the picture."""
    size = len(picture)
    side = size // max(count, 1)
    top = (size - side) // 2
    cuts = [picture[top : top + side, k * size // count : k * size // count + side] for k in range(count)]
    large = [np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.BICUBIC)) for cut in cuts]
    return np.array(large, np.uint8).reshape(count, size, size, 3)
