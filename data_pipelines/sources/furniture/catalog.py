"""Who is shown: the catalogue of a furniture library, with a name, family, category, author and licence for each model.

Names make the captions; a family (all chairs that are called "Chair") is the unit that the splits keep together, since
the paper (section 5) evaluates on unseen subjects. Format: Java properties, keys `name#7`, one number a model.
"""

import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CATALOG = "PluginFurnitureCatalog.properties"
LICENCES = {  # words of a library's licence line -> SPDX; the first that fits
    "Public domain": "CC0-1.0",
    "3.0 United States": "CC-BY-3.0-US",
    "Creative Commons Attribution 3.0": "CC-BY-3.0",
}
# Models whose shape is somebody's trade mark stay out; as tags these words only leave the tags.
TRADEMARKS = re.compile(
    r"\b(apple|iphone|ipad|ibook|imac|vw|ford|seat leon|smart car|peugeot|peterbilt|renault|yamaha|chevrolet|daf"
    r"|playstation|kitchenaid|velux)\b|playstation|kitchenaid|peterbilt|daftruck|ipad|ps4",
    re.IGNORECASE,
)
_NOT_TAGS = {"Blend Swap", "SCPTS", "Adjustable", "Xbox", "Console", "Nitendo", "Sony", "PS"}  # where from, not what
_RENAMED = {  # slips of spelling or translation, seen on the pictures
    "TV 16:9": "Widescreen TV",
    "Hashtray": "Ashtray",
    "Trunck": "Trunk",
    "Teck chair": "Teak chair",
    "Puff": "Pouf",
    "Flipper": "Pinball machine",
    "Flacon": "Perfume bottle",
    "Little bank": "Little garden bench",
    "Wood bank": "Wooden garden bench",
    "Bended coconut tree": "Bent coconut tree",
    "Gaz water heater": "Gas water heater",
    "Mocassin": "Moccasin",
    "Short": "Shorts",
    "Barnum": "Garden tent",
    "Class seat": "School desk seat",
    "Number lock": "Combination lock",
    "Bill 10€": "10 euro bill",
    "Bill 20€": "20 euro bill",
    "Bill 50€": "50 euro bill",
    "Frame Hôi An": "Framed picture",
    "Frame Chambord": "Framed picture",
    "Socket": "Sock",
}
_PEOPLE = {"male": "man", "female": "woman"}
_PROPER = re.compile(r"[A-Z]{2}|.*\d|(Christmas|French|Japanese|Osaka|Siamese|Winchester)\b")  # keep their capital
# Words that tell members of one family apart: sizes, counts, numbers, fittings.
_VARIANT = re.compile(
    r"\b(\S*\d\S*|small|little|large|big|double|triple|quadruple|rounded|round|square|wall|open|opened|sport"
    r"|under snow|bent|seats|panes|pane|small panes|with|type [a-g])\b"
)


class CatalogError(ValueError):
    """A library whose catalogue cannot be used; one line with the file and the model's number."""


@dataclass(frozen=True)
class Model:
    """One model of a library, before it is read."""

    subject: str  # its id in a corpus
    name: str
    family: str
    category: str  # 'living-room'
    tags: tuple[str, ...]
    author: str
    licence: str  # SPDX
    library: str  # file name of the .sh3f
    path: str  # of its OBJ in the library
    rotation: np.ndarray  # [3, 3], how the OBJ is turned to stand upright, its front to +z
    extent: tuple[float, float, float]  # metres: width, height, depth


def read_catalog(library: Path) -> list[Model]:
    """The models of a library without the trademarked ones, in the catalogue's order. Raises CatalogError."""
    try:
        with zipfile.ZipFile(library) as archive:
            text = archive.read(CATALOG).decode("latin-1")  # as Java properties are
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CatalogError(f"{library}: no readable furniture library ({error})") from error
    header, entries = _properties(text)
    licence = next((spdx for words, spdx in LICENCES.items() if words in header.get("license", "")), None)
    if licence is None:
        raise CatalogError(f"{library}: its licence '{header.get('license', '')}' is not among those allowed")
    models = []
    for number, fields in sorted(entries.items()):
        try:
            models.append(_model(fields, licence, library.name))
        except (KeyError, ValueError) as error:
            raise CatalogError(f"{library}: model {number}: {error}") from error
    return [model for model in models if not is_trademarked(model)]


def is_trademarked(model: Model) -> bool:
    """Whether a model's name, or its file's, is a maker's."""
    return bool(TRADEMARKS.search(f"{model.name} {Path(model.path).stem.replace('_', ' ').replace('-', ' ')}"))


def _properties(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """The library's own fields, and each model's by number."""
    header, entries = {}, defaultdict(dict)
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or key.startswith(("#", "!")):
            continue
        value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), value.strip())
        name, _, number = key.strip().rpartition("#")
        if name and number.isdecimal():
            entries[int(number)][name] = value
        else:
            header[key.strip()] = value
    return header, entries


def _model(fields: dict[str, str], licence: str, library: str) -> Model:
    name = clean_name(fields["name"])
    rotation = np.array([float(value) for value in fields.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()])
    tags = (tag.strip() for tag in fields["tags"].split(","))
    return Model(
        subject=_slug(fields["id"]),
        name=name,
        family=family_of(name),
        category=_slug(fields["category"]),
        tags=tuple(tag.lower() for tag in tags if tag and tag not in _NOT_TAGS and not TRADEMARKS.search(tag)),
        author=fields["creator"],
        licence=licence,
        library=library,
        path=fields["model"].lstrip("/"),
        rotation=rotation.reshape(3, 3),
        extent=tuple(float(fields[side]) / 100 for side in ("width", "height", "depth")),
    )


def clean_name(name: str) -> str:
    """A catalogue's name as it stands inside a caption: 'Sitting male' -> 'sitting man'."""
    name = _RENAMED.get(name, name).replace("°", " degrees").replace(" - ", ", ")
    words = [_PEOPLE.get(word.lower(), word) for word in name.split()]
    if not _PROPER.match(words[0]):
        words[0] = words[0][0].lower() + words[0][1:]
    return " ".join(words)


def family_of(name: str) -> str:
    """The root that models of like name share: 'sofa 2 seats' and 'sofa' -> 'furniture-sofa'."""
    plain = " ".join(_VARIANT.sub(" ", name.lower()).split())
    return "furniture-" + _slug(plain or name)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
