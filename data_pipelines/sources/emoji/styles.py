"""The drawings of every style by hexcode, opened from the fetched packages.

A style is one house's rendering; styles and subjects together give the style, subject, line and style-transfer pairs
that stand in for the paper's Table 1.
"""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.packages import Package, fetch
from data_pipelines.sources.emoji import names, packages
from data_pipelines.sources.emoji.render import Drawing, icon_drawing

PACKAGES: dict[str, Package] = {
    "fluent_3d": packages.FLUENT_3D,
    "fluent_color": packages.FLUENT_COLOR,
    "fluent_flat": packages.FLUENT_FLAT,
    "fluent_hc": packages.FLUENT_HC,
    "noto": packages.NOTO,
    "noto_blob": packages.NOTO_BLOB,
    "twemoji": packages.TWEMOJI,
    "emojione": packages.EMOJIONE,
    "emojione_mono": packages.EMOJIONE_MONO,
    "openmoji": packages.OPENMOJI,
    "openmoji_line": packages.OPENMOJI,
    "fxemoji": packages.FXEMOJI,
}
HELD_OUT = frozenset({"fxemoji"})  # never trained on
REDISTRIBUTABLE = frozenset({"MIT", "Apache-2.0"})  # licences whose renders may be bundled with this project

_WITH_HEXCODES = ("twemoji", "noto", "fluent_flat", "fluent_hc")
_WITH_SLUGS = ("noto_blob", "emojione", "emojione_mono")
_OPENMOJI_FOLDERS = {"openmoji": "color/svg", "openmoji_line": "black/svg"}


def source(style: str) -> dict:
    """What manifest.json records of a style: the package's fields, and whether the style is held out."""
    return PACKAGES[style].origin() | {"held_out": style in HELD_OUT}


def open_subjects(cache: Path) -> dict[str, names.Subject]:
    """Every Unicode emoji of emojibase by hexcode. Raises FetchError."""
    data, groups = _read(fetch(packages.NAMES, cache), "en/data.json", "meta/groups.json")
    return names.read_subjects(json.loads(data), json.loads(groups))


def open_drawings(subjects: Mapping[str, names.Subject], cache: Path) -> dict[str, dict[str, Drawing]]:
    """Style -> hexcode -> drawing, of the used subjects, in Unicode order. Raises FetchError."""
    drawings = _iconify_drawings(subjects, cache)
    # Outside the subjects of fluent_flat the provenance of the 3D pictures is unproved.
    solid = _files(fetch(packages.FLUENT_3D, cache), "assets", ".webp")
    drawings["fluent_3d"] = {code: drawing for code, drawing in solid.items() if code in drawings["fluent_flat"]}
    for style, folder in _OPENMOJI_FOLDERS.items():
        drawings[style] = _files(fetch(packages.OPENMOJI, cache), folder, ".svg")
    used = [code for code, subject in subjects.items() if names.is_used(subject)]
    return {style: {code: drawings[style][code] for code in used if code in drawings[style]} for style in PACKAGES}


def _iconify_drawings(subjects: Mapping[str, names.Subject], cache: Path) -> dict[str, dict[str, Drawing]]:
    sets = {}
    for style in (*_WITH_HEXCODES, *_WITH_SLUGS, "fluent_color", "fxemoji"):
        icons, chars = _read(fetch(PACKAGES[style], cache), "icons.json", "chars.json")
        sets[style] = json.loads(icons), json.loads(chars)
    found = _match(subjects, sets)
    return {
        style: {code: icon_drawing(sets[style][0], name) for code, name in icon_names.items()}
        for style, icon_names in found.items()
    }


def _match(subjects: Mapping[str, names.Subject], sets: Mapping[str, tuple]) -> dict[str, dict[str, str]]:
    """Style -> hexcode -> icon name."""
    found = {style: names.icons_by_hexcode(sets[style][1]) for style in _WITH_HEXCODES}
    colour = sets["fluent_color"][0]
    known = colour["icons"].keys() | colour["aliases"].keys()
    found["fluent_color"] = {code: name for code, name in found["fluent_flat"].items() if name in known}
    table = names.slug_table(subjects, [(sets[style][1], sets[style][0]) for style in _WITH_HEXCODES])
    found |= {style: names.match_slugs(sets[style][0], table) for style in _WITH_SLUGS}
    found["fxemoji"] = names.match_joined(sets["fxemoji"][0], table)
    return found


def _read(archive: Path, *members: str) -> list[bytes]:
    with tarfile.open(archive) as package:
        return [package.extractfile(f"package/{member}").read() for member in members]


def _files(archive: Path, folder: str, suffix: str) -> dict[str, Drawing]:
    """A set kept as one file a hexcode. SVG is text, anything else stays encoded."""
    drawings = {}
    with tarfile.open(archive) as package:
        for member in package:
            path = Path(member.name)
            if path.parent.as_posix() == f"package/{folder}" and path.suffix == suffix:
                data = package.extractfile(member).read()
                drawings[names.hexcode_of(path.stem)] = Drawing(data.decode() if suffix == ".svg" else data)
    return drawings
