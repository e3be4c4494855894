"""Neighbour search: every method, mesh and block size gives the rows that brute force in numpy gives."""

import argparse

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from data_pipelines.benchmarks import search as benchmark
from data_pipelines.retrieval import search
from data_pipelines.retrieval.search import SearchError, neighbors, recall


def vectors(rows, dimensions=24, seed=0):
    """Rows of length 1 whose dimensions fade as those of embeddings do."""
    x = np.random.default_rng(seed).normal(size=(rows, dimensions)) / np.arange(1, dimensions + 1)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def brute(queries, database, k):
    scores = queries.astype(np.float64) @ database.T.astype(np.float64)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # stable: the lower index of equals
    return np.take_along_axis(scores, index, 1), index


def make_mesh(*sizes):
    axes = ("data", "fsdp")[: len(sizes)]
    return jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * len(sizes)) if sizes else None


@pytest.mark.parametrize("sizes", [(), (8,), (4, 2)], ids=str)
@pytest.mark.parametrize(("queries", "rows", "k"), [(70, 1003, 7), (3, 700, 1), (5, 9, 9)])
def test_exact_equals_numpy_on_every_mesh(sizes, queries, rows, k):
    q, d = vectors(queries, seed=1), vectors(rows)
    similarity, index = neighbors(q, d, k, mesh=make_mesh(*sizes))
    expected, places = brute(q, d, k)
    np.testing.assert_array_equal(index, places)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
def test_exact_in_either_dtype(monkeypatch, fast):
    monkeypatch.setattr(search, "_bfloat16_is_fast", lambda: fast)
    q, d = vectors(70, seed=1), vectors(3000)
    np.testing.assert_array_equal(neighbors(q, d, 7)[1], brute(q, d, 7)[1])


def test_what_bfloat16_cannot_tell_apart_is_searched_again(monkeypatch):
    monkeypatch.setattr(search, "_bfloat16_is_fast", lambda: True)
    d = np.ones((400, 8), np.float32)
    d[:, 0] += np.random.default_rng(0).permutation(400) * 1e-5  # all equal in bfloat16
    q = np.ones((3, 8), np.float32)
    found = search._propose(q, d, 11, None, dtype=jax.numpy.bfloat16)
    assert set(found.index[0]) != set(brute(q, d, 11)[1][0])
    np.testing.assert_array_equal(neighbors(q, d, 5)[1], brute(q, d, 5)[1])


def test_the_result_does_not_depend_on_blocks_or_devices(monkeypatch):
    q, d = vectors(530, seed=1), vectors(2001)
    whole = neighbors(q, d, 10)
    monkeypatch.setattr(search, "_ROWS", 96)
    monkeypatch.setattr(search, "_SCORED", 48)
    for sizes in ((), (8,)):
        for one, other in zip(whole, neighbors(q, d, 10, mesh=make_mesh(*sizes)), strict=True):
            np.testing.assert_array_equal(one, other)  # to the bit


@pytest.mark.parametrize("sizes", [(), (8,)], ids=str)
def test_equal_rows_come_in_the_order_of_their_indices(sizes):
    rng = np.random.default_rng(0)
    d = rng.integers(-2, 3, (60, 6))[rng.integers(0, 60, 900)].astype(np.float32)  # whole numbers: ties are exact
    q = rng.integers(-2, 3, (40, 6)).astype(np.float32)
    similarity, index = neighbors(q, d, 20, mesh=make_mesh(*sizes))
    expected, places = brute(q, d, 20)
    assert (np.diff(expected) == 0).mean() > 0.5
    np.testing.assert_array_equal(index, places)
    np.testing.assert_array_equal(similarity, expected)


@pytest.mark.parametrize("method", search.METHODS)
def test_a_query_does_not_find_its_own_row(method):
    d = vectors(400)
    d[7] = d[300]  # a twin is another row, and found first
    _, index = neighbors(d, d, 5, method=method, exclude=np.arange(400))
    assert not (index == np.arange(400)[:, None]).any()
    assert index[7, 0] == 300
    assert index[300, 0] == 7
    expected = brute(d, d, 6)[1][100]
    if method == "exact":
        np.testing.assert_array_equal(index[100], expected[expected != 100][:5])


@pytest.mark.parametrize("method", ["approximate", "ivf"])
def test_the_fast_methods_find_nearly_all_and_tell_true_similarities(method, tmp_path):
    np.save(tmp_path / "d.npy", vectors(6000, 64))
    d = np.load(tmp_path / "d.npy", mmap_mode="r")
    q = vectors(300, 64, seed=1)
    exact = neighbors(q, d, 10)[1]
    similarity, index = neighbors(q, d, 10, method=method)
    assert recall(index, exact) >= 0.98
    np.testing.assert_allclose(similarity, np.einsum("qkd,qd->qk", d[index], q), atol=1e-6)
    np.testing.assert_array_equal(index, neighbors(q, d, 10, method=method)[1])


def test_a_narrow_inverted_file_says_what_it_did_not_find():
    d = vectors(400)
    similarity, index = neighbors(d[:50], d, 100, method="ivf", nprobe=1)
    assert (index == -1).any()
    np.testing.assert_array_equal(index == -1, np.isneginf(similarity))
    assert recall(index, neighbors(d[:50], d, 100)[1]) < 1


def test_a_tpu_s_own_top_k_gives_the_same_form(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    q, d = vectors(20, 64, seed=1), vectors(1501, 64)
    _, index = neighbors(q, d, 10, method="approximate", mesh=make_mesh(8))
    assert recall(index, brute(q, d, 10)[1]) > 0.95


def test_recall_is_the_share_found():
    assert recall(np.array([[3, 1], [5, -1]]), np.array([[1, 2], [5, 6]])) == 0.5


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((vectors(2), vectors(9), 10), {}, "10 neighbours, a query's own row included, cannot come from 9 rows"),
        ((vectors(9), vectors(9), 9), {"exclude": np.arange(9)}, "10 neighbours"),
        ((vectors(9), vectors(9), 0), {}, "0 neighbours"),
        ((vectors(9), vectors(9), 2), {"exclude": np.arange(3)}, r"exclude has the shape \(3,\)"),
        ((vectors(9, 5), vectors(9), 2), {}, r"queries \(9, 5\) and database \(9, 24\) are not"),
        ((vectors(9), vectors(9), 2), {"method": "hnsw"}, "'hnsw' is none of exact, approximate, ivf"),
    ],
)
def test_what_cannot_be_searched_is_one_line(arguments, options, expected):
    with pytest.raises(SearchError, match=expected):
        neighbors(*arguments, **options)


def test_the_benchmark_prints_each_method_beside_faiss(capsys, tmp_path):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    small = ["--rows=500", "--queries=40", "--dimensions=16", "--repeats=1", f"--corpus={tmp_path / 'none'}"]
    benchmark.run(parser.parse_args(small))
    printed = capsys.readouterr().out
    assert "faiss flat and exact agree on 100.0000%" in printed
    assert [line.split()[0] for line in printed.splitlines()[2:6]] == ["faiss", *search.METHODS]
    assert "exact is" in printed
    assert "recall on a corpus not measured" in printed
