"""Nearest neighbours by inner product, in JAX on the devices of a mesh (paper section 3: the top 10 in a cluster).

Every method proposes a few more rows than asked for, whose similarities are then computed anew, one by one: what comes
back depends on the vectors alone and not on blocks or devices, and equal rows come in the order of their indices.

* exact: all scores by blocked matrix products. A block's scores are reduced to the maxima of small bins of rows; the k
  best rows lie in the k best bins, so only those are looked at (the bins of Chern et al. 2022, there approximate).
* approximate: the same scan over a quarter of the dimensions, the principal ones; on a TPU with its own top-k.
* ivf: an inverted file of faiss (data_pipelines/retrieval/ivf.py), for sets that outgrow memory.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

METHODS = ("exact", "approximate", "ivf")
_SPARE = 6  # rows proposed beyond those asked for: rounding may have put the right one behind
_BIN = 8  # rows
_ROWS = 131_072  # of the database, on a device at once
_SCORED = 4096  # of them scored at once,
_QUERIES = 512  # for so many queries: 8 MiB of scores stay in the caches
_KEPT = 4  # approximate: one in so many dimensions is kept,
_PROPOSED = 2  # and so many times the rows asked for are proposed
_SAMPLE = 16_384  # rows that the principal dimensions are taken from
_ITERATIONS = 3
_PRECISION = lax.Precision.HIGHEST


class SearchError(ValueError):
    """A search that cannot be made; one line."""


def neighbors(
    queries: np.ndarray,
    database: np.ndarray,
    k: int,
    *,
    mesh: Mesh | None = None,
    method: str = "exact",
    exclude: np.ndarray | None = None,
    nprobe: int = 32,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of the database with the largest inner product, best first -> similarity [Q, k], index [Q, k].

    queries: [Q, D], database: [N, D] float32, which may be memory-mapped; mesh: whose devices share the rows of the
    database (None: the first device); exclude: [Q] the row that a query must not find, such as itself; nprobe: lists
    of the inverted file that each query reads. Where an inverted file gives fewer, the index is -1, the similarity
    -inf. Raises SearchError.
    """
    queries = np.asarray(queries, np.float32)
    wanted = k + (exclude is not None)
    _check(queries, database, wanted, method)
    if exclude is not None and np.shape(exclude) != queries.shape[:1]:
        raise SearchError(f"exclude has the shape {np.shape(exclude)}: one row for each of {len(queries)} queries")
    count = min(wanted + _SPARE, len(database))
    if method == "ivf":
        from data_pipelines.retrieval.ivf import propose  # faiss only where it is wanted

        found = propose(queries, database, count, nprobe)
    elif method == "approximate":
        found = _propose_by_part(queries, database, min(_PROPOSED * count, len(database)), mesh)
    else:
        found = _propose(queries, database, count, mesh)
    return _rank(queries, database, found, k, exclude)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours [Q, k] that are among those found [Q, k], whatever their order."""
    return float((exact[:, :, None] == found[:, None, :]).any(-1).mean())


def _check(queries: np.ndarray, database: np.ndarray, k: int, method: str) -> None:
    if method not in METHODS:
        raise SearchError(f"method '{method}' is none of {', '.join(METHODS)}")
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise SearchError(f"queries {queries.shape} and database {database.shape} are not [Q, D] and [N, D]")
    if not 0 < k <= len(database):
        raise SearchError(f"{k} neighbours, a query's own row included, cannot come from {len(database)} rows")


def _rank(queries, database, found, k, exclude) -> tuple[np.ndarray, np.ndarray]:
    """Keep the k best of the rows found [Q, C], by their own inner products."""
    similarity = np.empty(found.shape, np.float32)
    for rows in _slices(len(queries), _QUERIES):
        vectors = np.asarray(database[found[rows].ravel()], np.float32).reshape(*found[rows].shape, -1)
        similarity[rows] = np.einsum("qcd,qd->qc", vectors, queries[rows])
    similarity[found < 0] = -np.inf
    if exclude is not None:
        similarity[found == np.asarray(exclude)[:, None]] = -np.inf
    order = np.lexsort((found, -similarity))[:, :k]
    similarity, found = np.take_along_axis(similarity, order, 1), np.take_along_axis(found, order, 1)
    return similarity, np.where(np.isneginf(similarity), -1, found)


def _propose_by_part(queries, database, count, mesh) -> np.ndarray:
    """As _propose, by the principal dimensions of the database alone."""
    sample = np.asarray(database[:: -(-len(database) // _SAMPLE)], np.float32)
    basis = _principal(sample, max(queries.shape[1] // _KEPT, 1))
    return _propose(queries @ basis, database, count, mesh, basis)


def _principal(sample: np.ndarray, kept: int) -> np.ndarray:
    """Orthogonal directions [D, kept] that hold nearly all of the sample [S, D], by subspace iteration (Halko 2011).

    Uncentred: what is to be kept is the inner product.
    """
    moments = sample.T @ sample
    basis = np.random.default_rng(0).standard_normal((len(moments), kept), np.float32)
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(moments @ basis)
    return basis


def _propose(queries, database, count, mesh, basis=None) -> np.ndarray:
    """Rows of the database with the largest scores -> [Q, count] int32, best first."""
    mesh = mesh or jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    size = next((n for n in (64, _QUERIES) if n >= len(queries)), _QUERIES)
    groups = [_pad(queries[rows], size) for rows in _slices(len(queries), size)]
    best = [None] * len(groups)
    length, scored = _block_length(len(database), mesh.size)
    for start in range(0, len(database), length):
        first = max(min(start, len(database) - length), 0)  # the last block is moved back rather than padded
        block = np.asarray(database[first : first + length], np.float32)
        block = _by_bins(block if basis is None else block @ basis, length, scored)
        block = jax.device_put(block, NamedSharding(mesh, P(mesh.axis_names)))
        limits = np.array([first, start, len(database)], np.int32)
        cut = first < start or first + length > len(database)  # some rows do not count
        for i, group in enumerate(groups):
            found = _best(group, block, limits, count=count, mesh=mesh, part=basis is not None, cut=cut, scored=scored)
            best[i] = jax.block_until_ready(found if best[i] is None else _merge(best[i], found, count=count))
    return np.concatenate([np.asarray(index) for _, index in best])[: len(queries)]


def _block_length(rows: int, devices: int) -> tuple[int, int]:
    """Rows of a block, and rows scored at once: equal blocks and of few different sizes, so little is compiled."""
    blocks = -(-rows // (_ROWS * devices))
    least = -(-rows // (blocks * devices))  # a device's
    scored = min(max(2 ** (least.bit_length() - 5), 4 * _BIN), _SCORED)  # at most a sixteenth is looked at in vain
    return -(-least // scored) * scored * devices, scored


def _by_bins(rows: np.ndarray, length: int, scored: int) -> np.ndarray:
    """Rows, padded to `length`, in the order of scoring: the first of every bin, then the second of every bin ...

    So the maxima over bins are taken over long runs of scores.
    """
    binned = _aligned_zeros((length // scored, _BIN, scored // _BIN, rows.shape[1]))
    whole = len(rows) // scored
    for scan, part in zip(binned, np.split(rows, range(scored, whole * scored + 1, scored)), strict=False):
        part = part if len(part) == scored else _pad(part, scored)
        scan[:] = part.reshape(-1, _BIN, rows.shape[1]).swapaxes(0, 1)
    return binned.reshape(length, -1)


def _aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 at a multiple of 64 bytes: a CPU device takes such an array without a copy."""
    raw = np.zeros(4 * int(np.prod(shape)) + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + raw.size - 64].view(np.float32).reshape(shape)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _pad(rows: np.ndarray, length: int) -> np.ndarray:
    if len(rows) == length:
        return rows
    padded = np.zeros((length, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded


@functools.partial(jax.jit, static_argnames=("count", "mesh", "part", "cut", "scored"))
def _best(queries, block, limits, *, count: int, mesh: Mesh, part: bool, cut: bool, scored: int):
    """The best of one block of rows -> scores, index [Q, count].

    limits: the number of the block's first row, of the first that counts, and of the first that does not.
    """
    search = functools.partial(_best_here, count=count, axes=mesh.axis_names, part=part, cut=cut, scored=scored)
    specs = (P(), P(mesh.axis_names), P())
    search = jax.shard_map(search, mesh=mesh, in_specs=specs, out_specs=P(None, mesh.axis_names), check_vma=False)
    return _keep(*search(queries, block, limits), count)  # the devices' finds lie in the order of their rows


def _best_here(queries, block, limits, *, count: int, axes: tuple[str, ...], part: bool, cut: bool, scored: int):
    """The best among one device's rows, `scored` of them at a time."""
    first, start, stop = limits
    first += lax.axis_index(axes) * len(block)
    place = jnp.arange(scored)
    row = place % (scored // _BIN) * _BIN + place // (scored // _BIN)  # what _by_bins put there

    def step(best, at):
        rows = lax.dynamic_slice_in_dim(block, at, scored)
        scores = jnp.matmul(queries, rows.T, precision=None if part else _PRECISION)  # [Q, scored]
        number = first + at + row
        counts = (number >= start) & (number < stop) if cut else None
        if part and jax.default_backend() == "tpu":
            scores, chosen = lax.approx_max_k(_hide(scores, counts), min(count, scored))
        else:
            chosen = _places_of_best_bins(_hide(scores, counts), count)
            # Hidden once more rather than once before, which would write all scores a second time.
            scores = _hide(jnp.take_along_axis(scores, chosen, 1), None if counts is None else counts[chosen])
        found = scores, number[chosen]
        return _keep(*(jnp.concatenate(pair, 1) for pair in zip(best, found, strict=True)), count), None

    nothing = jnp.full((len(queries), count), -jnp.inf), jnp.full((len(queries), count), -1)
    best, _ = lax.scan(step, nothing, jnp.arange(0, len(block), scored))
    return best


def _hide(scores: jnp.ndarray, counts: jnp.ndarray | None) -> jnp.ndarray:
    return scores if counts is None else jnp.where(counts, scores, -jnp.inf)


def _places_of_best_bins(scores: jnp.ndarray, count: int) -> jnp.ndarray:
    """Places [Q, C] in the scores [Q, R] of the members of the `count` best bins, in the order of their rows."""
    maxima = scores.reshape(len(scores), _BIN, -1).max(1)
    _, bins = lax.top_k(maxima, min(count, maxima.shape[1]))
    members = jnp.sort(bins, 1)[:, :, None] + jnp.arange(_BIN) * maxima.shape[1]
    return members.reshape(len(scores), -1)


@functools.partial(jax.jit, static_argnames="count")
def _merge(earlier, later, *, count: int):
    scores, index = (jnp.concatenate(pair, 1) for pair in zip(earlier, later, strict=True))
    return _keep(scores, index, count)


def _keep(scores: jnp.ndarray, index: jnp.ndarray, count: int) -> tuple[jnp.ndarray, jnp.ndarray]:
    """The `count` best of each row, the earlier of equals first."""
    scores, place = lax.top_k(scores, min(count, scores.shape[1]))
    return scores, jnp.take_along_axis(index, place, 1)
