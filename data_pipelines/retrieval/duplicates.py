"""Near-duplicates inside a cluster (paper section 3): high similarity, or the same metadata such as the URL.

Every member is held against every other, not only against the seed, for any member may become the target. Pictures are
also compared as pictures: nearly equal pixels are one drawing even where an embedding tells them apart.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image

from data_pipelines.retrieval.clustering import unit

THUMBNAIL = 16  # px
DECIMALS = 6  # of a similarity in a record (data_pipelines/retrieval/clusters.py)


@dataclass(frozen=True)
class Sameness:
    """When two pictures count as near-duplicates; two of equal pixels always do."""

    similarity: float = 0.9  # cosine of the embeddings, this or more
    pixels: float = 8.0  # root mean square difference of 16 px thumbnails, of 255, this or less


@dataclass(frozen=True)
class Marks:
    """What a picture is compared by."""

    embedding: np.ndarray  # [D]
    thumbnail: np.ndarray  # [16, 16, 3] uint8
    pixels: str  # pixel_hash of the picture as it is stored
    same: tuple[str, ...]  # metadata that no two members may share: 'url=...'


def pixel_hash(picture: np.ndarray) -> str:
    """A name of the very pixels [h, w, 3] uint8."""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()[:32]


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """[h, w, 3] uint8 -> [16, 16, 3] uint8, averaged."""
    return np.asarray(Image.fromarray(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def similarity(a: Marks, b: Marks) -> float:
    """Cosine of the embeddings, rounded as records keep it."""
    return round(float(unit(a.embedding) @ unit(b.embedding)), DECIMALS)


def similarities(marks: Sequence[Marks]) -> np.ndarray:
    """The similarity of each pair [n, n]: symmetric, and 1 on the diagonal."""
    table = np.eye(len(marks))
    for a, b in combinations(range(len(marks)), 2):
        table[a, b] = table[b, a] = similarity(marks[a], marks[b])
    return table


def fault(a: Marks, b: Marks, limits: Sameness) -> str:
    """Why `a` and `b` are near-duplicates, '' where they are not."""
    if a.pixels == b.pixels:
        return "identical pixels"
    if set(a.same) & set(b.same):
        return "same metadata"
    if similarity(a, b) >= limits.similarity:
        return f"similarity of {limits.similarity:g} or more"
    if pixel_distance(a.thumbnail, b.thumbnail) <= limits.pixels:
        return "nearly equal pixels"
    return ""


def pixel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two thumbnails, of 255."""
    return float(np.sqrt(np.mean(np.square(a.astype(np.float32) - b))))


def prune(marks: Sequence[Marks], wanted: int, limits: Sameness) -> tuple[list[int], Counter]:
    """Places of the members that stay, at most `wanted`, and how many leave for which reason.

    marks: the seed first, then its neighbours from the nearest. Each joins unless it is a near-duplicate of one that
    joined before it.
    """
    kept, dropped = [0], Counter()
    for i in range(1, len(marks)):
        if len(kept) == wanted:
            dropped[f"beyond the {wanted} nearest"] += len(marks) - i
            break
        faults = (fault(marks[j], marks[i], limits) for j in kept)
        reason = next(filter(None, faults), "")
        if reason:
            dropped[reason] += 1
        else:
            kept.append(i)
    return kept, dropped
