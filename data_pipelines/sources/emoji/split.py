"""Root subjects and their split: what must never be seen in training is decided here, once, by subject.

Everything that is one drawing in variants (skin tone, gender, hair, direction, clock hour, moon phase, heart colour,
"dog" and "dog face") shares a root, and a root lies in one split. The paper (section 5) evaluates on unseen subjects.
"""

import re
from collections.abc import Mapping

from data_pipelines.sources.emoji.names import COLOURED_SHAPES, Subject, is_used
from data_pipelines.sources.whole import split_evenly, stable_hash

PERSON, CLOCK, MOON, HEART, CIRCLE, SQUARE, BOOK = "1f9d1", "1f550", "1f311", "2764", "1f534", "1f7e5", "1f4d5"
# A whole kind of edit (hour, phase, hair, heart colour) hangs on each of these: always 'train', so it can be learned.
ALWAYS_TRAIN = frozenset({PERSON, CLOCK, MOON, HEART, CIRCLE})

# Unicode gives these genders code points of their own; the person's own code point is their root.
GENDERED = {
    **dict.fromkeys(("1f468", "1f469", "1f471", "1f9d4"), PERSON),  # man, woman, blond hair, beard
    **dict.fromkeys(("1f466", "1f467"), "1f9d2"),  # boy, girl: child
    **dict.fromkeys(("1f474", "1f475"), "1f9d3"),  # old man, old woman: older person
    **dict.fromkeys(("1f934", "1f478"), "1fac5"),  # prince, princess: person with crown
    **dict.fromkeys(("1f385", "1f936"), "1f9d1-200d-1f384"),  # Santa Claus, Mrs. Claus: Mx Claus
    **dict.fromkeys(("1f930", "1fac3"), "1fac4"),  # pregnant woman, man: person
    "1f931": "1f9d1-200d-1f37c",  # breast-feeding: person feeding baby
    "1f57a": "1f483",  # man dancing, woman dancing
}
# Two people (or hands) joined: the tone-mixed sequences join the plain emoji.
_PAIRS = {"1f430": "1f46f", "1faef": "1f93c", "1faf2": "1f91d"}  # bunny ears, wrestlers, handshake
_HOURS = {f"{code:x}" for code in range(0x1F550, 0x1F568)}
_PHASES = {f"{code:x}" for code in (*range(0x1F311, 0x1F31E), 0x1F319)}
_BOOKS = {f"{code:x}" for code in range(0x1F4D5, 0x1F4DA)}  # red, open, green, blue, orange
_TURNED = {  # the same drawing pointing elsewhere
    **dict.fromkeys(("1f446", "1f447", "1f449"), "1f448"),  # backhand index
    **dict.fromkeys(("1faf1", "1faf2"), "1faf1"),  # hand
    **dict.fromkeys(("1faf7", "1faf8"), "1faf7"),  # pushing hand
    **dict.fromkeys(("1f91b", "1f91c"), "1f91b"),  # fist
    **dict.fromkeys(("1f44d", "1f44e"), "1f44d"),  # thumb
    **dict.fromkeys(("1f50d", "1f50e"), "1f50d"),  # magnifying glass
}
_MERGED = _TURNED | dict.fromkeys(_HOURS, CLOCK) | dict.fromkeys(_PHASES, MOON) | dict.fromkeys(_BOOKS, BOOK)
_TONE = re.compile(r"-1f3f[b-f]")
_GENDER_OR_DIRECTION = re.compile(r"-200d-(2640|2642|27a1)(?=-|$)")
_HAIR = re.compile(r"-200d-1f9b[0-3]")


def neutral_of(hexcode: str) -> str:
    """The hexcode without skin tone, gender sign, direction and hair: '1f3c3-1f3fb-200d-2640' -> '1f3c3'."""
    return _HAIR.sub("", _GENDER_OR_DIRECTION.sub("", _TONE.sub("", hexcode)))


def has_tone(hexcode: str) -> bool:
    """Whether a skin tone other than the default yellow is drawn."""
    return _TONE.search(hexcode) is not None


def root_of(subject: Subject, subjects: Mapping[str, Subject]) -> str:
    """The hexcode of the subject's root. A role keeps its own root (cook, farmer); another ZWJ sequence joins its
    first member (black cat -> cat)."""
    hexcode = neutral_of(subject.hexcode)
    first, *rest = hexcode.split("-200d-")
    if rest and rest[0] in _PAIRS:
        return _PAIRS[rest[0]]
    if first in ("1f468", "1f469", PERSON) and rest:
        return "-200d-".join((PERSON, *rest))
    return _merge(GENDERED.get(first, first), subjects)


def _merge(hexcode: str, subjects: Mapping[str, Subject]) -> str:
    if hexcode in _MERGED:
        return _MERGED[hexcode]
    subject = subjects.get(hexcode)
    if subject is None:
        return hexcode
    if subject.subgroup == "heart" and "heart" in subject.name:
        return HEART
    if shape := COLOURED_SHAPES.fullmatch(subject.name):
        return CIRCLE if shape[3] == "circle" else SQUARE
    if subject.name.endswith(" face"):  # also "sun with face"
        whole = subject.name.removesuffix(" face").removesuffix(" with")
        return next((code for code, other in subjects.items() if other.name == whole), hexcode)
    return hexcode


def roots(subjects: Mapping[str, Subject]) -> dict[str, str]:
    """Hexcode -> root for every used subject."""
    return {code: root_of(subject, subjects) for code, subject in subjects.items() if is_used(subject)}


def split_roots(root_by_hexcode: Mapping[str, str], subjects: Mapping[str, Subject]) -> dict[str, str]:
    """Root -> 'train' | 'validation' | 'test'.

    Roots are ordered by Unicode subgroup and inside it by hash, so that every subgroup gets its share (12 % test, 6 %
    validation) whatever its size.
    """
    hashed = set(root_by_hexcode.values()) - ALWAYS_TRAIN
    ordered = sorted(hashed, key=lambda root: (_subgroup(root, subjects), stable_hash(root)))
    return dict.fromkeys(ALWAYS_TRAIN, "train") | split_evenly(ordered)


def _subgroup(root: str, subjects: Mapping[str, Subject]) -> str:
    return subjects[root].subgroup if root in subjects else ""
