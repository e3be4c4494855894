"""CelebA (Liu et al. 2015): portraits grouped by identity, as the folder published or as TFDS celeb_a 2.1.0.

Task `face` of the paper (Table 1: CelebA, 0.1M, ratio 0.05). The published partition is left aside: splits go by the
hash of the identity, so that CelebA-HQ, which has no partition of its own, agrees. With TFDS two passes read the files:
one for identities and attributes (1.4 GB in all), then each example reads its 2 to 4 records by number.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.sources import faces
from data_pipelines.sources.celeba_tables import (
    ATTRIBUTES,
    IDENTITIES,
    find,
    list_pictures,
    read_attributes,
    read_identities,
)
from data_pipelines.sources.faces import Album
from data_pipelines.sources.item import About, Item, Skip

HELP = "faces grouped by identity: CelebA as published, or TFDS celeb_a"
ABOUT = About(
    title="CelebA",
    licence="non-commercial research only; no redistribution (agreement on the data set's page)",
    citation="Liu, Luo, Wang, Tang: Deep Learning Face Attributes in the Wild. ICCV 2015",
    home="CelebA, Multimedia Laboratory, The Chinese University of Hong Kong",
)
PICTURES, TFDS = "img_align_celeba", "celeb_a/2.1.0"
_IDENTITY = "identity/Identity_No"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this family."""
    faces.add_arguments(parser)


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """Each photograph with others of its person. Raises SourceError for a missing list, column or TFDS feature."""
    if arguments.data_dir:
        album, lost = _tfds_album(arguments.data_dir), []
    else:
        album, lost = _folder_album(Path(arguments.input))
    yield from lost
    yield from faces.make_items(album, arguments.references, arguments.seed)


def _folder_album(folder: Path) -> tuple[Album, list[Skip]]:
    pictures = find(folder, PICTURES)
    identities = read_identities(find(folder, IDENTITIES))
    attributes = read_attributes(find(folder, ATTRIBUTES), faces.USED)
    names = list_pictures(pictures)
    return faces.join(names, names, identities, attributes, lambda number: pictures / names[number])


def _tfds_album(data_dir: str) -> Album:
    from data_pipelines.sources.tfds_records import open_records  # TFDS is slow to import, and a folder needs none

    columns = [f"attributes/{name}" for name in faces.USED]
    records = open_records(TFDS, data_dir, ["image", _IDENTITY, *columns])
    identities = np.empty(len(records), np.int64)
    attributes = np.empty((len(records), len(columns)), bool)
    for index in tqdm(range(len(records)), "identities", unit=" photographs"):
        fields = records[index]
        identities[index] = fields[_IDENTITY][0]
        attributes[index] = [fields[column][0] for column in columns]
    keys = [records.key(index) for index in range(len(records))]
    return Album(keys, identities, attributes, lambda index: records[index]["image"][0])
