"""What the small model is asked to reach on held-out subjects, each target one line of a table.

The paper states ratings of people (Tables 2 to 4), which no machine repeats; these are thresholds of this project on
measures that it can take, each against its own ceiling or baseline where there is one.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from imagen_jax.evaluation.arms import COPY, MODEL, REAL, TEXT_ONLY, alone
from imagen_jax.evaluation.overall import CONTROL, OVERALL

ROUNDING = 1e-9  # of the sums of hits and misses
SUBJECT, STYLE = "subject", "style"
Suites = Mapping[str, Mapping]  # the report's: suite -> {"measures": {measure: {arm: {"mean", ...}}}}


class Target(NamedTuple):
    """A number of a report and the least that it should be."""

    name: str
    text: str
    reach: Callable[[Suites, Mapping], tuple[float, float]]  # -> (value, threshold); KeyError: not measured


def check(suites: Suites, losses: Mapping) -> list[dict]:
    """Every target with its value, its threshold, and 'met', 'not met' or 'not measured'."""
    return [_check(target, suites, losses) for target in TARGETS]


def _check(target: Target, suites: Suites, losses: Mapping) -> dict:
    try:
        value, threshold = target.reach(suites, losses)
    except KeyError:
        value, threshold, status = None, None, "not measured"
    else:  # nothing is reached by a score of 0, whatever it is compared with
        status = "met" if value >= threshold - ROUNDING and value > ROUNDING else "not met"
    return {"name": target.name, "text": target.text, "value": value, "threshold": threshold, "status": status}


def raised(losses: Mapping) -> float:
    """By which part shuffled references raise the loss."""
    return losses["loss_shuffled"] / losses["loss_true"] - 1


def _mean(suites: Suites, suite: str, measure: str, arm: str) -> float:
    return suites[suite]["measures"][measure][arm]["mean"]


def _loss(task: str) -> Target:
    def reach(suites: Suites, losses: Mapping) -> tuple[float, float]:
        return raised(losses["tasks"][task]), 0.5

    return Target(f"{task}: reads its references", "rise of the held-out loss by shuffled references", reach)


def _control(suite: str, measure: str) -> Target:
    def reach(suites: Suites, losses: Mapping) -> tuple[float, float]:
        return _mean(suites, suite, measure, MODEL), 0.85 * _mean(suites, suite, measure, REAL)

    return Target(f"{suite}: follows the control", f"{measure}, 85 % of the real target's own", reach)


def _style(suite: str) -> Target:
    def reach(suites: Suites, losses: Mapping) -> tuple[float, float]:
        return _mean(suites, suite, STYLE, MODEL), 0.8

    return Target(f"{suite}: takes the style", f"{STYLE} of the judge", reach)


def _transfer(suites: Suites, losses: Mapping) -> tuple[float, float]:
    return _mean(suites, "style_transfer", "psnr", MODEL), _mean(suites, "style_transfer", "psnr", COPY) + 3.0


def _subject(suites: Suites, losses: Mapping) -> tuple[float, float]:
    """The text alone counts as one hit at least: three times nothing would be no threshold."""
    baseline = suites["subject"]["measures"][SUBJECT][TEXT_ONLY]
    return _mean(suites, "subject", SUBJECT, MODEL), 3 * max(baseline["mean"], 1 / baseline["count"])


def _styled_subject(suites: Suites, losses: Mapping) -> tuple[float, float]:
    """By how many more pictures that show both at once it beats the better one of its two references alone."""
    of_one = max(_mean(suites, "styled_subject", OVERALL, alone(slot)) for slot in (1, 2))
    return _mean(suites, "styled_subject", OVERALL, MODEL) - of_one, 0.0


TARGETS = (
    *(_loss(task) for task in ("line", "edge", "mask", "depth", "subject", "style", "style_transfer", "edit")),
    *(_control(suite, measure) for suite, measure in CONTROL.items()),
    *(_style(suite) for suite in ("style", "style_transfer")),
    Target("style_transfer: more than the content", "aligned PSNR (dB), 3 dB above copying the content", _transfer),
    Target("subject: recognised", f"{SUBJECT}, 3 times the text alone (one hit at least)", _subject),
    Target(
        "styled_subject: both at once",
        f"gain in {OVERALL}, {SUBJECT} and {STYLE} in one picture, over each reference alone",
        _styled_subject,
    ),
)
