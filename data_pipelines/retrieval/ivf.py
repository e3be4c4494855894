"""Candidates from an inverted file of faiss, for sets that outgrow memory (the paper's WebLI: section 3).

The database is read in blocks, from a memory-mapped file for one, and kept as one byte a number; the search ranks the
candidates by the exact vectors. k-means, with a fixed seed, finds the lists on a sample (Jegou et al. 2011).
"""

import math
from collections.abc import Callable

import faiss
import numpy as np

_BLOCK = 65_536  # rows added at once
_PER_LIST = 64  # rows of the sample for each list;
_LEAST_PER_LIST = 39  # with fewer k-means warns
_SEED = 1234


def propose(queries: np.ndarray, database: np.ndarray, count: int, nprobe: int) -> np.ndarray:
    """Rows of the database [N, D] with large inner products -> [Q, count] int64; -1 where the lists read hold fewer.

    Each query reads `nprobe` of at most sqrt(N) lists, so a larger nprobe is slower and finds more.
    """
    lists = max(min(math.isqrt(len(database)), len(database) // _LEAST_PER_LIST), 1)
    dimensions = database.shape[1]
    quantizer = faiss.IndexFlatIP(dimensions)
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(quantizer, dimensions, lists, kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = _SEED
    step = max(len(database) // (_PER_LIST * lists), 1)
    index.train(np.ascontiguousarray(database[::step], np.float32))
    for start in range(0, len(database), _BLOCK):
        index.add(np.ascontiguousarray(database[start : start + _BLOCK], np.float32))
    index.nprobe = min(nprobe, lists)
    return index.search(np.ascontiguousarray(queries), count)[1]


def open_flat(database: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """faiss's own exact search of [N, D], which the benchmark compares with: (queries [Q, D], k) -> index [Q, k]."""
    index = faiss.IndexFlatIP(database.shape[1])
    index.add(np.ascontiguousarray(database, np.float32))
    return lambda queries, k: index.search(queries, k)[1]
