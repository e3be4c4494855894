"""Subject-driven sets: the same thing in other scenes, in the three forms that stand in for SuTI's unpublished data.

Task `subject` of the paper (Table 1: SuTI, 0.75M, ratio 0.30). Subjects200K is for training; CustomConcept101 and
DreamBooth are also test sets (ImagenHub, DreamBench): a model trained on them must not be measured on them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.sources import subject_folders, subjects200k
from data_pipelines.sources.groups import add_references_argument
from data_pipelines.sources.item import About, Item, Skip, SourceError

HELP = "subjects in several scenes: Subjects200K (parquet), CustomConcept101 or DreamBooth (folders)"
ABOUT = About(
    title="Subjects200K, CustomConcept101 or DreamBooth",
    licence="Subjects200K: Apache-2.0. CustomConcept101: Unsplash License, CC-BY-SA-4.0, and each flower's own. "
    "DreamBooth: CC-BY-4.0, with pictures under the licences in references_and_licenses.txt",
    citation="Tan, Liu, Yang, Xue, Wang: OminiControl. 2024. Kumari, Zhang, Zhang, Shechtman, Zhu: Multi-Concept "
    "Customization of Text-to-Image Diffusion. CVPR 2023. Ruiz, Li, Jampani, Pritch, Rubinstein, Aberman: DreamBooth. "
    "CVPR 2023",
    home="Yuanshi/Subjects200K; adobe-research/custom-diffusion, customconcept101; google/dreambooth",
)
_SIGNS = {  # format -> what its folder holds
    "subjects200k": ("*.parquet", "data/*.parquet"),
    "custom_concept101": (subject_folders.CONCEPTS,),
    "dreambooth": (subject_folders.CLASSES, f"dataset/{subject_folders.CLASSES}"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this family."""
    parser.add_argument("--input", required=True, help=f"folder with one of {_signs()}")
    parser.add_argument("--format", choices=tuple(_SIGNS), help="needed only where the folder fits more than one")
    add_references_argument(parser)
    subjects200k.add_arguments(parser)


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """Each picture of a subject with others of it. Raises SourceError for an unknown folder or a missing column."""
    folder = Path(arguments.input)
    name = arguments.format or _detect(folder)
    files = _files(folder, name)
    if not files:
        raise SourceError(f"{folder}: is no folder of {name}, which has {' or '.join(_SIGNS[name])}: correct --input")
    if name == "subjects200k":
        yield from subjects200k.read(files, arguments.min_quality, arguments.padding)
    else:
        subjects = subject_folders.READERS[name](files[0])
        yield from subject_folders.make_items(name, subjects, arguments.references, arguments.seed)


def _files(folder: Path, name: str) -> list[Path]:
    return [path for sign in _SIGNS[name] for path in sorted(folder.glob(sign))]


def _detect(folder: Path) -> str:
    fitting = [name for name in _SIGNS if _files(folder, name)]
    if not fitting:
        raise SourceError(f"{folder}: none of the known sets: give a folder with one of {_signs()}")
    if len(fitting) > 1:
        raise SourceError(f"{folder}: could be {' or '.join(fitting)}: say which by --format")
    return fitting[0]


def _signs() -> str:
    return ", ".join(f"{' or '.join(signs)} ({name})" for name, signs in _SIGNS.items())
