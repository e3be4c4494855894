"""Which two subjects differ by one nameable change, and how the change is said: real pairs for the edit task.

The paper fine-tunes on MagicBrush (section 4.3, Table 2). Here the pairs come from the Unicode code itself: the same
person as man and woman, another hair, another role, facing the other way, another colour, another expression, another
hour, an emoji and its joined variant. Each rule maps a subject to (key, value): subjects that share a key and differ in
value are one change apart.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import permutations

from data_pipelines.sources.groups import with_article

TONE = "tone"  # the one kind of edit that is capped, for it has more pairs than all others together
_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
_PEOPLE = {"1f468": "man", "1f469": "woman", "1f9d1": "person"}
_SIGNS = {"200d-2642": "man", "200d-2640": "woman"}
_HAIR = {
    "1f9b0": "give the person red hair",
    "1f9b1": "give the person curly hair",
    "1f9b2": "make the person bald",
    "1f9b3": "give the person white hair",
}
_COLOUR = re.compile(r"\b(red|orange|yellow|green|blue|light blue|purple|brown|black|white|grey|pink)\b")
_FACES = re.compile(r"face-(?!costume).*|cat-face|monkey-face")
_CLOCK = re.compile(r"1f5(5[0-9a-f]|6[0-7])")
_RIGHT = "-200d-27a1"

Value = tuple[str, str] | None  # (key, value) of a subject under a rule, or None where the rule does not apply


@dataclass(frozen=True)
class Edit:
    """`source` becomes `target` (hexcodes) by doing what `change` says."""

    kind: str
    source: str
    target: str
    change: str


@dataclass(frozen=True)
class _Rule:
    value: Callable[[str, str, str], Value]  # of (hexcode, name, subgroup)
    change: Callable[[str, str], str]  # of (source's value, target's value)


def is_toned(hexcode: str) -> bool:
    """Whether the subject is drawn with a skin tone other than the default yellow."""
    return any(code in _TONES for code in hexcode.split("-"))


def find_edits(subjects: Iterable[tuple[str, str, str]]) -> list[Edit]:
    """All edits, both ways, between subjects given as (hexcode, name, subgroup). Of toned ones only tone edits."""
    subjects = list(subjects)
    edits = []
    for kind, rule in _RULES.items():
        groups = defaultdict(list)
        for hexcode, name, subgroup in subjects:
            found = rule.value(hexcode, name, subgroup) if kind == TONE or not is_toned(hexcode) else None
            if found is not None:
                groups[found[0]].append((hexcode, found[1]))
        for group in groups.values():
            for (source, before), (target, after) in permutations(group, 2):
                if before != after:
                    edits.append(Edit(kind, source, target, rule.change(before, after)))
    return edits


def _tone(hexcode: str, name: str, subgroup: str) -> Value:
    codes = hexcode.split("-")
    tones = {code for code in codes if code in _TONES}
    if len(tones) > 1:  # two people of two tones: no short way to say it
        return None
    key = "-".join(code for code in codes if code not in _TONES)
    return key, _TONES[tones.pop()] if tones else "yellow"


def _gender(hexcode: str, name: str, subgroup: str) -> Value:
    first, _, rest = hexcode.partition("-")
    if first in _PEOPLE:
        return "person-" + rest, _PEOPLE[first]
    for sign, gender in _SIGNS.items():
        if sign in hexcode:
            return hexcode.replace("-" + sign, ""), gender
    return hexcode, "person"


def _facing(hexcode: str, name: str, subgroup: str) -> Value:
    return hexcode.replace(_RIGHT, ""), "right" if _RIGHT in hexcode else "left"


def _hair(hexcode: str, name: str, subgroup: str) -> Value:
    person, _, rest = hexcode.partition("-200d-")
    return (person, _HAIR[rest]) if person in _PEOPLE and rest in _HAIR else None


def _role(hexcode: str, name: str, subgroup: str) -> Value:
    person, _, rest = hexcode.partition("-200d-")
    role = re.sub(r"^(man|woman) ", "", name)
    if subgroup != "person-role" or person not in _PEOPLE or not rest or role.startswith("person"):
        return None
    return None if role.startswith("feeding") else (person, role)


def _recolour(hexcode: str, name: str, subgroup: str) -> Value:
    match = _COLOUR.search(name)
    if match is None or subgroup.startswith("person"):
        return None
    return name[: match.start()] + "#" + name[match.end() :], match[0]


def _expression(hexcode: str, name: str, subgroup: str) -> Value:
    return (subgroup, name) if _FACES.fullmatch(subgroup) and "200d" not in hexcode else None


def _clock(hexcode: str, name: str, subgroup: str) -> Value:
    return ("clock", name) if _CLOCK.fullmatch(hexcode) else None


def _joined(hexcode: str, name: str, subgroup: str) -> Value:
    base = hexcode.partition("-200d-")[0]
    is_person = subgroup.startswith("person") or subgroup in ("hands", "family") or base in _PEOPLE
    return None if is_person else (base, name)


_RULES = {
    TONE: _Rule(_tone, lambda before, after: f"change the skin from {before} to {after}"),
    "gender": _Rule(_gender, lambda before, after: f"replace the {before} by a {after}"),
    "facing": _Rule(_facing, lambda before, after: f"make it face {after}"),
    "hair": _Rule(_hair, lambda before, after: after),
    "role": _Rule(_role, lambda before, after: f"turn the {before} into {with_article(after)}"),
    "recolour": _Rule(_recolour, lambda before, after: f"change {before} to {after}"),
    "expression": _Rule(_expression, lambda before, after: f"change the expression to {with_article(after)}"),
    "clock": _Rule(_clock, lambda before, after: f"set the clock to {after}"),
    "joined": _Rule(_joined, lambda before, after: f"turn the {before} into {with_article(after)}"),
}
