"""The mixture: exact proportions, even spread, random access."""

import numpy as np
import pytest

from data_pipelines.benchmarks.loader import TABLE_1 as PAPER
from data_pipelines.mixture import PERIOD, Mixture, MixtureError


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_a_million_draws_keep_the_ratios(seed):
    counts = np.bincount(Mixture(PAPER, seed).task(np.arange(1_000_000)), minlength=len(PAPER))
    np.testing.assert_allclose(counts / 1e6, list(PAPER.values()), rtol=0.002)


def test_every_batch_is_nearly_in_proportion():
    tasks = Mixture(PAPER, 0).task(np.arange(PERIOD)).reshape(-1, 500)
    counts = np.stack([np.bincount(batch, minlength=len(PAPER)) for batch in tasks])
    assert np.abs(counts - 500 * np.array(list(PAPER.values()))).max() <= 8


def test_occurrence_counts_the_same_task_before():
    mixture = Mixture(PAPER, 3)
    first = 7 * PERIOD - 50  # across the seam of two periods
    tasks = mixture.task(np.arange(first + 200))
    for i in range(first, first + 200, 7):
        assert mixture.occurrence(i) == np.count_nonzero(tasks[:i] == tasks[i])


def test_one_position_equals_many_and_seeds_differ():
    mixture = Mixture(PAPER, 0)
    indices = np.arange(10**9, 10**9 + 50)
    assert [mixture.task(int(i)) for i in indices] == mixture.task(indices).tolist()
    assert Mixture(PAPER, 1).task(indices).tolist() != mixture.task(indices).tolist()


@pytest.mark.parametrize(
    "ratios, words",
    [
        ({}, "empty"),
        ({"a": 0.5, "b": 0.4}, "sums to 0.9 and must sum to 1: 0.5 a + 0.4 b"),
        ({"a": 1.5, "b": -0.5}, "data.mixture.b is -0.5"),
        ({"a": 1.0, "b": 0.0}, "data.mixture.b is 0.0"),
        ({"a": float("nan")}, "data.mixture.a is nan"),
    ],
)
def test_unusable_ratios_are_one_clear_line(ratios, words):
    with pytest.raises(MixtureError, match=words.replace("+", r"\+")) as caught:
        Mixture(ratios, 0)
    assert "\n" not in str(caught.value)
