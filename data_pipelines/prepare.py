"""Builds the data sets: `python -m data_pipelines.prepare FAMILY [options]`; `--help` lists the families.

A family is a module with HELP, add_arguments(parser) and either items(arguments), which the common runner turns into
records (data_pipelines/prepare_dataset.py), or its own run(arguments). The families are the rows of the paper's Table 1
and what stands in for them.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

from data_pipelines import commands

PROGRAM = "python -m data_pipelines.prepare"
ROOT = Path("data/records")
FAMILIES = {  # name -> module, what it makes
    "captions": ("data_pipelines.sources.captions", "captioned pictures: folders, WebDataset, parquet, TFDS"),
    "wikiart": ("data_pipelines.sources.wikiart", "WikiArt paintings, captioned by artist, genre and style"),
    "control": ("data_pipelines.sources.control", "edge, depth or mask maps of captioned pictures"),
    "sketch": ("data_pipelines.sources.sketch", "Photo-Sketching: contour drawings and their photographs"),
    "subjects": ("data_pipelines.sources.subjects", "Subjects200K, CustomConcept101, DreamBooth folders"),
    "celeba": ("data_pipelines.sources.celeba", "CelebA faces, grouped by identity"),
    "celeba_hq": ("data_pipelines.sources.celeba_hq", "CelebA-HQ faces, grouped by identity"),
    "styles": ("data_pipelines.sources.styles", "folders of pictures that share a style"),
    "style_transfer": ("data_pipelines.sources.style_transfer", "style transfer pairs of the arbitrary-style network"),
    "instructions": ("data_pipelines.sources.instructions", "instructions of your own: lines of training JSONL"),
    "magicbrush": ("data_pipelines.sources.magicbrush", "MagicBrush edits and masked edits"),
    "furniture": ("data_pipelines.sources.furniture.build", "rendered furniture: true depth, masks, novel views"),
    "emoji": ("data_pipelines.sources.emoji.build", "the emoji corpus, from npm packages"),
    "records": ("data_pipelines.prepare_records", "record shards of the tasks of a corpus"),
}
# Folders that are no family's own name.
_COMMANDS = {
    **{name: f"{PROGRAM} control --condition={name} --input=..." for name in ("edge", "depth", "mask")},
    **{
        task: f"{PROGRAM} records --tasks {task} --examples=20000"
        for task in ("text_to_image", "line", "subject", "style", "edit")
    },
    **{name: f"{PROGRAM} {name}" for name in ("emoji", "furniture")},
    "neighbors": "python -m data_pipelines.retrieval --input=...",
}


def command(name: str, root: Path) -> str:
    """What to run for the data set ROOT/NAME."""
    if name in _COMMANDS:
        output = root if " records " in _COMMANDS[name] else root / name
        return f"{_COMMANDS[name]} --output={output}"
    return f"{PROGRAM} {name if name in FAMILIES else 'FAMILY'} --input=... --output={root / name}"


def run(name: str, family: ModuleType, arguments: list[str]) -> None:
    """Parse the family's options and let it, or the common runner, do the work."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=f"Build {family.HELP}.")
    family.add_arguments(parser)
    if hasattr(family, "run"):
        return family.run(parser.parse_args(arguments))
    from data_pipelines import prepare_dataset

    prepare_dataset.add_arguments(parser, ROOT, getattr(family, "NAME", name))
    return prepare_dataset.run(family, parser.parse_args(arguments))


def main(arguments: list[str] | None = None) -> int:
    """Run one family; 0 when it is complete, 2 with one line on stderr when its input is bad."""
    return commands.main(PROGRAM, "Build a data set.", FAMILIES, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
