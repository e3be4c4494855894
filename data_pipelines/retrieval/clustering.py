"""Clusters inside a domain (paper section 3): spherical k-means, and its coarse level for domains of any size.

Rows are of unit length and a row's similarity is the cosine (Dhillon and Modha, 2001). A coarse level, trained on a
sample, deals a domain out to several workers; the fine level finds the seeds whose neighbours become a cluster.
"""

import numpy as np

ITERATIONS = 10
_BLOCK = 4096  # rows compared at a time: bounds the memory of one comparison


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors [..., D] at length 1, as float32; zero stays zero."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def kmeans(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centroids [K, D] of unit length, K <= count: centroids that end without rows are left out.

    rows: [N, D] float32 of unit length, in an order that does not change from run to run.
    """
    rng = np.random.default_rng(seed)
    centroids = rows[np.sort(rng.choice(len(rows), min(count, len(rows)), replace=False))]
    for _ in range(ITERATIONS):
        moved = _means(rows, nearest(rows, centroids)[0])
        if moved.shape == centroids.shape and np.allclose(moved, centroids, atol=1e-6):
            break
        centroids = moved
    return centroids


def nearest(rows: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each row [N] int and its cosine [N]; of equal ones the first."""
    places, cosines = [], []
    for start in range(0, len(rows), _BLOCK):
        table = rows[start : start + _BLOCK] @ centroids.T
        best = table.argmax(axis=1)
        places.append(best)
        cosines.append(np.take_along_axis(table, best[:, None], axis=1)[:, 0])
    return np.concatenate(places), np.concatenate(cosines)


def seeds(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The row nearest to each centroid among the rows of its own cluster, ascending: no row is the seed of two."""
    places, cosines = nearest(rows, centroids)
    order = np.lexsort((np.arange(len(rows)), -cosines, places))
    firsts = np.unique(places[order], return_index=True)[1]
    return np.sort(order[firsts])


def _means(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    order = np.argsort(places, kind="stable")  # sums in the rows' order, so the same in every run
    starts = np.unique(places[order], return_index=True)[1]
    return unit(np.add.reduceat(rows[order], starts, axis=0))
