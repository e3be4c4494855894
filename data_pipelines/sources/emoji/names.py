"""Who is drawn: Unicode subjects from emojibase, and the mapping of every icon set to their hexcodes.

Each set names its drawings in its own way (hexcodes, current or old CLDR names, names without hyphens); all become one
key, so that the same subject drawn by several houses is known as such. That identity is what stands in for the
paper's subject and style clusters (sections 3.2 and 4.1).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

GROUPS = frozenset(
    {
        "smileys-emotion",
        "people-body",
        "animals-nature",
        "food-drink",
        "travel-places",
        "activities",
        "objects",
    }
)
# Families are dropped (their drawings' provenance is unproved); of the symbols only the coloured shapes are pictures.
DROPPED_SUBGROUPS = frozenset({"family"})
COLOURED_SHAPES = re.compile(r"(red|orange|yellow|green|blue|purple|brown|black|white)( large)? (circle|square)")
APOSTROPHE = "\u2019"


@dataclasses.dataclass(frozen=True)
class Subject:
    """One Unicode emoji: who or what is drawn, whatever the style."""

    hexcode: str  # lower case, without fe0f
    name: str  # CLDR short name
    keywords: tuple[str, ...]
    group: str
    subgroup: str


def hexcode_of(text: str) -> str:
    """'1F3F3-FE0F-200D-1F308' or '1f3f3_200d_1f308' -> '1f3f3-200d-1f308': lower case, dashes, no fe0f."""
    return "-".join(part for part in re.split(r"[-_ ]", text.lower()) if part != "fe0f")


def slug_of(name: str) -> str:
    """'woman’s hat' -> 'womans-hat': how the icon sets spell a CLDR name."""
    plain = name.lower().replace(APOSTROPHE, "").replace("'", "").replace(".", "").replace("ñ", "n").replace("&", "and")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def read_subjects(data: Iterable[Mapping], groups: Mapping) -> dict[str, Subject]:
    """Emojibase's data.json and groups.json -> subjects by hexcode, skin tones included, in Unicode order."""
    subjects = {}
    for entry in data:
        for variant in (entry, *entry.get("skins", ())):
            if "group" not in variant:  # regional indicators belong to no group
                continue
            subject = Subject(
                hexcode=hexcode_of(variant["hexcode"]),
                name=variant["label"].replace(APOSTROPHE, "'"),
                keywords=tuple(sorted(entry.get("tags", ()))),
                group=groups["groups"][str(variant["group"])],
                subgroup=groups["subgroups"][str(variant["subgroup"])],
            )
            subjects[subject.hexcode] = subject
    return subjects


def is_used(subject: Subject) -> bool:
    """Flags, keycaps, components, families and all symbols but the coloured shapes are not part of the corpus."""
    if subject.group == "symbols":
        return COLOURED_SHAPES.fullmatch(subject.name) is not None
    family = subject.subgroup in DROPPED_SUBGROUPS or subject.name.startswith("family")
    return subject.group in GROUPS and not family


def icons_by_hexcode(chars: Mapping[str, str]) -> dict[str, str]:
    """A set's chars.json (hexcode -> icon name), its keys made canonical."""
    return {hexcode_of(code): name for code, name in chars.items()}


def slug_table(subjects: Mapping[str, Subject], sets: Iterable[tuple[Mapping, Mapping]]) -> dict[str, str]:
    """Slug -> hexcode from today's CLDR names, then from the (chars, icons) of sets that carry hexcodes.

    Older spellings come in through those sets' aliases. The first owner of a slug keeps it.
    """
    table = {}
    for subject in subjects.values():
        table.setdefault(slug_of(subject.name), subject.hexcode)
    sets = [({name: code for code, name in icons_by_hexcode(chars).items()}, icons) for chars, icons in sets]
    for owners, _ in sets:
        for name, hexcode in owners.items():
            table.setdefault(name, hexcode)
    for owners, icons in sets:
        for alias, target in icons.get("aliases", {}).items():
            if target["parent"] in owners and not _is_turned(target):
                table.setdefault(alias, owners[target["parent"]])
    return table


def match_slugs(icons: Mapping, table: Mapping[str, str]) -> dict[str, str]:
    """Hexcode -> icon name for a set named by (old) CLDR slugs, using the set's own aliases as further spellings."""
    spellings = {name: [name] for name in icons["icons"]}
    for alias, target in icons.get("aliases", {}).items():
        if target["parent"] in spellings and not _is_turned(target):
            spellings[target["parent"]].append(alias)
    found = {}
    for name, candidates in spellings.items():
        hexcode = next((table[slug] for slug in candidates if slug in table), None)
        if hexcode is not None:
            found.setdefault(hexcode, name)
    return found


def match_joined(icons: Mapping, table: Mapping[str, str]) -> dict[str, str]:
    """As match_slugs, for a set (fxemoji) that writes its slugs without hyphens."""
    joined = {}
    for slug, hexcode in table.items():
        joined.setdefault(slug.replace("-", ""), hexcode)
    return match_slugs(icons, joined)


def _is_turned(alias: Mapping) -> bool:
    """An alias that flips or rotates its parent is another drawing, not another spelling."""
    return any(key in alias for key in ("hFlip", "vFlip", "rotate"))
