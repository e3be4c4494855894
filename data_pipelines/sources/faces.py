"""What CelebA and CelebA-HQ share: identities, attributes in words, and portraits of the same person as references.

Paper section 4.1 and Table 1: CelebA and CelebA-HQ grouped by identity. Both sets name a person by CelebA's number, so
one hash puts a person into the same split in both. An album holds names and numbers alone (75 MB while the tables of
CelebA's 202,599 photographs are read); the pictures stay on disk until they are written.
"""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.sources.groups import add_references_argument, choose_references, join_words
from data_pipelines.sources.item import Item, Pixels, Skip, SourceError

REFERENCE_TEXT = "reference image"

_COLOURS = {"Black_Hair": "black", "Brown_Hair": "brown", "Blond_Hair": "blond", "Gray_Hair": "gray"}
_TEXTURES = {"Wavy_Hair": "wavy", "Straight_Hair": "straight"}
_BEARDS = {"Goatee": "a goatee", "Mustache": "a mustache", "Sideburns": "sideburns", "5_o_Clock_Shadow": "stubble"}
_WORN = {
    "Eyeglasses": "glasses",
    "Wearing_Hat": "a hat",
    "Wearing_Earrings": "earrings",
    "Wearing_Necklace": "a necklace",
    "Wearing_Necktie": "a necktie",
    "Wearing_Lipstick": "lipstick",
}
USED = ("Male", "Young", "Smiling", "Bald", "Bangs", "No_Beard", *_COLOURS, *_TEXTURES, *_BEARDS, *_WORN)


@dataclass(frozen=True)
class Album:
    """Photographs by number: who is on them and what they look like; `open_picture(number)` gives the picture."""

    keys: Sequence[str]  # [n], unique
    identities: np.ndarray  # [n] int
    attributes: np.ndarray  # [n, len(USED)] bool
    open_picture: Callable[[int], Pixels]


def join(
    keys: Sequence[str],
    originals: Sequence[str],
    identities: Mapping[str, int],
    attributes: Mapping[str, np.ndarray],
    open_picture: Callable[[int], Pixels],
) -> tuple[Album, list[Skip]]:
    """The album of the pictures whose CelebA file, `originals[i]`, both tables know; the others are skips.

    Raises SourceError where they know none.
    """
    known = [i for i, name in enumerate(originals) if name in identities and name in attributes]
    if not known:
        raise SourceError(f"no picture is in the tables of identities and attributes: is {keys[0]} of this set?")
    lost = [Skip(keys[i], "no identity or attributes") for i in sorted(set(range(len(keys))).difference(known))]
    names = [originals[i] for i in known]
    return Album(
        [keys[i] for i in known],
        np.array([identities[name] for name in names]),
        np.stack([attributes[name] for name in names]),
        lambda number: open_picture(known[number]),
    ), lost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both face sets."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--input", help="the folder as downloaded and unpacked")
    where.add_argument("--data_dir", help="TFDS folder where the data set is prepared")
    add_references_argument(parser)


def make_items(album: Album, most: int, seed: int) -> Iterator[Item | Skip]:
    """Each photograph as a target, with 1 to `most` others of the same person; a person's only photograph is a Skip."""
    order = np.argsort(album.identities, kind="stable")
    sorted_identities = album.identities[order]
    for number, key in enumerate(album.keys):
        identity = album.identities[number]
        first, last = np.searchsorted(sorted_identities, (identity, identity + 1))
        others = [other for other in order[first:last] if other != number]
        if not others:
            yield Skip(key, "only photograph of its identity")
            continue
        chosen = choose_references(key, others, most, seed)
        yield Item(
            key,
            "face",
            album.open_picture(number),
            describe([name for name, true in zip(USED, album.attributes[number], strict=True) if true]),
            references=[(REFERENCE_TEXT, album.open_picture(other)) for other in chosen],
            group=f"celeba:{identity}",
        )


def describe(attributes: Collection[str]) -> str:
    """A caption of true CelebA attributes: "a smiling young woman with wavy brown hair, wearing glasses".

    What changes from picture to picture is named; features of the face, and how attractive it is, are left out: they
    belong to the references, or to nobody.
    """
    male, young = "Male" in attributes, "Young" in attributes
    who = [*(["smiling"] if "Smiling" in attributes else []), "young" if young else "older", "man" if male else "woman"]
    caption = ("an " if who[0] == "older" else "a ") + " ".join(who)
    features = _hair(attributes) + (_beard(attributes) if male else [])
    worn = [words for name, words in _WORN.items() if name in attributes]
    caption += f" with {join_words(features)}" if features else ""
    return caption + (f", wearing {join_words(worn)}" if worn else "")


def _hair(attributes: Collection[str]) -> list[str]:
    if "Bald" in attributes:
        return ["a bald head"]
    colours = [word for name, word in _COLOURS.items() if name in attributes]
    textures = [word for name, word in _TEXTURES.items() if name in attributes]
    kind = " ".join([*textures[:1], *([join_words(colours)] if colours else [])])
    return [*([f"{kind} hair"] if kind else []), *(["bangs"] if "Bangs" in attributes else [])]


def _beard(attributes: Collection[str]) -> list[str]:
    named = [words for name, words in _BEARDS.items() if name in attributes]
    return named or ([] if "No_Beard" in attributes else ["a beard"])
