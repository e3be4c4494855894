"""Several runs side by side, on the same cases: the paper's Tables 2, 3 and 4 at this scale.

    python -m imagen_jax.evaluation.compare runs/RUN runs/OTHER --output=comparison.md

A run is a workdir that was trained to its end: then held-out losses are compared. Where --mode=eval has filled all of
them, their pictures' scores are too. Differences are against the first run, case by case, each with a 95 % bootstrap
interval in which subjects are weighed anew: many examples may show one, and err together.
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
from imagen_jax.evaluation.intervals import Stratum, interval
from imagen_jax.evaluation.report import OVERALL, Table, markdown_table, told, trained
from imagen_jax.workdir import write_text

SAME = ("corpus", "image_size", "max_references", "seed")  # what makes case i of a suite the same case
LOSS = "loss"
DOMAINS = {"in-domain mean": IN_DOMAIN, "zero-shot mean": ZERO_SHOT}


class CompareError(ValueError):
    """Runs that cannot be compared; one line with the mend."""


class Measured(NamedTuple):
    """What a training or an evaluation left.

    Scores are suite -> case -> measure -> score, those of the model's arm; a held-out loss is one of a task's measures.
    """

    name: str
    report: Mapping
    scores: Mapping[str, Mapping[int, Mapping[str, float]]]
    losses: Mapping[str, Mapping[int, Mapping[str, float]]]
    subjects: Mapping[str, Mapping[str, Mapping[int, str]]]  # of 'scores' and 'losses', what each case or example shows


def read(workdirs: Sequence[Path]) -> list[Measured]:
    """The runs; as evaluated where all were, else as training left them. Raises CompareError where one was neither."""
    evaluated = all((workdir / "eval" / "report.json").exists() for workdir in workdirs)
    return [_read(workdir.name, workdir / "eval" if evaluated else workdir, evaluated) for workdir in workdirs]


def _read(name: str, folder: Path, evaluated: bool) -> Measured:
    try:
        report = json.loads((folder / "report.json").read_text())
        lines = (folder / "scores.jsonl").read_text().splitlines() if evaluated else []
    except FileNotFoundError as error:
        raise CompareError(f"{error.filename}: missing; train the run to its end, and evaluate all or none") from None
    if missing := [key for key in SAME if key not in report]:
        raise CompareError(
            f"{folder}/report.json: it tells no {missing[0]}: delete it and run its training again, which only reports"
        )
    scores, subjects = {}, {}
    for line in map(json.loads, lines):
        if line["arm"] == MODEL:
            scores.setdefault(line["suite"], {})[line["case"]] = line["scores"]
            if "subject" in line:  # newer than some reports
                subjects.setdefault(line["suite"], {})[line["case"]] = line["subject"]
    held_out = report.get("losses", report)  # super-resolution has neither of these
    tasks = held_out.get("tasks", {}) | held_out.get("composed", {})
    losses = {task: {i: {LOSS: x} for i, x in enumerate(found.get("examples", ()))} for task, found in tasks.items()}
    of_losses = {task: dict(enumerate(found.get("subjects", ()))) for task, found in tasks.items()}
    return Measured(name, report, scores, losses, {"scores": subjects, "losses": of_losses})


def compare(runs: Sequence[Measured]) -> str:
    """The comparison in Markdown.

    Raises:
      CompareError: the runs were measured on other cases, or share no suite and no task.
    """
    _check_same_cases(runs)
    suites = [suite for suite in (*IN_DOMAIN, *ZERO_SHOT) if all(suite in run.scores for run in runs)]
    tasks = [task for task in runs[0].losses if _has(runs[0], task) and any(_has(run, task) for run in runs[1:])]
    if not (tasks or suites):
        there = "; ".join(f"{run.name} has {_has_what(run)}" for run in runs)
        raise CompareError(f"the runs share no suite and no task with references: {there}")
    lines = [f"# {' against '.join(run.name for run in runs)}", ""]
    lines += [f"* {_told(run)}" for run in runs]
    if left := sorted({suite for run in runs for suite in run.scores} - set(suites)):
        lines += ["", f"Not in every run: {', '.join(left)}."]
    tables = _losses_table(runs, tasks), _overall_table(runs, suites), _measures_table(runs, suites)
    written = (line for table in tables if table.rows for line in markdown_table(table))
    return "\n".join([*lines, *written]) + "\n"


def _has(run: Measured, task: str) -> bool:
    return bool(run.losses.get(task))


def _has_what(run: Measured) -> str:
    return ", ".join(dict.fromkeys([*run.scores, *run.losses])) or "none"


def _told(run: Measured) -> str:
    command = run.report.get("command")
    return f"{run.name}: {trained(run.report)}" + (f", `{command}`" if command else "")


def _check_same_cases(runs: Sequence[Measured]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in SAME:
            if run.report[key] != first.report[key]:
                raise CompareError(
                    f"{run.name} was measured with {key} {run.report[key]} and {first.name} with "
                    f"{first.report[key]}, so their cases may differ: measure both alike, a corpus by one path"
                )


def _losses_table(runs: Sequence[Measured], tasks: Sequence[str]) -> Table:
    trained, composed = ([task for task in tasks if (task in ZERO_SHOT) == zero_shot] for zero_shot in (False, True))
    groups = {task: [task] for task in trained} | ({"all of these": trained} if len(trained) > 1 else {})
    groups |= {task: [task] for task in composed} | ({"all combinations": composed} if len(composed) > 1 else {})
    rows = [(name, *_loss_cells(runs, members)) for name, members in groups.items()]
    note = "Log-SNR < 0, true references; lower is better. Against the first run, differences on the same noise."
    return Table("Held-out loss", note, ("task", *_columns(runs)), rows)


def _loss_cells(runs: Sequence[Measured], tasks: Sequence[str]) -> list[str]:
    """As `_cells`, empty for a run that lacks one of the tasks: a single-task model has one only."""
    having = [run for run in runs if all(_has(run, task) for task in tasks)]
    told = iter(_cells(having, tasks, LOSS, "losses"))
    return [next(told) if run in having else "" for run in (*runs, *runs[1:])]


def _overall_table(runs: Sequence[Measured], suites: Sequence[str]) -> Table:
    groups = {suite: [suite] for suite in suites}
    groups |= {name: kept for name, domain in DOMAINS.items() if (kept := [s for s in suites if s in domain])}
    rows = [(name, *_cells(runs, members, OVERALL)) for name, members in groups.items()]
    note = "Means [95 % interval] and, against the first run, differences on the same cases. A mean over suites weighs "
    return Table("Overall", f"{note}each suite alike.", ("suite", *_columns(runs)), rows)


def _measures_table(runs: Sequence[Measured], suites: Sequence[str]) -> Table:
    measures = [(suite, name) for suite in suites for name in runs[0].report["suites"][suite]["measures"]]
    rows = [(suite, told(name), *_cells(runs, [suite], name)) for suite, name in measures if name != OVERALL]
    return Table("Each measure", "", ("suite", "measure", *_columns(runs)), rows, names=2)


def _columns(runs: Sequence[Measured]) -> list[str]:
    return [*(run.name for run in runs), *(f"{run.name} - {runs[0].name}" for run in runs[1:])]


def _cells(runs: Sequence[Measured], suites: Sequence[str], measure: str, kind: str = "scores") -> list[str]:
    """The mean of each run over `suites`, then the differences; empty where no case is shared."""
    strata = [paired for suite in suites if (paired := _paired(runs, suite, measure, kind)).values.size]
    if not strata:
        return [""] * (2 * len(runs) - 1)
    means = [[Stratum(values[i], subjects) for values, subjects in strata] for i in range(len(runs))]
    gains = [[Stratum(values[i] - values[0], subjects) for values, subjects in strata] for i in range(1, len(runs))]
    form = ".4f" if measure == LOSS else ".3f"
    return [_told_interval(each, form) for each in means] + [_told_interval(each, f"+{form}") for each in gains]


def _paired(runs: Sequence[Measured], suite: str, measure: str, kind: str) -> Stratum:
    """The scores [runs, N] of the cases that every run has."""
    found = [getattr(run, kind)[suite] for run in runs]
    cases = sorted(set.intersection(*({i for i, scores in cases.items() if measure in scores} for cases in found)))
    known = next((run.subjects[kind][suite] for run in runs if run.subjects[kind].get(suite)), {})
    subjects = [known.get(i) or f"{suite} {i}" for i in cases]
    return Stratum(np.array([[cases_of_run[i][measure] for i in cases] for cases_of_run in found]), subjects)


def _told_interval(strata: Sequence[Stratum], form: str) -> str:
    mean, low, high = (f"{value:{form}}" for value in interval(strata))
    return f"{mean} [{low}, {high}]"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m imagen_jax.evaluation.compare",
        description="Several runs side by side, on the same cases.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="workdir of a run, trained or evaluated")
    parser.add_argument("--output", type=Path, help="Markdown file to write as well")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr."""
    chosen = make_parser().parse_args(arguments)

    def work() -> None:
        if len(chosen.runs) < 2:
            raise CompareError("give at least two runs to compare")
        text = compare(read(chosen.runs))
        print(text)
        if chosen.output:
            print(f"written: {write_text(chosen.output, text)}")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
