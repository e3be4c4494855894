"""Several evaluated runs side by side, on the same cases: the paper's Tables 2, 3 and 4 at this scale.

    python -m imagen_jax.evaluation.compare runs/RUN runs/OTHER --output=comparison.md

A run is a workdir that --mode=eval has filled. Differences are against the first run, case by case, each with a 95 %
bootstrap interval in which cases are drawn again inside every suite.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import commands
from data_pipelines.suites import IN_DOMAIN, ZERO_SHOT
from imagen_jax.evaluation.arms import MODEL
from imagen_jax.evaluation.report import OVERALL, Table, markdown_table, told, trained
from imagen_jax.workdir import write_text

SAME = ("corpus", "image_size", "seed")  # what makes case i of a suite the same case
DRAWS = 10_000
DOMAINS = {"in-domain mean": IN_DOMAIN, "zero-shot mean": ZERO_SHOT}


class CompareError(ValueError):
    """Runs that cannot be compared; one line with the mend."""


class Evaluated(NamedTuple):
    """What an evaluation left."""

    name: str
    report: Mapping
    scores: Mapping[str, Mapping[int, Mapping[str, float]]]  # suite -> case -> measure -> score, of the model's arm


def read(workdir: Path) -> Evaluated:
    """An evaluated run. Raises CompareError where there is none."""
    folder = workdir / "eval"
    try:
        report = json.loads((folder / "report.json").read_text())
        lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    except FileNotFoundError as error:
        raise CompareError(f"{error.filename}: missing; evaluate the run first, with --mode=eval") from None
    scores: dict[str, dict] = {}
    for line in lines:
        if line["arm"] == MODEL:
            scores.setdefault(line["suite"], {})[line["case"]] = line["scores"]
    return Evaluated(workdir.name, report, scores)


def compare(runs: Sequence[Evaluated]) -> str:
    """The comparison in Markdown.

    Raises:
      CompareError: the runs were evaluated on other cases, or share no suite.
    """
    _check_same_cases(runs)
    shared = [suite for suite in (*IN_DOMAIN, *ZERO_SHOT) if all(suite in run.scores for run in runs)]
    if not shared:
        raise CompareError("the runs share no suite: evaluate all with the same --config.eval.suites")
    lines = [f"# {' against '.join(run.name for run in runs)}", ""]
    lines += [f"* {run.name}: {trained(run.report)}, `{run.report['command']}`" for run in runs]
    if left := sorted({suite for run in runs for suite in run.scores} - set(shared)):
        lines += ["", f"Not in every run: {', '.join(left)}."]
    tables = _overall_table(runs, shared), _measures_table(runs, shared)
    return "\n".join([*lines, *(line for table in tables for line in markdown_table(table))]) + "\n"


def _check_same_cases(runs: Sequence[Evaluated]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in SAME:
            if run.report[key] != first.report[key]:
                raise CompareError(
                    f"{run.name} was evaluated with {key} {run.report[key]} and {first.name} with "
                    f"{first.report[key]}, so their cases differ: evaluate both alike"
                )


def _overall_table(runs: Sequence[Evaluated], suites: Sequence[str]) -> Table:
    groups = {suite: [suite] for suite in suites}
    groups |= {name: kept for name, domain in DOMAINS.items() if (kept := [s for s in suites if s in domain])}
    rows = [(name, *_cells(runs, members, OVERALL)) for name, members in groups.items()]
    note = "Means [95 % interval] and, against the first run, differences on the same cases. A mean over suites weighs "
    return Table("Overall", f"{note}each suite alike.", ("suite", *_columns(runs)), rows)


def _measures_table(runs: Sequence[Evaluated], suites: Sequence[str]) -> Table:
    measures = [(suite, name) for suite in suites for name in runs[0].report["suites"][suite]["measures"]]
    rows = [(suite, told(name), *_cells(runs, [suite], name)) for suite, name in measures if name != OVERALL]
    return Table("Each measure", "", ("suite", "measure", *_columns(runs)), rows, names=2)


def _columns(runs: Sequence[Evaluated]) -> list[str]:
    return [*(run.name for run in runs), *(f"{run.name} - {runs[0].name}" for run in runs[1:])]


def _cells(runs: Sequence[Evaluated], suites: Sequence[str], measure: str) -> list[str]:
    """The mean of each run over `suites`, then the differences; empty where no case is shared."""
    strata = [values for suite in suites if (values := _shared(runs, suite, measure)).size]
    if not strata:
        return [""] * (2 * len(runs) - 1)
    means = [[values[i] for values in strata] for i in range(len(runs))]
    gains = [[values[i] - values[0] for values in strata] for i in range(1, len(runs))]
    return [_told_interval(each) for each in means] + [_told_interval(each, "+") for each in gains]


def _shared(runs: Sequence[Evaluated], suite: str, measure: str) -> np.ndarray:
    """[runs, N]: the scores of the cases that every run has."""
    cases = sorted(set.intersection(*({i for i, s in run.scores[suite].items() if measure in s} for run in runs)))
    return np.array([[run.scores[suite][i][measure] for i in cases] for run in runs])


def interval(strata: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """The mean of the strata's means, and its 95 % bootstrap interval: (mean, low, high)."""
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(1) for values in strata]
    low, high = np.percentile(np.mean(drawn, axis=0), (2.5, 97.5))
    return float(np.mean([values.mean() for values in strata])), float(low), float(high)


def _told_interval(strata: Sequence[np.ndarray], sign: str = "") -> str:
    mean, low, high = (f"{value:{sign}.3f}" for value in interval(strata))
    return f"{mean} [{low}, {high}]"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m imagen_jax.evaluation.compare",
        description="Several evaluated runs side by side, on the same cases.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="workdir of a run that --mode=eval measured")
    parser.add_argument("--output", type=Path, help="Markdown file to write as well")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr."""
    chosen = make_parser().parse_args(arguments)

    def work() -> None:
        if len(chosen.runs) < 2:
            raise CompareError("give at least two runs to compare")
        text = compare([read(workdir) for workdir in chosen.runs])
        print(text)
        if chosen.output:
            print(f"written: {write_text(chosen.output, text)}")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
