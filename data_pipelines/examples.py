"""From the pictures of a split to worded examples: what all tasks share (paper section 3: one form for every task).

A task (data_pipelines/tasks.py) drafts a target, references and words; `ExampleMaker.make` puts the words into one of
the task's phrasings. Random numbers decide everything about an example, and nothing depends on those made before.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from data_pipelines import conditions, templates
from data_pipelines.corpus import Corpus
from data_pipelines.pairs import HELD_OUT_STYLE, STYLES, Pairs, Table, target_of
from data_pipelines.retrieval.neighbors import Neighbors
from data_pipelines.tasks import TASKS
from data_pipelines.transforms import (
    BACKGROUNDS,
    WHITE,
    Geometry,
    composite,
    may_flip,
    sample_background,
    sample_geometry,
    transform,
)
from data_pipelines.wording import Draft, Example, WordingError, bare, word

STYLE_NAMED = 0.75  # share of free captions that name the style
CONTENT_NAMED = 0.5  # share of content pictures that are called by their subject's name
BLACK = (0, 0, 0)


class TaskError(ValueError):
    """A task that does not exist or has nothing to work on."""


class Scene:
    """The geometry and background that all aligned pictures of one example share."""

    def __init__(self, maker: "ExampleMaker", geometry: Geometry, background: tuple[str, tuple[int, int, int]]):
        self._maker, self._geometry = maker, geometry
        self._name, self._colour = background

    def picture(self, picture: int) -> np.ndarray:
        """[S, S, 3] uint8."""
        if self._colour == WHITE[1]:
            flat = self._maker.white[picture]
        else:
            flat = composite(self._maker.corpus.images[picture], self._colour)
        return transform(flat, self._geometry, self._colour)

    def mask(self, picture: int) -> np.ndarray:
        """[S, S, 3] uint8: the alpha of the picture, moved as the picture is."""
        return transform(conditions.mask(self._maker.corpus.images[picture]), self._geometry, BLACK)

    def depth(self, picture: int) -> np.ndarray:
        """[S, S, 3] uint8: a depth map, moved as the picture is; where there is nothing it is black."""
        return transform(composite(self._maker.corpus.images[picture], BLACK), self._geometry, BLACK)

    def describe(self, caption: str) -> str:
        """The caption, with the background's colour where no aligned reference shows it."""
        return caption if self._name == WHITE[0] else f"{caption}, on a {self._name} background"


class ExampleMaker:
    """Makes examples of the named tasks from the pictures of one split.

    `fits` says whether a text is short enough for the model; `where` names the corpus and split in errors;
    without `instructions` no example says what to do (wording.bare); `told_styles` is the share of style pictures whose
    own text names the style, where pictures are augmented. Raises TaskError for an unknown task, one without pairs, and
    one for which `max_references` or the text is too small.
    """

    def __init__(
        self,
        corpus: Corpus,
        tasks: Sequence[str],
        *,
        max_references: int,
        fits: Callable[[str], bool],
        augment: bool,
        where: str,
        instructions: bool = True,
        told_styles: float = 0.0,
    ):
        self.corpus, self.max_references, self._fits, self._augment = corpus, max_references, fits, augment
        self._instructions, self._told_styles = instructions, told_styles if augment else 0.0
        self.pairs = Pairs(corpus.pictures)
        self.white = np.empty((*corpus.images.shape[:3], 3), np.uint8)  # most backgrounds are white: done once
        for i, image in enumerate(corpus.images):
            self.white[i] = composite(image, WHITE[1])
        self._flippable = [may_flip(picture.name) and not self.is_view(i) for i, picture in enumerate(corpus.pictures)]
        self.tables = {task: self._table(task, where) for task in tasks}

    def make(self, task: str, rng: np.random.Generator) -> Example:
        """One example; the random numbers decide everything about it."""
        row = self.tables[task].draw(rng.random())
        return self.phrase(task, TASKS[task].draft(self, row, rng), rng)

    def subject(self, task: str, rng: np.random.Generator) -> str:
        """The root subject that the target of `make` with these random numbers shows."""
        return self.corpus.pictures[target_of(self.tables[task].draw(rng.random()))].root

    def phrase(self, task: str, draft: Draft, rng: np.random.Generator) -> Example:
        """The draft in one of the task's phrasings. Raises TaskError for a text that no phrasing makes short enough."""
        if not self._instructions:
            return bare(task, draft)
        try:
            return word(task, draft, int(rng.random() * templates.count(task)), self._fits)
        except WordingError as error:
            raise TaskError(f"{error}: raise data.text_length") from None

    @cached_property
    def neighbors(self) -> Neighbors:
        return Neighbors(self.white, self.corpus.pictures)

    def scene(self, rng: np.random.Generator, *pictures: int) -> Scene:
        """A scene for these aligned pictures; plain white and unmoved without augmentation."""
        if not self._augment:
            return Scene(self, Geometry(), WHITE)
        flippable = all(self._flippable[i] for i in pictures)
        return Scene(self, sample_geometry(rng, self.corpus.images.shape[1], flippable), sample_background(rng))

    def differ(self, picture: int, other: int) -> bool:
        """Whether the two show anything different on white."""
        return not np.array_equal(self.white[picture], self.white[other])

    def name(self, picture: int) -> str:
        return self.corpus.pictures[picture].name

    def short_name(self, picture: int) -> str:
        """The name without skin tone and the like, for the texts of references."""
        return self.name(picture).partition(":")[0]

    def content_words(self, picture: int, rng: np.random.Generator) -> str:
        """The text of a picture whose content is kept: its name for half, as in instructions that join tasks."""
        return self.short_name(picture) if rng.random() < CONTENT_NAMED else "content image"

    def is_view(self, picture: int) -> bool:
        return STYLES[self.corpus.pictures[picture].style].view

    def style_words(self, picture: int, rng: np.random.Generator) -> str:
        """The text of a picture that shows a style: for some it names the style too: both then mean one thing."""
        told = self._told_styles and rng.random() < self._told_styles
        return self.in_style("style image", picture) if told else "style image"

    def in_style(self, name: str, picture: int) -> str:
        """'red apple, flat icon': the name with the style of the picture; the held-out style goes unnamed."""
        style = self.corpus.pictures[picture].style
        return name if style == HELD_OUT_STYLE else f"{name}, {STYLES[style].phrase}"

    def caption(self, picture: int, rng: np.random.Generator) -> str:
        """The name, mostly with the style; always with it for black drawings, which nobody expects unasked."""
        named = rng.random() < STYLE_NAMED or STYLES[self.corpus.pictures[picture].style].drawing
        return self.in_style(self.name(picture), picture) if named else self.name(picture)

    def same_style(self, picture: int, rng: np.random.Generator) -> int:
        """A picture of another root subject in the style of this one; the tables hold only pictures that have one."""
        shown = self.corpus.pictures[picture]
        candidates = self.pairs.by_style[shown.style]
        while True:
            other = int(candidates[int(rng.random() * len(candidates))])
            if self.corpus.pictures[other].root != shown.root:
                return other

    def _table(self, name: str, where: str) -> Table:
        if name not in TASKS:
            raise TaskError(f"data.mixture.{name}: there is no such task; the tasks are {', '.join(TASKS)}")
        needed = templates.least_references(name)
        if needed > self.max_references:
            raise TaskError(
                f"data.mixture.{name} needs {needed} references and data.max_references is "
                f"{self.max_references}: raise that, or remove the task"
            )
        table = TASKS[name].table(self)
        if not len(table):
            raise TaskError(
                f"data.mixture.{name}: {where} has no pair for this task: remove the task, or build the full corpus "
                f"with `python -m data_pipelines.prepare {'furniture' if name == 'depth' else 'emoji'}` and name it in "
                "data.corpus"
            )
        self._check_length(name)
        return table

    def _check_length(self, name: str):
        """Make sure before training that the longest words this corpus can yield fit."""
        longest = max(range(len(self.corpus.pictures)), key=lambda i: len(self.name(i)))
        style = max((STYLES[picture.style].phrase for picture in self.corpus.pictures), key=len)
        background = max((background for background, _ in BACKGROUNDS), key=len)
        words = f"{self.name(longest)}, {style}, on a {background} background"
        wanted = templates.PLACEHOLDERS[name]
        words_of = [words if field in wanted else "" for field in ("caption", "change")]
        name_of = self.short_name(longest)
        shown = dict.fromkeys(("subject", "style_transfer", "edit"), name_of) | {"neighbors": f"{name_of}, {style}"}
        draft = Draft(None, *words_of, [(shown.get(name, "line drawing"), None)] * templates.least_references(name))
        try:
            word(name, draft, 0, self._fits)
        except WordingError:
            raise TaskError(f"data.text_length is too short for data.mixture.{name}: raise it; 64 is ample") from None
