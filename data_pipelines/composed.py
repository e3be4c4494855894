"""Composed tasks: conditions that are trained on one by one, joined for the first time (paper section 4.2, Table 4).

Each is a draft from real pairs and what its picture must show. Ground truth to the pixel exists where the control is
the target's own; a subject drawn by another house is the right thing in the right style, drawn differently.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data_pipelines import conditions
from data_pipelines.pairs import Table, target_of
from data_pipelines.transforms import WHITE, composite
from data_pipelines.wanted import HELD_OUT_STYLE, Suite, Wanted, line_is_aligned, root_of
from data_pipelines.wording import Draft

if TYPE_CHECKING:
    from data_pipelines.examples import ExampleMaker

BLACK = (0, 0, 0)
Planned = tuple[Draft, Wanted]


def styled_subject(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """The subject as another house draws it + another subject in the style wanted -> the subject in that style."""
    target, looks = row
    references = [_subject(maker, looks, rng), _style(maker, target, rng)]
    return _draft(maker, target, references), Wanted((root_of(maker, row),), _style_key(maker, target))


def line_style(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """A line drawing + another house's style -> the subject as that house drew it, in outlines of its own."""
    source, target = row
    control = maker.white[source]
    draft = _draft(maker, target, [("line drawing", control), _style(maker, target, rng)])
    return draft, Wanted((root_of(maker, row),), _style_key(maker, target), "line", control)


def mask_style(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """The target's silhouette + another subject in its style -> target."""
    (target,) = row
    control = conditions.mask(maker.corpus.images[target])
    draft = _draft(maker, target, [("mask", control), _style(maker, target, rng)])
    return draft, Wanted((root_of(maker, row),), _style_key(maker, target), "mask", control, aligned=True, copy=1)


def depth_style(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """A model's depth map + a drawing -> nobody ever drew that: the model's own view is shown in the target's place.

    So only depth and style can be measured, and of the style the view is no ceiling.
    """
    source, target = row
    styles = maker.pairs.drawn_styles()
    style = styles[int(rng.random() * len(styles))]
    drawings = maker.pairs.by_style[style]
    shown = drawings[int(rng.random() * len(drawings))]
    control = composite(maker.corpus.images[source], BLACK)
    draft = _draft(maker, target, [("depth map", control), ("style image", maker.white[shown])])
    return draft, Wanted((), style, "depth", control, copy=1)


def subject_line(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """A line drawing + the subject as another house colours it -> the line drawing's own coloured picture."""
    source, target = row
    control = maker.white[source]
    draft = _draft(maker, target, [("line drawing", control), _subject(maker, maker.pairs.other_looks(target), rng)])
    aligned = line_is_aligned(maker, row)
    return draft, Wanted((root_of(maker, row),), "", "line", control, aligned=aligned, copy=1)


def multi_subject(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """Two subjects as other houses draw them -> both side by side in the style that the text names."""
    references = [_subject(maker, maker.pairs.other_looks(i), rng) for i in row]
    left, right = row
    caption = maker.in_style(f"{maker.name(left)} left of {maker.name(right)}", left)
    target = paste(maker.corpus.images[left], maker.corpus.images[right])
    roots = tuple(maker.corpus.pictures[i].root for i in row)
    return Draft(target, caption, references=references), Wanted(roots, _style_key(maker, left))


def styled_subject_line(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Planned:
    """Three conditions from three houses: a line drawing, the subject, a style -> the subject in that style."""
    source, target = row
    control = maker.white[source]
    looks = _third_looks(maker, row)
    references = [("line drawing", control), _subject(maker, looks, rng), _style(maker, target, rng)]
    wanted = Wanted((root_of(maker, row),), _style_key(maker, target), "line", control, copy=1)
    return _draft(maker, target, references), wanted


def paste(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures [S, S, 4] uint8 at half their size, side by side on white -> [S, S, 3] uint8."""
    size = len(left)
    half = size // 2
    top = (size - half) // 2
    canvas = np.full((size, size, 3), WHITE[1], np.uint8)
    for start, picture in ((0, left), (size - half, right)):
        small = Image.fromarray(picture).resize((half, half), Image.Resampling.LANCZOS)  # Pillow premultiplies RGBA
        canvas[top : top + half, start : start + half] = composite(np.asarray(small), WHITE[1])
    return canvas


def _draft(maker: ExampleMaker, target: int, references: list[tuple[str, np.ndarray]]) -> Draft:
    """The caption is the bare name: what is wanted besides, the references show."""
    return Draft(maker.white[target], maker.name(target), references=references)


def _subject(maker: ExampleMaker, looks: tuple[tuple[int, ...], ...], rng: np.random.Generator):
    """(name, picture) of the subject in one of the looks."""
    look = looks[int(rng.random() * len(looks))]
    shown = look[int(rng.random() * len(look))]
    return maker.short_name(shown), maker.white[shown]


def _style(maker: ExampleMaker, target: int, rng: np.random.Generator):
    return "style image", maker.white[maker.same_style(target, rng)]


def _style_key(maker: ExampleMaker, target: int) -> str:
    return maker.corpus.pictures[target].style


def _third_looks(maker: ExampleMaker, row: tuple) -> tuple[tuple[int, ...], ...]:
    """The subject's looks by houses that drew neither the lines nor the target."""
    looks = maker.pairs.other_looks(target_of(row))
    return tuple(look for look in looks if maker.pairs.house(look[0]) != maker.pairs.house(row[0]))


def _styled_subjects(maker: ExampleMaker) -> Table:
    styled = set(chain.from_iterable(maker.pairs.styled().rows))
    return maker.pairs.subjects().keep(lambda row: row[0] in styled)


def _depths(maker: ExampleMaker) -> Table:
    return maker.pairs.depths() if maker.pairs.drawn_styles() else Table([], [])


def _subject_lines(maker: ExampleMaker) -> Table:
    return maker.pairs.lines(maker.differ).keep(lambda row: maker.pairs.other_looks(row[1]))


def _styled_subject_lines(maker: ExampleMaker) -> Table:
    return maker.pairs.lines_elsewhere().keep(lambda row: _third_looks(maker, row))


def _side_by_side(maker: ExampleMaker) -> Table:
    """(left, right) of one style and two roots; plainly named subjects only, so that two names fit into a caption."""
    rows = []
    plain = [row[0] for row in _styled_subjects(maker).rows if ":" not in maker.name(row[0])]
    for style in maker.pairs.drawn_styles():
        drawings = [i for i in plain if maker.corpus.pictures[i].style == style]
        for position, left in enumerate(drawings):
            far = position + len(drawings) // 2  # half-way round the list, where other kinds of things are
            rest = (drawings[(far + k) % len(drawings)] for k in range(len(drawings)))
            right = next((i for i in rest if maker.corpus.pictures[i].root != maker.corpus.pictures[left].root), None)
            if right is not None:
                rows.append((left, right))
    return Table(rows, np.ones(len(rows)))


ZERO_SHOT = {
    "styled_subject": Suite("styled_subject", _styled_subjects, styled_subject),
    "line_style": Suite("line_style", lambda maker: maker.pairs.lines_elsewhere(), line_style),
    "mask_style": Suite("mask_style", lambda maker: maker.pairs.styled(), mask_style),
    "depth_style": Suite("depth_style", _depths, depth_style),
    "subject_line": Suite("subject_line", _subject_lines, subject_line),
    "multi_subject": Suite("multi_subject", _side_by_side, multi_subject),
    "styled_subject_line": Suite("styled_subject_line", _styled_subject_lines, styled_subject_line),
    "held_out_style": HELD_OUT_STYLE,
}
