"""Means with their 95 % intervals, in which subjects are weighed anew, not pictures.

Cases of one subject err together: held-out edits of the emoji corpus show 19, so that an interval over pictures, as if
each were of another subject, would be too narrow. The paper gives means of ratings without intervals.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 10_000


class Stratum(NamedTuple):
    """Numbers of one suite or task, and whose each is."""

    values: np.ndarray  # [N]; of several runs [runs, N]
    subjects: Sequence[str]  # [N]


def unanimous(value: float, subjects: int) -> tuple[float, float]:
    """The 95 % interval of a score in 0..1 that was 0, or 1, for every one of so many subjects.

    No weighing tells such numbers apart: it is the exact interval of a share (Clopper and Pearson, 1934).
    """
    reach = 1 - 0.025 ** (1 / subjects)
    return (0.0, reach) if value == 0 else (1 - reach, 1.0)


def interval(strata: Sequence[Stratum], seed: int = 0) -> tuple[float, float, float]:
    """The mean of the strata's means, and its 95 % interval: (mean, low, high).

    By the Bayesian bootstrap (Rubin, 1981): each draw weighs subjects anew, each with all that every stratum has of it.
    So a stratum of few subjects is never left out.
    """
    names, at = np.unique([name for stratum in strata for name in stratum.subjects], return_inverse=True)
    sums, counts = np.zeros((2, len(strata), len(names)))
    parts = np.split(at, np.cumsum([len(stratum.subjects) for stratum in strata])[:-1])
    for i, (stratum, part) in enumerate(zip(strata, parts, strict=True)):
        sums[i], counts[i] = (np.bincount(part, each, len(names)) for each in (stratum.values, None))
    weights = _weights(len(names), seed)
    low, high = np.percentile((weights @ sums.T / (weights @ counts.T)).mean(1), (2.5, 97.5))
    return float(np.mean(sums.sum(1) / counts.sum(1))), float(low), float(high)


def ratio(over: np.ndarray, under: np.ndarray, subjects: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """The mean of `over` [N] by that of `under` [N], of the same examples, with its 95 % interval."""
    names, at = np.unique(subjects, return_inverse=True)
    above, below = (np.bincount(at, each, len(names)) for each in (over, under))
    weights = _weights(len(names), seed)
    low, high = np.percentile(weights @ above / (weights @ below), (2.5, 97.5))
    return float(above.sum() / below.sum()), float(low), float(high)


def _weights(count: int, seed: int) -> np.ndarray:
    """[DRAWS, count] of the bootstrap, to be divided by their sums."""
    return np.random.default_rng(seed).exponential(size=(DRAWS, count))
