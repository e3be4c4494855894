"""A TFDS builder over this project's readers, for the data sets of the paper's Table 1 and 2 that TFDS lacks.

    python -m data_pipelines.tfds_builders wikiart --input=FOLDER --data_dir=DIR --size=256
    import data_pipelines.tfds_builders, tensorflow_datasets as tfds
    tfds.load("instruct_imagen/wikiart_256", data_dir=DIR)

An example is an item before its wording: data_pipelines/templates says it in a hundred ways, at training time. Pictures
are cut to their centre square and resized, for TFDS cannot stack references of different sizes.
"""

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from data_pipelines import commands
from data_pipelines.images import ImageError, encode_image, fit_image, read_image
from data_pipelines.sources.item import Item, Pixels, Skip, SourceError, told

try:
    import tensorflow_datasets as tfds
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(commands.missing(error))

SIZES = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Family:
    """A reader of data_pipelines/sources with its options, and the splits that it names."""

    reader: str
    options: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train",)  # where the published set has no split, all is 'train'


FAMILIES = {
    "wikiart": Family("wikiart"),
    "magicbrush": Family("magicbrush", splits=("train", "validation")),
    "magicbrush_masked": Family("magicbrush", ("--masked",), ("train", "validation")),
    "subjects200k": Family("subjects", ("--format=subjects200k",)),
    "custom_concept101": Family("subjects", ("--format=custom_concept101",)),
    "dreambooth": Family("subjects", ("--format=dreambooth",)),
    "photo_sketching": Family("sketch", ("--allow_no_caption",), ("train", "validation", "test")),
    "styles": Family("styles"),
}


@dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """A family at one size in pixels."""

    family: str
    size: int


class InstructImagen(tfds.core.GeneratorBasedBuilder):
    """Items of one reader: task, texts, references and target; `skipped` counts what was left out, by reason."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012, the name and type that TFDS asks for
        Config(name=f"{family}_{size}", family=family, size=size, description=f"{family} at {size} px")
        for family in FAMILIES
        for size in SIZES
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download the data set from its home, which `python -m data_pipelines.tfds_builders FAMILY --help` names, and "
        "give its folder as manual_dir."
    )

    def __init__(self, **keywords):
        self.skipped: Counter[str] = Counter()
        super().__init__(**keywords)

    def _info(self) -> tfds.core.DatasetInfo:
        picture = tfds.features.Image(shape=(self.builder_config.size, self.builder_config.size, 3))
        about = open_reader(self.builder_config.family).ABOUT
        texts = {name: tfds.features.Text() for name in ("key", "task", "caption", "change", "group")}
        references = tfds.features.Sequence({"text": tfds.features.Text(), "image": picture})
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{about.title}, as items of instruction tuning. Items of one group share a subject.",
            features=tfds.features.FeaturesDict(texts | {"references": references, "target": picture}),
            homepage=about.home,
            citation=about.citation,
            license=about.licence,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits = FAMILIES[self.builder_config.family].splits
        found = {split: self._generate_examples(dl_manager.manual_dir, split) for split in splits}
        firsts = {split: next(examples, None) for split, examples in found.items()}
        begun = {split: chain([first], found[split]) for split, first in firsts.items() if first is not None}
        if not begun:
            raise SourceError(f"{dl_manager.manual_dir}: no item could be read ({told(self.skipped)})")
        return begun

    def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[str, dict]]:
        family, keys = FAMILIES[self.builder_config.family], set()
        for item in read_items(self.builder_config.family, folder):
            if isinstance(item, Skip):
                self.skipped[item.reason] += split == family.splits[0]  # every split reads the set
            elif (item.split or "train") not in family.splits:
                raise SourceError(f"{item.key}: its split '{item.split}' is none of {', '.join(family.splits)}")
            elif (item.split or "train") == split:
                try:
                    example = self._example(item)
                except ImageError:
                    self.skipped["broken image"] += 1
                    continue
                if item.key in keys:
                    self.skipped["a key twice"] += 1
                else:
                    keys.add(item.key)
                    yield item.key, example

    def _example(self, item: Item) -> dict:
        references = [{"text": text, "image": self._picture(pixels)} for text, pixels in item.references]
        texts = {name: getattr(item, name) for name in ("key", "task", "caption", "change", "group")}
        return texts | {"references": references, "target": self._picture(item.target)}

    def _picture(self, pixels: Pixels) -> bytes:
        size = self.builder_config.size
        image = pixels if isinstance(pixels, np.ndarray) else read_image(pixels, size)
        return encode_image(fit_image(image, size))


def open_reader(family: str):
    """The module that reads a family."""
    return importlib.import_module(f"data_pipelines.sources.{FAMILIES[family].reader}")


def read_items(family: str, folder: Path) -> Iterator[Item | Skip]:
    """What the family's reader finds in a folder. Raises SourceError as it does."""
    parser = argparse.ArgumentParser()
    parser.set_defaults(seed=0)  # of the choice of references, as in `data_pipelines.prepare`
    open_reader(family).add_arguments(parser)
    return open_reader(family).items(parser.parse_args([f"--input={folder}", *FAMILIES[family].options]))


def make_parser() -> argparse.ArgumentParser:
    """The command line; its help names each family's home and licence."""
    homes = "\n".join(f"{name}: {(about := open_reader(name).ABOUT).home} ({about.licence})" for name in FAMILIES)
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tfds_builders",
        description="Prepare a data set for tfds.load('instruct_imagen/FAMILY_SIZE').",
        epilog=homes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("family", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--input", type=Path, required=True, help="folder of the set as it is published")
    parser.add_argument("--data_dir", type=Path, help="folder of TFDS (default: ~/tensorflow_datasets)")
    parser.add_argument("--size", type=int, choices=SIZES, default=256, help="side in pixels (default: %(default)s)")
    return parser


def prepare(family: str, folder: Path, data_dir: Path | None, size: int) -> InstructImagen:
    """Write the data set where tfds.load finds it, all or nothing. Raises SourceError, one line."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise SourceError(f"{folder}: no folder, or an empty one: download {open_reader(family).ABOUT.home} into it")
    builder = InstructImagen(config=f"{family}_{size}", data_dir=data_dir)
    if builder.data_path.exists():
        raise SourceError(f"{builder.data_path} is there already: delete it to prepare it again")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return builder


def main(arguments: list[str] | None = None) -> int:
    """Prepare one family; 0 when it is complete, 2 with one line on stderr when its input is bad."""
    chosen = make_parser().parse_args(arguments)

    def work() -> None:
        builder = prepare(chosen.family, chosen.input, chosen.data_dir, chosen.size)
        counts = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
        print(f"wrote {builder.data_path}: {counts}; left out: {told(builder.skipped)}")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
