"""From a draft to a worded example: one rule for corpora in memory, prepared data sets and the clusters of stage 1.

A draft says what is shown; its task's phrasings (data_pipelines/templates) say it as an instruction (paper section 3).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines import templates
from data_pipelines.instruction import Instruction, Reference, check, context_text
from data_pipelines.text import MARKER

SUBJECT = "subject"  # what a picture is called whose subject is not named


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


def renumber(instruction: Instruction, numbers: Sequence[int]) -> Instruction:
    """The same instruction under other markers: that of references[k] becomes [ref#numbers[k]] wherever it stands.

    Raises InstructionError for an instruction that is wrong already.
    """
    check(instruction)
    new = {r.marker: f"[ref#{number}]" for r, number in zip(instruction.references, numbers, strict=True)}

    def put(text: str) -> str:
        return MARKER.sub(lambda match: new[match[0]], text)

    references = tuple(Reference(put(r.marker), put(r.text), r.image) for r in instruction.references)
    return replace(instruction, text=put(instruction.text), references=references)


def tell_once(instruction: Instruction, in_text: bool) -> Instruction:
    """The same instruction, where it says twice what a picture is, saying it once: in its text, or in the reference's.

    `word` says it twice: "Redraw [ref#2] content image", and again beside the picture. Users do not.
    """
    told = [context_text(reference) for reference in instruction.references]
    if in_text:
        pairs = zip(instruction.references, told, strict=True)
        references = tuple(replace(r, text="image") if words in instruction.text else r for r, words in pairs)
        return replace(instruction, references=references)
    text = instruction.text
    for reference, words in zip(instruction.references, told, strict=True):
        text = text.replace(words, reference.marker)
    return replace(instruction, text=text)


def unname(instruction: Instruction) -> Instruction:
    """The same instruction, where it calls its references by what they show, without that: the pictures alone tell.

    "Draw [ref#1] fox: fox, flat icon" becomes "Draw [ref#1] subject: the subject, flat icon".
    """
    text = instruction.text
    for reference in instruction.references:
        text = text.replace(context_text(reference), f"{reference.marker} {SUBJECT}")
    for name in dict.fromkeys(reference.text for reference in instruction.references if reference.text):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", f"the {SUBJECT}", text)
    return replace(instruction, text=text, references=tuple(replace(r, text=SUBJECT) for r in instruction.references))


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
