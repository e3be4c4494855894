"""MagicBrush's test split: photographs edited as told, turn by turn (Zhang et al. 2023; paper Table 2, edits).

The data set is the unpacked test/ folder: edit_sessions.json, images/ID/ID-input.png, ID-output1.png ... and the
descriptions of the targets. Pictures are named as its evaluation/image_eval.py reads them: ID/ID_1.png is the first
edit; ID_inde_2.png the second one of the true result of the first; ID_iter_2.png the second one of the model's own.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources import magicbrush
from data_pipelines.sources.item import Skip, SourceError
from imagen_jax.benchmarks.generation import Request, add_generate
from imagen_jax.benchmarks.scoring import Judged, add_score

ABOUT = magicbrush.ABOUT
RULES = (
    "as evaluation/image_eval.py: single_turn is its 'all turn', every edit of the true picture before it; multi_turn "
    "its 'final turn', the last of each session with the model's own pictures in between; l1 and l2 at the target's "
    "size, values in 0..1; clip_i and dino with the target; clip_t with the target's description, clip_t_real the "
    "target's own; a picture whose target has no description has no clip_t"
)
METRICS = ("l1", "l2", "clip_i", "dino", "clip_t", "clip_t_real")


@dataclass(frozen=True)
class Turn:
    """One edit of a session."""

    session: str
    number: int  # from 1
    last: bool
    change: str
    source: Path
    target: Path


def add_actions(actions) -> None:
    """generate and score."""
    add_generate(actions, requests)
    parser = add_score(actions, judged, METRICS, RULES)
    words = "what CLIP-T compares with: the edited object's description, or the whole picture's (default: %(default)s)"
    parser.add_argument("--descriptions", choices=("local", "global"), default="local", help=words)


def requests(arguments: argparse.Namespace) -> Iterator[Request | Skip]:
    """Every edit of a true picture, and from the second turn on of the picture drawn before it. Raises SourceError."""
    for turn in read_turns(arguments.data):
        if isinstance(turn, Skip):
            yield turn
            continue
        change = magicbrush.change_of(turn.change)
        yield Request(_single(turn), "edit", change=change, references=[("content image", turn.source)])
        if turn.number > 1:
            before = arguments.output / _multi(turn, turn.number - 1)
            shown = [("content image", before)]
            yield Request(_multi(turn), "edit", change=change, references=shown, round=turn.number - 1)


def judged(arguments: argparse.Namespace) -> Iterator[Judged | Skip]:
    """Each picture that counts, with its target and the target's description."""
    descriptions = _read_json(_root(arguments.data) / f"{arguments.descriptions}_descriptions.json")
    for turn in read_turns(arguments.data):
        if isinstance(turn, Skip):
            yield turn
            continue
        described = (descriptions.get(turn.session) or {}).get(turn.target.name, "")
        rest = {"prompt": described, "real": {"": [turn.target]}, "target": turn.target}
        final = ("multi_turn",) if turn.last else ()
        if turn.number == 1:
            yield Judged(_single(turn), ("single_turn", *final), **rest)
        else:
            yield Judged(_single(turn), ("single_turn",), **rest)
            if turn.last:
                yield Judged(_multi(turn), final, **rest)


def read_turns(data: Path) -> Iterator[Turn | Skip]:
    """The edits of all sessions, in their order; a Skip for one whose picture is missing. Raises SourceError."""
    root = _root(data)
    path = root / "edit_sessions.json"
    for session, turns in _read_json(path).items():
        for number, fields in enumerate(turns, start=1):
            try:
                source, target = (root / "images" / session / fields[key] for key in ("input", "output"))
                turn = Turn(session, number, number == len(turns), str(fields["instruction"]), source, target)
            except (KeyError, TypeError) as error:
                raise SourceError(f"{path}: session {session}, turn {number}: no {error}: load it again") from error
            absent = [picture for picture in (source, target) if not picture.is_file()]
            yield Skip(str(absent[0]), "no such picture: unpack the test split again") if absent else turn


def _single(turn: Turn) -> str:
    return f"{turn.session}/{turn.session}_{'inde_' if turn.number > 1 else ''}{turn.number}.png"


def _multi(turn: Turn, number: int = 0) -> str:
    number = number or turn.number
    return f"{turn.session}/{turn.session}_{'iter_' if number > 1 else ''}{number}.png"


def _root(data: Path) -> Path:
    for root in (data, data / "test"):
        if (root / "edit_sessions.json").is_file():
            return root
    raise SourceError(f"{data}: no edit_sessions.json: give the unpacked test split of MagicBrush, from its repository")


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: unreadable ({error}): unpack the test split again") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path}: not an object of sessions: unpack the test split again")
    return found
