"""CelebA-HQ (Karras et al. 2018): 30,000 portraits of CelebA at up to 1024 px, joined to CelebA's identities.

Task `face` of the paper (Table 1: CelebA-HQ, 0.1M, ratio 0.05). The set names no person: its mapping file leads from a
picture to its photograph in CelebA, whose tables tell identity and attributes. Reads a folder (CelebAMask-HQ and its
resized copies) or TFDS celeb_a_hq, whose files are read twice: at 1024 px that is 40 GB each time.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines.sources import celeba_tables as tables
from data_pipelines.sources import faces
from data_pipelines.sources.item import About, Item, Pixels, Skip, SourceError

HELP = "faces grouped by identity: CelebA-HQ, a folder or TFDS celeb_a_hq, with CelebA's tables"
ABOUT = About(
    title="CelebA-HQ",
    licence="non-commercial research only, as CelebA; check the data set's page",
    citation="Karras, Aila, Laine, Lehtinen: Progressive Growing of GANs for Improved Quality, Stability, and "
    "Variation. ICLR 2018",
    home="CelebA-HQ in the repository of Progressive Growing of GANs; CelebAMask-HQ",
)
FOLDER, FILENAME = "CelebA-HQ-img", "image/filename"
SIZES = (1024, 512, 256, 128)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this family."""
    faces.add_arguments(parser)
    parser.add_argument("--resolution", type=int, choices=SIZES, default=256, help="TFDS: side of the pictures (256)")
    parser.add_argument("--mapping", help=f"{tables.MAPPING} (looked for in --input)")
    parser.add_argument("--identities", help=f"CelebA's {tables.IDENTITIES} (looked for in --input)")
    parser.add_argument("--attributes", help=f"CelebA's {tables.ATTRIBUTES} (looked for in --input)")
    numbers = "what the pictures are named by: their number in CelebA-HQ (index), or CelebA's own file names (original)"
    parser.add_argument("--names", choices=("index", "original"), default="index", help=numbers)


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """Each picture with others of its person. Raises SourceError for a missing table or column."""
    identities = tables.read_identities(_table(arguments, "identities", tables.IDENTITIES))
    attributes = tables.read_attributes(_table(arguments, "attributes", tables.ATTRIBUTES), faces.USED)
    names, open_picture = _open(arguments)
    album, lost = faces.join(names, _originals(arguments, names), identities, attributes, open_picture)
    yield from lost
    yield from faces.make_items(album, arguments.references, arguments.seed)


def _table(arguments: argparse.Namespace, option: str, name: str, page: str = tables.CELEBA_PAGE) -> Path:
    given = getattr(arguments, option)
    return Path(given) if given else tables.find(arguments.input or arguments.data_dir, name, page, f"--{option}")


def _originals(arguments: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """CelebA's file of each picture, '' where the mapping has none."""
    if arguments.names == "original":
        return [f"{Path(name).stem}.jpg" for name in names]
    mapping = tables.read_mapping(_table(arguments, "mapping", tables.MAPPING, tables.HQ_PAGE))
    return [mapping.get(number, "") for number in _numbers(names, max(mapping, default=0))]


def _open(arguments: argparse.Namespace) -> tuple[Sequence[str], Callable[[int], Pixels]]:
    """The names of the pictures, and how to open each by its place among them."""
    if arguments.input:
        folder = Path(arguments.input)
        folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
        names = tables.list_pictures(folder)
        return names, lambda number: folder / names[number]
    from data_pipelines.sources.tfds_records import open_records  # TFDS is slow to import, and a folder needs none

    records = open_records(f"celeb_a_hq/{arguments.resolution}/2.0.0", arguments.data_dir, ["image", FILENAME])
    progress = tqdm(range(len(records)), "file names", unit=" pictures")
    names = [records[index][FILENAME][0].decode() for index in progress]
    return names, lambda number: records[number]["image"][0]


def _numbers(names: Sequence[str], last: int) -> Iterator[int]:
    """The number that each name ends in: 17 for '17.jpg', '00017.png' and 'imgHQ00017.png'; -1 where there is none."""
    for name in names:
        digits = re.search(r"\d+$", Path(name).stem)
        number = int(digits[0]) if digits else -1
        if number > last:
            wrong = f"is above the last number of the mapping, {last}"
            raise SourceError(f"{name}: {wrong}: if the pictures bear CelebA's own names, give --names=original")
        yield number
