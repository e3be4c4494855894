"""The tasks of instruction tuning and of stage 1: real pairs of a corpus -> target, references, words (paper Table 1).

A task is one small function: from a row of its index table (data_pipelines/pairs.py) and random numbers it makes a
Draft. `TASKS` lists them in the order that is used everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines import conditions
from data_pipelines.pairs import Table
from data_pipelines.wording import Draft

if TYPE_CHECKING:
    from data_pipelines.examples import ExampleMaker

NEIGHBORS = 3  # the paper's stage 1: three neighbours in the context


@dataclass(frozen=True)
class Task:
    """The index table of a task, and the function that drafts an example from a row."""

    table: Callable[[ExampleMaker], Table]
    draft: Callable[[ExampleMaker, tuple, np.random.Generator], Draft]


def text_to_image(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """Caption -> picture."""
    (target,) = row
    scene = maker.scene(rng, target)
    return Draft(scene.picture(target), scene.describe(maker.caption(target, rng)))


def line(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """A house's line drawing -> the same house's coloured picture."""
    source, target = row
    scene = maker.scene(rng, source, target)
    return Draft(scene.picture(target), maker.name(target), references=[("line drawing", scene.picture(source))])


def edge(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """Edges of the target -> target."""
    (target,) = row
    scene = maker.scene(rng, target)
    picture = scene.picture(target)
    caption = scene.describe(maker.caption(target, rng))
    return Draft(picture, caption, references=[("edge map", conditions.edges(picture))])


def mask(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """The target's silhouette -> target."""
    (target,) = row
    scene = maker.scene(rng, target)
    caption = scene.describe(maker.caption(target, rng))
    return Draft(scene.picture(target), caption, references=[("mask", scene.mask(target))])


def depth(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """How far away the target is at each place -> target."""
    source, target = row
    scene = maker.scene(rng, target)
    caption = scene.describe(maker.caption(target, rng))
    return Draft(scene.picture(target), caption, references=[("depth map", scene.depth(source))])


def subject(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """The subject as others draw it -> in the style that most texts name; other sides of a model -> the one named."""
    target, looks = row
    count = 1 + int(rng.random() * min(maker.max_references, len(looks)))
    chosen = [looks[look] for look in rng.permutation(len(looks))[:count]]
    sources = [designs[int(rng.random() * len(designs))] for designs in chosen]
    scene = maker.scene(rng, target)
    references = [(maker.short_name(i), maker.scene(rng, i).picture(i)) for i in sources]
    caption = maker.in_style(maker.name(target), target) if maker.is_view(target) else maker.caption(target, rng)
    return Draft(scene.picture(target), scene.describe(caption), references=references)


def style(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """Another subject in the target's style + the target's name -> target; no word names the style."""
    (target,) = row
    shown = maker.same_style(target, rng)
    scene = maker.scene(rng, target)
    picture, words = maker.scene(rng, shown).picture(shown), maker.style_words(shown, rng)
    return Draft(scene.picture(target), scene.describe(maker.name(target)), references=[(words, picture)])


def style_transfer(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """[ref#1] another subject in the style wanted, [ref#2] the subject in another style -> target."""
    content, target = row
    shown = maker.same_style(target, rng)
    scene = maker.scene(rng, content, target)
    style = (maker.style_words(shown, rng), maker.scene(rng, shown).picture(shown))
    return Draft(scene.picture(target), references=[style, (maker.content_words(content, rng), scene.picture(content))])


def edit(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """A picture + what to change -> the changed picture, drawn by the same house."""
    content, target, change = row
    scene = maker.scene(rng, content, target)
    shown = (maker.content_words(content, rng), scene.picture(content))
    return Draft(scene.picture(target), change=change, references=[shown])


def neighbors(maker: ExampleMaker, row: tuple, rng: np.random.Generator) -> Draft:
    """Stage 1: retrieved (picture, caption) pairs + the target's caption -> target."""
    (target,) = row
    found = maker.neighbors.draw(target, min(NEIGHBORS, maker.max_references), rng)
    scene = maker.scene(rng, target)
    references = [(maker.in_style(maker.short_name(i), i), maker.scene(rng, i).picture(i)) for i in found]
    return Draft(scene.picture(target), scene.describe(maker.caption(target, rng)), references=references)


def _neighbors_table(maker: ExampleMaker) -> Table:
    return maker.pairs.named(maker.neighbors.exist)


TASKS = {
    "text_to_image": Task(lambda maker: maker.pairs.named(), text_to_image),
    "line": Task(lambda maker: maker.pairs.lines(maker.differ), line),
    "edge": Task(lambda maker: maker.pairs.coloured(), edge),
    "mask": Task(lambda maker: maker.pairs.coloured(), mask),
    "depth": Task(lambda maker: maker.pairs.depths(), depth),
    "subject": Task(lambda maker: maker.pairs.subjects(), subject),
    "style": Task(lambda maker: maker.pairs.styled(), style),
    "style_transfer": Task(lambda maker: maker.pairs.transfers(), style_transfer),
    "edit": Task(lambda maker: maker.pairs.edits(), edit),
    "neighbors": Task(_neighbors_table, neighbors),
}
DRAWN = tuple(task for task in TASKS if task != "depth")  # what a corpus of drawings alone, without models, can give
