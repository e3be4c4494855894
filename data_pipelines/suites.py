"""Evaluation suites: fixed cases of every task on subjects never trained on (paper sections 4.1 and 4.2, Table 4).

Case i of a suite is a function of (seed, i) alone. A suite walks through its rows of real pairs in a fixed random order
in which every subject comes once before any comes again: independent draws would repeat rows and favour subjects with
many variants, and the mean of n cases is only as sure as their subjects are many.

    python -m data_pipelines.suites --corpus=data/emoji,data/furniture --size=32 [--picture=suites.png]

prints what each suite holds, and draws one case of each.
"""

import argparse
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from data_pipelines import commands, composed, templates, wanted
from data_pipelines.corpus import SPLITS, Corpus, Picture, load_corpus
from data_pipelines.examples import ExampleMaker, TaskError
from data_pipelines.images import save_png
from data_pipelines.instruction import Layout
from data_pipelines.loader import SEEDS
from data_pipelines.pairs import HELD_OUT_STYLE, STYLES, target_of
from data_pipelines.text import load_tokenizer
from data_pipelines.transforms import WHITE, composite
from data_pipelines.wanted import Suite, Wanted
from data_pipelines.wording import Example

SUITES = {**wanted.IN_DOMAIN, **composed.ZERO_SHOT}
IN_DOMAIN = tuple(wanted.IN_DOMAIN)
ZERO_SHOT = tuple(composed.ZERO_SHOT)
CASES = 1 << 32  # of a suite, the same ones again in other words after its last row
TRIALS = 16  # drafts of the longest row that must fit: a caption names its style at random
CORPORA = {"depth": "furniture", "depth_style": "emoji and furniture"}  # what a suite needs; 'emoji' where unnamed
LAYOUT = dict(size=32, max_references=3, text_length=64, reference_text_length=24)  # of the command line
FAINT, LEAST_SEEN = 32, 0.02  # levels from white that an eye hardly sees; share of pixels that must differ by more
MEASURED = 64  # cases that the command's table looks at
TILE, TEXT = 102, 330  # pixels of the command's picture: a picture with its border, and the column of words


class SuiteError(ValueError):
    """A suite or a case that does not exist; one line with the mend."""


@dataclass(frozen=True)
class Case:
    """An instruction with a real target, and what a picture drawn to it must show."""

    suite: str
    index: int
    example: Example
    wanted: Wanted


@dataclass(frozen=True)
class _Opened:
    """A suite that the corpus can give: its rows in the order of its cases."""

    suite: Suite
    maker: ExampleMaker
    rows: list[tuple]


class Suites:
    """The suites that a corpus gives.

    Attributes:
      names: of these suites, in-domain ones first.
      missing: name -> one line why, for the others.
    """

    def __init__(self, opened: dict[str, _Opened], missing: dict[str, str], seed: int):
        self.names, self.missing = tuple(opened), missing
        self._opened, self._seed = opened, seed

    def case(self, suite: str, index: int) -> Case:
        """Case `index`, from 0 on. Raises SuiteError for a suite that is not in `names`, or a negative index."""
        opened = self._find(suite)
        if not 0 <= index < CASES:
            raise SuiteError(f"case {index} of suite '{suite}' does not exist: they are numbered from 0 on")
        rng = _random(self._seed, suite, 1 + index)
        draft, facts = opened.suite.plan(opened.maker, opened.rows[index % len(opened.rows)], rng)
        return Case(suite, index, opened.maker.phrase(opened.suite.task, draft, rng), facts)

    def count(self, suite: str) -> int:
        """How many cases show different pairs; after them the pairs come again, with other words and references."""
        return len(self._find(suite).rows)

    def subjects(self, suite: str) -> int:
        """How many root subjects the suite's targets show: so many first cases are all of different ones."""
        opened = self._find(suite)
        return len({wanted.root_of(opened.maker, row) for row in opened.rows})

    def _find(self, suite: str) -> _Opened:
        if suite in self._opened:
            return self._opened[suite]
        if suite in self.missing:
            raise SuiteError(f"suite '{suite}' is not to be had: {self.missing[suite]}")
        raise SuiteError(f"there is no suite '{suite}'; the suites are {', '.join(SUITES)}")


def open_suites(data: ConfigDict, layout: Layout, seed: int, split: str = "test") -> Suites:
    """The suites of one split of the corpus `data.corpus`; pictures lie still on white, at the layout's size.

    A trained task has `data.max_references` at most, as in training; the layout has room for what joins tasks.

    No picture shows a root subject that another split has, in whatever style; the held-out style is in its own suite
    only. Raises ValueError, one line, for a corpus or tokenizer that is missing or damaged and for a bad seed.
    """
    if not 0 <= seed < SEEDS:
        raise SuiteError(f"seed {seed} is outside 0 ... 2^63 - 1: choose another")
    tokenizer = load_tokenizer(data.tokenizer)
    unseen = _unseen(load_corpus(data.corpus, layout.image_size), split)

    def make_maker(keep: Callable[[Picture], bool]) -> ExampleMaker:
        return ExampleMaker(
            _part(unseen, keep),
            (),
            max_references=data.max_references,
            fits=lambda text: len(tokenizer.encode(text)) <= layout.text_length,
            augment=False,
            where=f"split '{split}' of the corpus '{data.corpus}'",
            instructions=data.get("instructions", True),
        )

    known = make_maker(lambda picture: picture.style != HELD_OUT_STYLE)
    held_out = make_maker(lambda picture: picture.style == HELD_OUT_STYLE)
    opened, missing = {}, {}
    for name, suite in SUITES.items():
        maker = held_out if suite.held_out_style else known
        rows = _rows(suite, maker, _random(seed, name, 0))
        reason = _fault(name, suite, maker, rows, layout, f"split '{split}' of the corpus '{data.corpus}'")
        if reason:
            missing[name] = reason
        else:
            opened[name] = _Opened(suite, maker, rows)
    return Suites(opened, missing, seed)


def _random(seed: int, suite: str, number: int) -> np.random.Generator:
    """A stream of its own for each case, and number 0 for the order of the rows."""
    return np.random.Generator(np.random.Philox(key=seed << 64 | zlib.crc32(suite.encode()) << 32 | number))


def _unseen(corpus: Corpus, split: str) -> Corpus:
    """The pictures of a split, but for roots that another split has; the held-out style is 'test' whatever its root.

    And but for white things, of which nothing is seen on white.
    """
    others = (each for each in corpus.pictures if each.split != split and each.style != HELD_OUT_STYLE)
    elsewhere = {picture.root for picture in others}
    part = _part(corpus, lambda picture: picture.split == split and picture.root not in elsewhere)
    seen = (composite(part.images, WHITE[1]) < 255 - FAINT).any(-1).mean((1, 2)) >= LEAST_SEEN
    kept = [i for i, picture in enumerate(part.pictures) if seen[i] or STYLES[picture.style].depth]
    return part.take(kept)


def _part(corpus: Corpus, keep: Callable[[Picture], bool]) -> Corpus:
    return corpus.take([i for i, picture in enumerate(corpus.pictures) if keep(picture)])


def _rows(suite: Suite, maker: ExampleMaker, rng: np.random.Generator) -> list[tuple]:
    table = suite.table(maker)
    order = table.order(rng.random(len(table)), target_of, lambda row: wanted.root_of(maker, row))
    return [table.rows[number] for number in order]


def _fault(name: str, suite: Suite, maker: ExampleMaker, rows: list[tuple], layout: Layout, where: str) -> str:
    """Why there can be no such suite, in one line; '' where there can."""
    needed = templates.least_references(suite.task)
    if needed > layout.max_references:
        return f"it needs {needed} references and data.max_references is {layout.max_references}: raise that"
    if not rows:
        return f"{where} has no pair for it: name the corpus of {CORPORA.get(name, 'emoji')} in data.corpus"
    if not _longest_fits(suite, maker, rows):
        return f"its longest text is over data.text_length={layout.text_length}: raise that; 64 is ample"
    return ""


def _longest_fits(suite: Suite, maker: ExampleMaker, rows: list[tuple]) -> bool:
    rng = np.random.Generator(np.random.Philox(key=0))
    longest = max(rows, key=lambda row: _length(maker, row))
    try:
        for _ in range(TRIALS):
            maker.phrase(suite.task, suite.plan(maker, longest, rng)[0], rng)
    except TaskError:
        return False
    return True


def _length(maker: ExampleMaker, row: tuple) -> int:
    """Of a row's words: the change that it names, else its pictures' names and styles."""
    parts = [part if isinstance(part, str) else maker.in_style(maker.name(part), part) for part in _words(row)]
    return sum(map(len, parts))


def _words(row: tuple) -> list:
    changes = [part for part in row if isinstance(part, str)]
    return changes or [part for part in row if isinstance(part, int)]


def report(suites: Suites) -> str:
    """A Markdown table: what each suite shows, how many cases it has, and what the first ones can be measured by."""
    head = ["suite", "references", "cases", "subjects", f"aligned of {MEASURED}", f"style of {MEASURED}", "control"]
    lines = [head, ["---"] * len(head)]
    for name in suites.names:
        cases = [suites.case(name, i) for i in range(MEASURED)]
        first, facts = cases[0], [case.wanted for case in cases]
        counts = [suites.count(name), suites.subjects(name), *(sum(map(bool, values)) for values in _columns(facts))]
        shown = ", ".join(reference.text for reference in first.example.instruction.references) or "none"
        lines.append([name, shown, *(f"{count:,}" for count in counts), first.wanted.control])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, *(f"no {name}: {reason}" for name, reason in suites.missing.items())])


def _columns(facts: list[Wanted]) -> tuple[list[bool], list[str]]:
    return [each.aligned for each in facts], [each.style for each in facts]


def draw(suites: Suites, index: int = 0) -> Image.Image:
    """Case `index` of every suite: its text, its references and, last, the target."""
    rows = [_row(suites.case(name, index)) for name in suites.names]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(case: Case) -> Image.Image:
    references = case.example.instruction.references
    tiles = [(reference.text, reference.image) for reference in references] + [("target", case.example.target)]
    font, row = ImageFont.load_default(size=12), Image.new("RGB", (TEXT + TILE * len(tiles), TILE + 20), "white")
    pen = ImageDraw.Draw(row)
    pen.text((6, 4), f"{case.suite} {case.index}", fill="navy", font=font)
    pen.multiline_text((6, 22), textwrap.fill(case.example.instruction.text, 50), fill="black", font=font)
    for column, (text, picture) in enumerate(tiles):
        side = TILE - 6
        row.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), (TEXT + TILE * column, 0))
        pen.text((TEXT + TILE * column, TILE - 4), text[:20], fill="gray", font=font)
    return row


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.suites", description="What the evaluation suites of a corpus hold."
    )
    parser.add_argument("--corpus", default="fixture", help="as data.corpus (default: %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws other cases (default: %(default)s)")
    for name, default in LAYOUT.items():
        told = "side of the pictures" if name == "size" else "of the model"
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{told} (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw one case of each suite")
    parser.add_argument("--case", type=int, default=0, help="which one to draw (default: %(default)s)")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        layout = Layout(*(getattr(chosen, name) for name in LAYOUT))
        data = ConfigDict(dict(corpus=chosen.corpus, tokenizer="", max_references=layout.max_references))
        suites = open_suites(data, layout, chosen.seed, chosen.split)
        print(report(suites))
        if chosen.picture:
            save_png(np.asarray(draw(suites, chosen.case)), chosen.picture)
            print(f"wrote {chosen.picture}")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
