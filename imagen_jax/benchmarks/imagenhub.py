"""ImagenHub: a model's pictures for its tasks, in its own folders, and its human ratings (Ku et al. 2024, 2310.01596;
paper section 4, whose raters score as ImagenHub's do).

DATA holds the data sets under their names on Hugging Face (Text_to_Image/, ... with their parquet files); the subjects'
pictures are in two of their own, DreamBooth_Concepts/ and Multi_Subject_Concepts/. OUTPUT gets what ImagenHub's
benchmarking.py writes: EXPERIMENT/MODEL/sample_UID.jpg at 512 pixels, EXPERIMENT/input/ with what the model was shown,
and dataset_lookup.json and .csv, which raters fill in.
"""

import argparse
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipelines.images import encode_image, fit_image
from data_pipelines.sources.formats import parquet
from data_pipelines.sources.groups import with_article
from data_pipelines.sources.item import About, Pixels, Skip, SourceError
from data_pipelines.sources.magicbrush import MaskError, change_of, read_mask
from imagen_jax import workdir
from imagen_jax.benchmarks.generation import Request, add_generate, read_pixels
from imagen_jax.benchmarks.ratings import IMAGEN_HUB, add_ratings

ABOUT = About(
    title="ImagenHub",
    licence="code and ratings MIT; each data set its own: the editing ones CC-BY-4.0 (MagicBrush), the subjects' as "
    "DreamBooth's and CustomConcept101's; the control set asks for your consent",
    citation="Ku, Li, Zhang, Lu, Fu, Zhuang, Chen: ImagenHub: Standardizing the Evaluation of Conditional Image "
    "Generation Models. ICLR 2024, arXiv 2310.01596",
    home="the data sets of ImagenHub on Hugging Face; ratings in TIGER-AI-Lab/ImagenHub on GitHub, eval/human_ratings",
)
SIZE = 512  # pixels
CONTROLS = {"canny": ("edge", "edge map"), "hed": ("edge", "edge map"), "depth": ("depth", "depth map")}

Examples = dict[str, list[Pixels]]  # subject -> its pictures


@dataclass(frozen=True)
class Shown(Request):
    """A request with what stands beside its picture in ImagenHub's folders."""

    info: Mapping[str, object] = field(default_factory=dict)  # of dataset_lookup.json
    inputs: Sequence[Pixels] = ()  # side by side in input/
    mask: Pixels | None = None  # in mask/


@dataclass(frozen=True)
class Experiment:
    """One task of ImagenHub: its folder of results, where its rows are, and what each of them asks for."""

    folder: str
    data: str  # a data set on Hugging Face
    split: str
    uid: str  # file name, with the row's columns
    info: tuple[str, ...]  # columns that go into dataset_lookup.json
    ask: Callable[[dict, Examples], dict]  # row, the subjects' pictures -> fields of Shown; raises HubError, MaskError
    examples: tuple[str, str] = ("", "")  # the data set with the subjects' pictures, and its column of their names


class HubError(ValueError):
    """A row that no task of the model can do, or that lacks a picture or its text."""


def add_actions(actions) -> None:
    """generate and ratings; scores are made by people."""
    parser = add_generate(actions, requests, write_others, record="{name}.json")
    words = f"which tasks, of {', '.join(EXPERIMENTS)} (default: all)"
    parser.add_argument("--tasks", nargs="+", choices=tuple(EXPERIMENTS), metavar="TASK", help=words)
    add_ratings(actions, IMAGEN_HUB)


def requests(arguments: argparse.Namespace) -> Iterator[Shown | Skip]:
    """The pictures of the chosen tasks; a Skip for what the data, or a model of these tasks, cannot give."""
    for name in arguments.tasks or EXPERIMENTS:
        experiment = EXPERIMENTS[name]
        examples = yield from read_examples(arguments.data, *experiment.examples)
        for row in read_rows(arguments.data, experiment.data, experiment.split):
            if isinstance(row, Skip):
                yield row
                continue
            try:
                uid = experiment.uid.format(**row)
                file, key = f"{experiment.folder}/{arguments.name}/{uid}", f"{experiment.folder}/{uid}"
                info = {column: row[column] for column in experiment.info}
                yield Shown(file, size=SIZE, key=key, info=info, **experiment.ask(row, examples))
            except (HubError, MaskError) as error:
                yield Skip(file, str(error))
            except KeyError as error:
                yield Skip(f"{experiment.data}: {', '.join(row)}", f"no column {error}")


def read_rows(data: Path, name: str, split: str) -> Iterator[dict | Skip]:
    """The rows of DATA/NAME's parquet files of a split; one Skip where there are none.

    ImagenHub writes DreamBooth_Concepts with a hyphen, too: either will do.
    """
    spelled = (data / name, data / name.replace("_", "-"))
    found = (sorted(folder.rglob(f"{split}-*.parquet")) for folder in spelled)
    files = next(filter(None, found), [])
    if not files:
        yield Skip(str(data / name), f"no {split}-*.parquet: load ImagenHub/{name} from Hugging Face")
    for file in files:
        for row in parquet.read_rows(file):
            yield row if isinstance(row, Skip) else row[1]


def read_examples(data: Path, name: str, column: str) -> Generator[Skip, None, Examples]:
    """Yields what is missing; returns the pictures of each subject in DATA/NAME, {} for a task without.

    Raises SourceError for a data set of other columns.
    """
    examples: Examples = {}
    for row in read_rows(data, name, "train") if name else ():
        if isinstance(row, Skip):
            yield row
            continue
        if "image" not in row or not isinstance(row.get(column), str):
            needs = f"needs the columns image and, as text, {column}; it has {', '.join(row)}"
            raise SourceError(f"{data}: {name} {needs}: load ImagenHub/{name} from Hugging Face")
        if (picture := parquet.encoded(row["image"], data)) is not None:
            examples.setdefault(row[column].replace("_", " "), []).append(picture)
    return examples


def write_others(arguments: argparse.Namespace, requests: Sequence[Shown]) -> None:
    """What each experiment's folder has beside the model's: dataset_lookup.json and .csv, input/ and mask/."""
    folders: dict[Path, dict[str, Mapping]] = {}
    for request in requests:
        folder, uid = arguments.output / request.file.split("/")[0], Path(request.file).name
        folders.setdefault(folder, {})[uid] = request.info
        for name, shown in (("input", request.inputs), ("mask", [request.mask] if request.mask is not None else [])):
            if shown and not (folder / name / uid).exists():
                save_wide([fit_image(read_pixels(picture), SIZE) for picture in shown], folder / name / uid)
    for folder, info in folders.items():
        lookup = folder / "dataset_lookup.json"
        before = json.loads(lookup.read_text(encoding="utf-8")) if lookup.exists() else {}  # of other calls
        info = before | info
        workdir.write_json(lookup, info)
        workdir.write_text(lookup.with_suffix(".csv"), "\n".join(["uid", *info]) + "\n")


def save_wide(pictures: Sequence[np.ndarray], path: Path) -> None:
    """Squares side by side as one JPEG."""
    workdir.write_bytes(path, encode_image(np.concatenate(pictures, axis=1), "jpeg"))


def _picture(row: dict, column: str) -> Pixels:
    found = parquet.encoded(row[column], Path())
    if found is None:
        raise HubError(f"no picture in {column}")
    return found


def _text(row: dict, column: str) -> str:
    if not isinstance(row[column], str) or not row[column].strip():
        raise HubError(f"no text in {column}")
    return row[column]


def _ask_text(row: dict, _: Examples) -> dict:
    return {"task": "text_to_image", "caption": _text(row, "prompt")}


def _ask_edit(row: dict, _: Examples) -> dict:
    source = _picture(row, "source_img")
    change = change_of(_text(row, "instruction"))
    return {"task": "edit", "change": change, "references": [("content image", source)], "inputs": [source]}


def _ask_masked_edit(row: dict, examples: Examples) -> dict:
    mask = read_mask(_picture(row, "mask_img"))
    edit = _ask_edit(row, examples)
    return edit | {"task": "masked_edit", "references": [("mask", mask), *edit["references"]], "mask": mask}


def _ask_control(row: dict, _: Examples) -> dict:
    if row["control_type"] not in CONTROLS:
        raise HubError(f"the model has no task for the control '{row['control_type']}'")
    task, words = CONTROLS[row["control_type"]]
    guide = _picture(row, "guide")
    return {"task": task, "caption": _text(row, "text"), "references": [(words, guide)], "inputs": [guide]}


def _ask_subject(row: dict, examples: Examples) -> dict:
    subject = _text(row, "subject").replace("_", " ")
    words = "".join(letter for letter in subject if not letter.isdigit()).strip()  # "dog 2" is a dog
    caption = " ".join(_text(row, "prompt").replace("<token>", "").split())
    pictures = _examples_of(subject, examples)
    references = [(with_article(words), picture) for picture in pictures]
    return {"task": "subject", "caption": caption, "references": references, "inputs": pictures[:1]}


def _ask_pair(row: dict, examples: Examples) -> dict:
    names = [_text(row, column).replace("_", " ") for column in ("concept1", "concept2")]
    pictures = [_examples_of(name, examples)[0] for name in names]
    references = [(with_article(name), picture) for name, picture in zip(names, pictures, strict=True)]
    return {"task": "multi_subject", "caption": _text(row, "prompt"), "references": references, "inputs": pictures}


def _examples_of(subject: str, examples: Examples) -> list[Pixels]:
    if subject not in examples:
        raise HubError(f"no pictures of '{subject}': load the subjects' data set beside this one")
    return examples[subject]


# Subject-driven editing is not among them: no task of the model takes a picture to edit and a subject to put into it.
EXPERIMENTS = {
    "text_to_image": Experiment(
        "ImagenHub_Text-Guided_IG", "Text_to_Image", "eval", "sample_{uid}.jpg", ("prompt", "category", "source"),
        _ask_text,
    ),
    "text_guided_editing": Experiment(
        "ImagenHub_Text-Guided_IE", "Text_Guided_Image_Editing", "filtered", "sample_{img_id}_{turn_index}.jpg",
        ("source_global_caption", "instruction", "target_global_caption"), _ask_edit,
    ),
    "mask_guided_editing": Experiment(
        "ImagenHub_Mask-Guided_IE", "Mask_Guided_Image_Editing", "filtered", "sample_{img_id}_{turn_index}.jpg",
        ("instruction", "target_local_caption"), _ask_masked_edit,
    ),
    "control_guided": Experiment(
        "ImagenHub_Control-Guided_IG", "Control_Guided_Image_Generation", "eval",
        "sample_{img_id}_control_{control_type}.jpg", ("text", "control_type"), _ask_control,
    ),
    "subject_driven": Experiment(
        "ImagenHub_Subject-Driven_IG", "Subject_Driven_Image_Generation", "eval", "sample_{uid}.jpg",
        ("subject_id", "subject", "prompt"), _ask_subject, ("DreamBooth_Concepts", "subject"),
    ),
    "multi_concept": Experiment(
        "ImagenHub_Multi-Concept_IC", "Multi_Subject_Driven_Image_Generation", "train", "sample_{uid}.jpg",
        ("prompt", "concept1", "concept2"), _ask_pair, ("Multi_Subject_Concepts", "concept"),
    ),
}  # fmt: skip
