"""What an evaluation found, as data and in tables: a score with its interval beside its ceiling and its baselines.

The ceiling is the real target under the same measure; the baselines are copying a reference, the text alone and the
references of another case. The paper gives means of people's ratings (section 4.3); here each mean has an interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.suites import ZERO_SHOT, Case
from imagen_jax.evaluation import targets
from imagen_jax.evaluation.arms import COPY, MODEL, REAL, SHUFFLED, TEXT_ONLY, Pictures
from imagen_jax.evaluation.intervals import Stratum, interval, ratio, unanimous
from imagen_jax.evaluation.measures import MEASURES
from imagen_jax.evaluation.overall import OVERALL, TEXT
from imagen_jax.guidance import OF_TWO_WEIGHTS

SHARES = (OVERALL, targets.SUBJECT, targets.STYLE)  # scores of hits and misses
BEST_AND_WORST = "_best_and_worst"  # ends the names of such grids
OF_SETS = (MODEL, SHUFFLED, TEXT_ONLY, COPY)  # arms whose pictures are compared with the real targets as sets
COLUMNS = {REAL: "real", MODEL: "model [95 %]", SHUFFLED: "shuffled", TEXT_ONLY: "text only", COPY: "copy"}


class Drawn(NamedTuple):
    """A suite with its pictures, drawn and taken, and what they score."""

    suite: str
    cases: list[Case]
    pictures: dict[str, Pictures]  # arm -> [N, S, S, 3]
    scores: dict[str, dict[str, np.ndarray]]  # arm -> measure -> [N], nan where it does not apply
    sets: dict[str, dict[str, float]]  # distance from the real targets -> arm -> its value


class Table(NamedTuple):
    """A table for people; the first `names` columns are words, the others numbers."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


def build(facts: dict, drawn: Sequence[Drawn]) -> dict:
    """The report: `facts` about the run, then for each suite and measure the mean of every arm, then the targets."""
    suites = {each.suite: _suite(each, facts["seed"]) for each in drawn}
    return facts | {"suites": suites, "targets": targets.check(suites, facts["losses"])}


def _suite(drawn: Drawn, seed: int) -> dict:
    found, shown = {}, list(map(subject_of, drawn.cases))
    for name in drawn.scores[MODEL]:
        arms = {arm: _mean(name, scores[name], shown, seed) for arm, scores in drawn.scores.items() if name in scores}
        if arms[MODEL]:
            found[name] = {arm: mean for arm, mean in arms.items() if mean}
    return {
        "zero_shot": drawn.suite in ZERO_SHOT,
        "cases": len(drawn.cases),
        "measures": found,
        "sets": drawn.sets,
    }


def subject_of(case: Case) -> str:
    """The root subjects that a case shows, or the case itself where it shows none that is known."""
    return " and ".join(case.wanted.roots) or f"{case.suite} {case.index}"


def _mean(measure: str, scores: np.ndarray, subjects: Sequence[str], seed: int) -> dict:
    """{} where the measure applies to no picture."""
    known = np.isfinite(scores)
    if not known.any():
        return {}
    of_known = [subject for subject, is_known in zip(subjects, known, strict=True) if is_known]
    mean, low, high = interval([Stratum(scores[known], of_known)], seed)
    if measure in SHARES and low == high and mean in (0.0, 1.0):
        low, high = unanimous(mean, len(set(of_known)))
    return {"mean": mean, "low": low, "high": high, "count": len(of_known)}


def score_lines(drawn: Drawn) -> Iterator[dict]:
    """A line for each picture: suite, case, subject, arm, instruction, and the scores that apply."""
    for arm, scores in drawn.scores.items():
        for i, case in enumerate(drawn.cases):
            known = {name: round(float(values[i]), 6) for name, values in scores.items() if np.isfinite(values[i])}
            whose = {"suite": drawn.suite, "case": case.index, "subject": subject_of(case), "arm": arm}
            yield whose | {"text": case.example.instruction.text, "scores": known}


def tables(report: Mapping) -> list[Table]:
    """All that the report holds, in the order of reading."""
    made = [
        targets_table(report),
        suites_table(report),
        _alone_table(report),
        _losses_table(report["losses"]),
        _sets_table(report),
        _judges_table(report["judges"]),
        _missing_table(report),
        _legend(report),
    ]
    return [table for table in made if table.rows]


def facts(report: Mapping) -> dict[str, str]:
    """What was evaluated, and how."""
    sample = report["sample"]
    return {
        "run": trained(report),
        "corpus": f"{report['corpus']}, test subjects, {report['image_size']} px",
        "cases": f"{report['count']} a suite, seed {report['seed']}" if report["count"] else "no pictures drawn",
        "sampler": f"{sample['method']}, {sample['steps']} steps, guidance {_guidance(sample)}, "
        f"threshold {sample['threshold']}",
        "command": report["command"],
    }


def trained(report: Mapping) -> str:
    """The run and how long it was trained."""
    return f"{report['run']}, step {report['step']}" if report["step"] else report["run"]


def _guidance(sample: Mapping) -> str:
    """Its name and the weights that it reads."""
    name = sample["guidance"]
    weights = [] if name == "none" else [sample["guidance_weight"]]
    if name in OF_TWO_WEIGHTS:
        weights.append(sample["context_guidance_weight"])
    return " ".join([name, *(f"{weight:g}" for weight in weights)])


def targets_table(report: Mapping) -> Table:
    """The targets and whether they are met."""
    rows = [(t["name"], t["text"], _shown(t["value"]), _shown(t["threshold"]), t["status"]) for t in report["targets"]]
    return Table("Targets", "", ("target", "measured as", "value", "needed", "result"), rows, names=2)


def suites_table(report: Mapping) -> Table:
    """A row a suite and measure."""
    rows = [
        (*_heading(suite, found, first=i == 0), told(measure), *(_cell(arms.get(arm), arm == MODEL) for arm in COLUMNS))
        for suite, found in report["suites"].items()
        for i, (measure, arms) in enumerate(found["measures"].items())
    ]
    note = (
        "Means over the cases; in brackets the 95 % interval over their subjects. ↑ higher is better, ↓ lower. "
        "Where pictures are compared with the target itself, as by PSNR, that is all that 'real' is."
    )
    return Table("Suites", note, ("suite", "cases", "measure", *COLUMNS.values()), rows, names=3)


def _heading(suite: str, found: Mapping, first: bool) -> tuple[str, str]:
    """The suite and its cases, beside its first measure only."""
    return (f"{suite}{', zero-shot' * found['zero_shot']}", str(found["cases"])) if first else ("", "")


def told(measure: str) -> str:
    """A measure's name, its unit and its better direction."""
    if measure == OVERALL:
        return f"{measure} ↑"
    known = MEASURES[measure]
    return f"{measure}{f' ({known.unit})' if known.unit else ''} {'↑' if known.higher_is_better else '↓'}"


def arm_name(arm: str) -> str:
    """An arm for people: 'text only', 'only [ref#1]'."""
    return f"only [ref#{arm.removeprefix('only_')}]" if arm.startswith("only_") else arm.replace("_", " ")


def _alone_table(report: Mapping) -> Table:
    """Joined conditions against each of them alone."""
    slots = sorted({arm for _, arms in _measured(report) for arm in arms if arm.startswith("only_")})
    rows = [
        (suite, told(measure), *(_cell(arms.get(arm)) for arm in (MODEL, *slots)))
        for (suite, measure), arms in _measured(report)
        if any(arm in arms for arm in slots)
    ]
    head = ("suite", "measure", "all references", *map(arm_name, slots))
    return Table("Joined conditions", "The same cases with one reference kept.", head, rows, names=2)


def _measured(report: Mapping) -> Iterator[tuple[tuple[str, str], dict]]:
    for suite, found in report["suites"].items():
        for measure, arms in found["measures"].items():
            yield (suite, measure), arms


def _losses_table(losses: Mapping) -> Table:
    composed = {f"{suite}, zero-shot": row for suite, row in losses.get("composed", {}).items()}
    rows = [
        (task, f"{row['loss_true']:.4f}", f"{row['loss_shuffled']:.4f}", _raised(task, row))
        for task, row in (losses["tasks"] | composed).items()
    ]
    rows += [(task, f"{loss:.4f}", "", "") for task, loss in losses.get("text_only", {}).items()]
    note = "Held-out loss over log-SNR < 0, with the true references and with those of another example."
    return Table("Shuffled references raise the loss", note, ("task", "true", "shuffled", "raised by [95 %]"), rows)


def _raised(task: str, row: Mapping) -> str:
    whose = [subject or f"{task} {i}" for i, subject in enumerate(row["subjects"])]
    _, *bounds = ratio(np.array(row["shuffled"]), np.array(row["examples"]), whose)
    low, high = (f"{bound - 1:+.1%}" for bound in bounds)
    return f"{targets.raised(row):+.1%} [{low}, {high}]"


def _sets_table(report: Mapping) -> Table:
    rows = [
        (suite, measure, *(_shown(arms.get(arm)) for arm in OF_SETS))
        for suite, found in report["suites"].items()
        for measure, arms in found["sets"].items()
    ]
    note = "Distances of pictures from the real targets as sets: 0 is best. So few pictures overstate a Frechet one."
    return Table("Sets", note, ("suite", "measure", *map(arm_name, OF_SETS)), rows, names=2)


def _judges_table(judges: Mapping) -> Table:
    rows = [(name, _shown(value)) for name, value in judges["accuracies"].items()]
    return Table("The judges themselves", " ".join(f"{line}." for line in judges["told"]), ("judge", "score"), rows)


def _missing_table(report: Mapping) -> Table:
    second = f"suites are drawn by the base model, {report['image_size']} px: the second one was not measured here"
    rows = [*report["missing"].items(), *report["left_out"].items(), ("super-resolution", second)]
    return Table("Not evaluated", "Suites and measures that are not to be had here.", ("name", "why"), rows, names=2)


def _legend(report: Mapping) -> Table:
    used = {measure for found in report["suites"].values() for measure in found["measures"]}
    if not used:
        return Table("Measures", "", (), [])
    rows = [(told(name), MEASURES[name].text) for name in MEASURES if name in used]
    return Table("Measures", "", ("measure", "what it says"), [(told(OVERALL), TEXT), *rows], names=2)


def _cell(mean: Mapping | None, interval: bool = False) -> str:
    if not mean:
        return ""
    return _shown(mean["mean"]) + (f" [{_shown(mean['low'])}, {_shown(mean['high'])}]" if interval else "")


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def markdown(report: Mapping, curves: str = "") -> str:
    """The whole report; its pictures are the grids that evaluation.page saves beside it, and `curves`, a file there."""
    lines = [f"# {title(report)}", "", *(f"* {name}: {_code(name, value)}" for name, value in facts(report).items())]
    lines += [line for table in tables(report) for line in markdown_table(table)]
    if curves:
        lines += ["", "## Training", "", f"![curves of the losses]({curves})"]
    if report["suites"]:
        told = "Of each suite its first cases, not selected, then its three best and three worst."
        lines += ["", "## Pictures", "", told]
    for suite in report["suites"]:
        lines += [line for kind in ("", BEST_AND_WORST) for line in ("", f"![{suite}](grids/{suite}{kind}.webp)")]
    return "\n".join(lines) + "\n"


def title(report: Mapping) -> str:
    """A heading."""
    return f"Does {report['run']} follow its instructions?"


def _code(name: str, value: str) -> str:
    return f"`{value}`" if name == "command" else value


def markdown_table(table: Table) -> list[str]:
    """A heading, the note and the table, as lines."""
    rule = ["---" if i < table.names else "---:" for i in range(len(table.head))]
    rows = [table.head, rule, *([cell.replace("|", "\\|") for cell in row] for row in table.rows)]
    note = ["", table.note] if table.note else []
    return ["", f"## {table.title}", *note, "", *(f"| {' | '.join(row)} |" for row in rows)]


def summary(report: Mapping) -> str:
    """A few lines for the terminal: the targets."""
    rows = targets_table(report).rows
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{width}}  {value or '-':>8} of {needed or '-':>6}  {status}"
                     for name, _, value, needed, status in rows)  # fmt: skip
