"""Which task example i belongs to: the instruction-tuning mixture of the paper's Table 1.

The mixture is a fixed pattern of PERIOD slots that repeats for ever. Every task has exactly its share of the slots,
spread evenly by the golden-ratio sequence, so any run of examples, and any batch, holds each task in proportion; and
both "the task of example i" and "how many of that task came before" are one table look-up for any i.
"""

import math
from collections.abc import Mapping

import numpy as np

PERIOD = 100_000
_GOLDEN = (math.sqrt(5) - 1) / 2


class MixtureError(ValueError):
    """The task ratios are unusable."""


class Mixture:
    """Task ratios as a repeating pattern, shifted by the seed.

    Attributes:
      slots, before: [PERIOD] the task of each slot, and how many earlier slots have the same one.
      counts: [tasks] slots of each task.

    Raises MixtureError when there is no task, a ratio is not positive, or the ratios do not sum to 1 within 1e-6.
    """

    def __init__(self, ratios: Mapping[str, float], seed: int):
        _check(ratios)
        self.tasks = tuple(ratios)
        self.slots = _slots(np.array([ratios[task] for task in self.tasks]), seed)
        self.counts = np.bincount(self.slots, minlength=len(self.tasks))
        self.before = np.empty(PERIOD, np.int64)
        for task, count in enumerate(self.counts):
            self.before[self.slots == task] = np.arange(count)

    def task(self, index):
        """Task id of example `index` (int or array)."""
        return self.slots[index % PERIOD]

    def occurrence(self, index):
        """How many examples before `index` (int or array) have the same task."""
        return index // PERIOD * self.counts[self.task(index)] + self.before[index % PERIOD]


def _check(ratios: Mapping[str, float]):
    if not ratios:
        raise MixtureError("data.mixture is empty: name at least one task, such as {'text_to_image': 1.0}")
    for task, ratio in ratios.items():
        if not ratio * PERIOD >= 1:
            raise MixtureError(f"data.mixture.{task} is {ratio}: give it {1 / PERIOD} or more, or remove the task")
    total = math.fsum(ratios.values())
    if abs(total - 1) > 1e-6:
        parts = " + ".join(f"{ratio} {task}" for task, ratio in ratios.items())
        raise MixtureError(f"data.mixture sums to {total:.6g} and must sum to 1: {parts}")


def _slots(ratios: np.ndarray, seed: int) -> np.ndarray:
    """Slot -> task id: slots in the order of the golden sequence, dealt out by cumulative ratio."""
    offset = np.random.default_rng(seed).random()
    order = np.argsort((offset + _GOLDEN * np.arange(PERIOD)) % 1.0, kind="stable")
    ends = np.rint(np.cumsum(ratios) * PERIOD).astype(np.int64)
    slots = np.empty(PERIOD, np.int64)
    slots[order] = np.searchsorted(ends, np.arange(PERIOD), side="right")
    return slots
