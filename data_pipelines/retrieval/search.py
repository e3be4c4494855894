"""Nearest neighbours by inner product, in JAX on the devices of a mesh (paper section 3: the top 10 in a cluster).

Every method proposes a few more rows than asked for, whose similarities are then computed anew, one by one: what comes
back depends on the vectors alone and not on blocks or devices, and equal rows come in the order of their indices.

* exact: all scores by blocked matrix products. Scores are reduced to the maxima of small bins of rows; the k best rows
  lie in the k best bins, so only those are looked at (the bins of Chern et al. 2022, there approximate). Where bfloat16
  is fast, the scores are bfloat16's: what its rounding can hide is bounded (Cauchy-Schwarz), and a query whose result
  is not certain within that bound is searched again in float32.
* approximate: the same scan over a quarter of the dimensions, the principal ones; on a TPU with its own top-k.
* ivf: an inverted file of faiss (data_pipelines/retrieval/ivf.py), for sets that outgrow memory.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

METHODS = ("exact", "approximate", "ivf")
_SPARE = 6  # rows proposed beyond those asked for: rounding may have put the right one behind
_BIN = 16  # rows
_ROWS = 131_072  # of the database, on a device at once
_SCORED = 4096  # of them scored at once,
_QUERIES = 1024  # for so many queries
_THREADS = 2  # groups of queries at a time: XLA's top-k keeps one core busy
_KEPT = 4  # approximate: one in so many dimensions is kept,
_PROPOSED = 2  # and so many times the rows asked for are proposed
_SAMPLE = 16_384  # rows that the principal dimensions are taken from
_ITERATIONS = 3
_PRECISION = {"float32": lax.Precision.HIGHEST, "bfloat16": lax.Precision.DEFAULT}


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
        return _rank(queries, database, found, k, exclude)
    if method == "approximate":
        found = _propose_by_part(queries, database, min(_PROPOSED * count, len(database)), mesh)
        return _rank(queries, database, found, k, exclude)
    return _exact(queries, database, k, exclude, count, mesh)


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


def _exact(queries, database, k, exclude, count, mesh) -> tuple[np.ndarray, np.ndarray]:
    if not _bfloat16_is_fast():
        return _rank(queries, database, _propose(queries, database, count, mesh).index, k, exclude)
    found = _propose(queries, database, count, mesh, dtype=jnp.bfloat16)
    similarity, index = _rank(queries, database, found.index, k, exclude)
    # No row that was not proposed can score more than the last one that was, and its rounding.
    unsure = similarity[:, -1] <= found.least + _rounding(queries, found.norms)
    if count < len(database) and unsure.any():
        rest = None if exclude is None else np.asarray(exclude)[unsure]
        proposed = _propose(queries[unsure], database, count, mesh).index
        similarity[unsure], index[unsure] = _rank(queries[unsure], database, proposed, k, rest)
    return similarity, index


def _bfloat16_is_fast() -> bool:
    """Whether the devices multiply bfloat16 matrices in hardware: accelerators do, and CPUs with AMX."""
    cpu = Path("/proc/cpuinfo")
    return jax.default_backend() != "cpu" or (cpu.exists() and "amx_bf16" in cpu.read_text())


def _rounding(queries: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """The most by which bfloat16 scores [Q, N] can err, a query: |<q, d> - <q', d'>| <= |q| |d - d'| + |q - q'| |d'|.

    norms: the largest |d'| and the largest |d - d'| of the database.
    """
    largest, lost = norms
    rest = queries - queries.astype(jnp.bfloat16).astype(np.float32)
    bound = np.linalg.norm(queries, axis=1) * lost + np.linalg.norm(rest, axis=1) * largest
    return bound + 1e-5 * np.linalg.norm(queries, axis=1) * largest  # and float32's own sums


def _propose_by_part(queries, database, count, mesh) -> np.ndarray:
    """As _propose, by the principal dimensions of the database alone."""
    sample = np.asarray(database[:: -(-len(database) // _SAMPLE)], np.float32)
    basis = _principal(sample, max(queries.shape[1] // _KEPT, 1))
    dtype = jnp.bfloat16 if _bfloat16_is_fast() else jnp.float32
    return _propose(queries @ basis, database, count, mesh, basis, dtype).index


def _principal(sample: np.ndarray, kept: int) -> np.ndarray:
    """Orthogonal directions [D, kept] that hold nearly all of the sample [S, D], by subspace iteration (Halko 2011).

    Uncentred: what is to be kept is the inner product.
    """
    moments = sample.T @ sample
    basis = np.random.default_rng(0).standard_normal((len(moments), kept), np.float32)
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(moments @ basis)
    return basis


class _Found(NamedTuple):
    """Rows with the largest scores."""

    index: np.ndarray  # [Q, count], best first
    least: np.ndarray  # [Q] the score of the last of them
    norms: np.ndarray  # the largest norm of a row as it was scored, and of what its dtype lost of it


def _propose(queries, database, count, mesh, basis=None, dtype=jnp.float32) -> _Found:
    """The rows of the database with the largest scores; basis: scored by these directions [D, d] alone."""
    mesh = mesh or jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    size = next((n for n in (64, _QUERIES) if n >= len(queries)), _QUERIES)
    groups = [_columns(queries[rows], size, dtype) for rows in _slices(len(queries), size)]
    best, norms = [None] * len(groups), np.zeros(2, np.float32)
    search = functools.partial(_best, count=count, mesh=mesh, by_part=basis is not None)
    for start, length, scored in _blocks(len(database), mesh.size):
        block = np.asarray(database[start : start + length], np.float32)
        cut = len(block) < length
        block = np.pad(block, ((0, length - len(block)), (0, 0))) if cut else block
        block = block if basis is None else block @ basis
        block, found_norms = _round(jax.device_put(block, NamedSharding(mesh, P(mesh.axis_names))), mesh, dtype)
        norms = np.maximum(norms, np.max(found_norms, 0))
        limits = np.array([start, len(database)], np.int32)
        here = functools.partial(search, rows=block, limits=limits, cut=cut, scored=scored)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda group, here=here: jax.block_until_ready(here(group)), groups))
        best = [_merge(old, new, count=count) if old else new for old, new in zip(best, found, strict=True)]
    scores, index = (np.concatenate(arrays)[: len(queries)] for arrays in zip(*best, strict=True))
    return _Found(index, scores[:, -1], norms)


def _blocks(rows: int, devices: int) -> Iterator[tuple[int, int, int]]:
    """(start, rows, rows scored at once on a device) of each block: whole ones, then a small one that is padded."""
    whole = rows - rows % (_SCORED * devices)
    for start in range(0, whole, _ROWS * devices):
        yield start, min(_ROWS * devices, whole - start), _SCORED
    if rest := rows - whole:
        least = -(-rest // devices)
        step = max(2 ** (least.bit_length() - 4), _BIN)  # few different sizes: little is compiled
        scored = -(-least // step) * step
        yield whole, scored * devices, scored


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _columns(queries: np.ndarray, size: int, dtype) -> np.ndarray:
    """Queries as columns [D, size], padded with zeros: a CPU multiplies fastest by rows times such columns."""
    columns = np.zeros((queries.shape[1], size), dtype)
    columns[:, : len(queries)] = queries.T
    return columns


@functools.partial(jax.jit, static_argnames=("mesh", "dtype"))
def _round(block, mesh: Mesh, dtype):
    """[R, D] float32 -> the same in dtype, and the two norms of _Found for each device."""

    def here(rows):
        rounded = rows.astype(dtype)
        lost = rows - rounded.astype(jnp.float32)
        norms = [jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(1).max()) for x in (rounded, lost)]
        return rounded, jnp.stack(norms)[None]

    axes = P(mesh.axis_names)
    return jax.shard_map(here, mesh=mesh, in_specs=axes, out_specs=axes)(block)


@functools.partial(jax.jit, static_argnames=("count", "mesh", "by_part", "cut", "scored"))
def _best(queries, rows, limits, *, count: int, mesh: Mesh, by_part: bool, cut: bool, scored: int):
    """The best of one block of rows for queries [D, Q] -> scores, index [Q, count].

    limits: the number of the block's first row, and of the first that does not count, which it has where it is `cut`.
    """
    search = functools.partial(_best_here, count=count, axes=mesh.axis_names, by_part=by_part, cut=cut, scored=scored)
    specs = (P(), P(mesh.axis_names), P())
    search = jax.shard_map(search, mesh=mesh, in_specs=specs, out_specs=P(None, mesh.axis_names), check_vma=False)
    return _keep(*search(queries, rows, limits), count)  # the devices' finds lie in the order of their rows


def _best_here(queries, block, limits, *, count: int, axes: tuple[str, ...], by_part: bool, cut: bool, scored: int):
    """The best among one device's rows, `scored` of them at a time."""
    first, stop = limits
    rows = block.reshape(-1, scored, block.shape[1])
    starts = first + lax.axis_index(axes) * len(block) + jnp.arange(len(rows)) * scored

    def step(best, rows_and_start):
        rows, start = rows_and_start
        scores = jnp.matmul(rows, queries, preferred_element_type=jnp.float32, precision=_PRECISION[rows.dtype.name])
        number = start + jnp.arange(scored)
        if cut:
            scores = jnp.where((number < stop)[:, None], scores, -jnp.inf)
        if by_part and jax.default_backend() == "tpu":
            scores, place = lax.approx_max_k(scores.T, min(count, scored))
        else:
            place = _places_of_best_bins(scores, count)
            scores, place = jnp.take_along_axis(scores, place, 0).T, place.T
        found = scores, number[place]
        return _keep(*(jnp.concatenate(pair, 1) for pair in zip(best, found, strict=True)), count), None

    nothing = jnp.full((queries.shape[1], count), -jnp.inf), jnp.full((queries.shape[1], count), -1)
    best, _ = lax.scan(step, nothing, (rows, starts))
    return best


def _places_of_best_bins(scores: jnp.ndarray, count: int) -> jnp.ndarray:
    """Places [C, Q] in the scores [R, Q], ascending, that hold the `count` best: the members of the best bins."""
    maxima = scores.reshape(-1, _BIN, scores.shape[1]).max(1)
    _, bins = lax.top_k(maxima.T, min(count, len(maxima)))
    members = jnp.sort(bins, 1).T[:, None] * _BIN + jnp.arange(_BIN)[:, None]
    return members.reshape(-1, scores.shape[1])


@functools.partial(jax.jit, static_argnames="count")
def _merge(earlier, later, *, count: int):
    scores, index = (jnp.concatenate(pair, 1) for pair in zip(earlier, later, strict=True))
    return _keep(scores, index, count)


def _keep(scores: jnp.ndarray, index: jnp.ndarray, count: int) -> tuple[jnp.ndarray, jnp.ndarray]:
    """The `count` best of each row, the earlier of equals first."""
    scores, place = lax.top_k(scores, min(count, scores.shape[1]))
    return scores, jnp.take_along_axis(index, place, 1)
