"""What a picture must show to be right, for the in-domain evaluation suites (paper section 4.1: tasks trained on).

A suite turns a row of real pairs (data_pipelines/pairs.py) into a draft, as training does, and into the facts that a
measure needs. The composed suites, of tasks never trained on, stand in data_pipelines/composed.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.pairs import LINE_PAIRS, STYLES, Table, target_of
from data_pipelines.tasks import TASKS
from data_pipelines.wording import Draft

if TYPE_CHECKING:
    from data_pipelines.examples import ExampleMaker

ALIKE = 65.0  # mean squared difference, 30 dB: below, a reference is the answer; a vase looks the same from each side
ALIGNED_OVERLAP = 0.9  # alpha IoU from which two pictures of one house count as aligned to the pixel


@dataclass(frozen=True)
class Wanted:
    """What a picture must show to be right; a measure reads only what applies."""

    roots: tuple[str, ...] = ()  # root subjects that must be in the picture, from left to right
    style: str = ""  # style key that the instruction asks for, by words or by a picture; '' none. A side is no style
    control: str = ""  # 'line' | 'edge' | 'mask' | 'depth', the kind of `control_map`
    control_map: np.ndarray | None = None  # [S, S, 3] uint8, exactly as the reference shows it
    aligned: bool = False  # the target is ground truth to the pixel
    copy: int = 0  # which reference, from 0, the copy baseline returns: of the subject, else of the style, else the map


Plan = Callable[["ExampleMaker", tuple, np.random.Generator], tuple[Draft, Wanted]]


@dataclass(frozen=True)
class Suite:
    """The index table of a suite, and the plan of a case from one of its rows.

    `task` is the one whose phrasings it takes. `held_out_style`: of the held-out style alone, else without it.
    """

    task: str
    table: Callable[[ExampleMaker], Table]
    plan: Plan
    held_out_style: bool = False


def root_of(maker: ExampleMaker, row: tuple) -> str:
    """The root subject that a row's target shows."""
    return maker.corpus.pictures[target_of(row)].root


def line_is_aligned(maker: ExampleMaker, row: tuple) -> bool:
    """Whether the line drawing, the first of the row, was drawn over the same outlines as the target."""
    source, target = (maker.corpus.pictures[i].style for i in row[:2])
    return (source, target) in LINE_PAIRS


def _outlines_agree(maker: ExampleMaker, row: tuple) -> bool:
    """Whether one house drew both pictures, with nearly the same silhouette: the pixels say it, for each pair."""
    if maker.pairs.house(row[0]) != maker.pairs.house(row[1]):
        return False
    one, other = (maker.corpus.images[i, ..., 3].astype(np.float32) for i in row[:2])
    return bool(np.minimum(one, other).sum() >= ALIGNED_OVERLAP * np.maximum(one, other).sum())


def _is_view(maker: ExampleMaker, row: tuple) -> bool:
    return maker.is_view(target_of(row))


def _always(maker: ExampleMaker, row: tuple) -> bool:
    return True


def _never(maker: ExampleMaker, row: tuple) -> bool:
    return False


def _style(maker: ExampleMaker, draft: Draft, target: int, shown: bool) -> str:
    """The target's style if a picture shows it or the caption names it."""
    key = maker.corpus.pictures[target].style
    named = bool(draft.caption) and draft.caption == maker.in_style(maker.name(target), target) != maker.name(target)
    return key if (shown or named) and not STYLES[key].view else ""


def _known(
    task: str,
    aligned: Callable[[ExampleMaker, tuple], bool],
    *,
    table: Callable[[ExampleMaker], Table] | None = None,
    control: bool = False,
    shows_style: bool = False,
    copy: int = 0,
    held_out_style: bool = False,
) -> Suite:
    """The suite of a task that is trained on, with the task's own table where no other is given.

    `control`: the first reference is a control map, named as the task.
    """

    def plan(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> tuple[Draft, Wanted]:
        draft = TASKS[task].draft(maker, row, rng)
        return draft, Wanted(
            roots=(root_of(maker, row),),
            style=_style(maker, draft, target_of(row), shows_style),
            control=task if control else "",
            control_map=draft.references[0][1] if control else None,
            aligned=aligned(maker, row),
            copy=copy,
        )

    return Suite(task, table or TASKS[task].table, plan, held_out_style)


def _differ(maker: ExampleMaker, picture: int, other: int) -> bool:
    difference = maker.white[picture].astype(np.float32) - maker.white[other]
    return bool(np.square(difference).mean() > ALIKE)


def _subjects(maker: ExampleMaker) -> Table:
    """The task's rows without the looks that are no other look."""
    table, rows, weights = maker.pairs.subjects(), [], []
    for (target, looks), weight in zip(table.rows, table.weights, strict=True):
        others = [tuple(i for i in look if _differ(maker, i, target)) for look in looks]
        if any(others):
            rows.append((target, tuple(filter(None, others))))
            weights.append(weight)
    return Table(rows, weights)


def _transfers(maker: ExampleMaker) -> Table:
    return maker.pairs.transfers().keep(lambda row: _differ(maker, *row))


def _edits(maker: ExampleMaker) -> Table:
    return maker.pairs.edits().keep(lambda row: _differ(maker, *row[:2]))


IN_DOMAIN = {
    "text_to_image": _known("text_to_image", _never),
    "line": _known("line", line_is_aligned, control=True),
    "edge": _known("edge", _always, control=True),
    "mask": _known("mask", _always, control=True),
    "depth": _known("depth", _always, control=True),
    "subject": _known("subject", _is_view, table=_subjects),
    "style": _known("style", _never, shows_style=True),
    "style_transfer": _known("style_transfer", _outlines_agree, table=_transfers, shows_style=True, copy=1),
    "edit": _known("edit", _outlines_agree, table=_edits),
}
# The trained task, in a style that no training picture has and no text names.
HELD_OUT_STYLE = _known("style", _never, shows_style=True, held_out_style=True)
