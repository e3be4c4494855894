"""From a draft to a worded example: one rule for corpora in memory, prepared data sets and the clusters of stage 1.

A draft says what is shown; its task's phrasings (data_pipelines/templates) say it as an instruction (paper section 3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines import templates
from data_pipelines.instruction import Instruction, Reference, context_text


class WordingError(ValueError):
    """A draft that no phrasing of its task makes short enough."""


@dataclass(frozen=True)
class Draft:
    """An example before its wording: the references are (short text, picture), in the order of their markers.

    Pictures are [h, w, 3] uint8.
    """

    target: np.ndarray
    caption: str = ""
    change: str = ""
    references: Sequence[tuple[str, np.ndarray]] = ()


@dataclass(frozen=True)
class Example:
    """What a model learns from: draw `target` [h, w, 3] uint8 when told `instruction`."""

    instruction: Instruction
    target: np.ndarray
    task: str


def word(task: str, draft: Draft, first: int, fits: Callable[[str], bool]) -> Example:
    """The draft in phrasing `first` of the task, or in the next one whose text `fits`.

    Where none does, references beyond those that the task needs are left out, from the last. Raises WordingError where
    that does not help either.
    """
    references = tuple(
        Reference(f"[ref#{k}]", text, picture) for k, (text, picture) in enumerate(draft.references, start=1)
    )
    for count in range(len(references), templates.least_references(task) - 1, -1):
        text = _render(task, draft, references[:count], first, fits)
        if text is not None:
            return Example(Instruction(text, references[:count]), draft.target, task)
    raise WordingError(f"no phrasing of {task} is short enough for '{draft.caption or draft.change}'")


def bare(task: str, draft: Draft) -> Example:
    """The draft without an instruction: caption or change, and the markers; no word says what a reference is for.

    The multi-task baseline of the paper's Table 4, and no way to train a model that is to be instructed.
    """
    pictures = (image for _, image in draft.references)
    references = tuple(Reference(f"[ref#{k}]", "image", image) for k, image in enumerate(pictures, start=1))
    text = " ".join([draft.caption or draft.change, *(reference.marker for reference in references)]).strip()
    return Example(Instruction(text, references), draft.target, task)


def _render(task: str, draft: Draft, references: Sequence[Reference], first: int, fits) -> str | None:
    phrases = [context_text(reference) for reference in references]
    phrasings = templates.count(task)
    for i in range(phrasings):
        text = templates.render(
            task, (first + i) % phrasings, caption=draft.caption, change=draft.change, references=phrases
        )
        if fits(text):
            return text
    return None
