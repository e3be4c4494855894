"""Subjects that are folders of pictures: CustomConcept101 (Kumari et al. 2023) and DreamBooth (Ruiz et al. 2023).

Neither set captions its pictures: the caption is the class, "a teapot". Their prompts are for evaluation.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.formats.common import SUFFIXES
from data_pipelines.sources.groups import choose_references, with_article
from data_pipelines.sources.item import Item, Skip, SourceError

CONCEPTS, CLASSES = "dataset.json", "prompts_and_classes.txt"
_HEADER = "subject_name,class"


@dataclass(frozen=True)
class Subject:
    """A folder of pictures of one thing."""

    folder: Path
    words: str  # its class: "action figure"


def custom_concepts(path: Path) -> list[Subject]:
    """The concepts of CustomConcept101's dataset.json; their folders are relative to it. Raises SourceError."""
    try:
        concepts = json.loads(path.read_text(encoding="utf-8"))
        return [Subject(path.parent / each["instance_data_dir"], str(each["class_prompt"])) for each in concepts]
    except KeyError as error:
        found = ", ".join(concepts[0]) or "none"
        raise SourceError(f"{path}: a concept has no {error}: the first one's keys are {found}") from error
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: not CustomConcept101's list of concepts ({error}): load it again") from error


def dreambooth_subjects(path: Path) -> list[Subject]:
    """The subjects of DreamBooth's prompts_and_classes.txt, lines 'red_cartoon,cartoon' below their header.

    Raises SourceError where the header or every subject is missing.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if _HEADER not in lines:
        raise SourceError(f"{path}: no line '{_HEADER}': load it again")
    subjects = []
    for line in lines[lines.index(_HEADER) + 1 :]:
        name, comma, words = line.partition(",")
        if not comma:
            break  # the prompts follow
        subjects.append(Subject(path.parent / name, words.strip()))
    if not subjects:
        raise SourceError(f"{path}: no subject below '{_HEADER}': load it again")
    return subjects


READERS: dict[str, Callable[[Path], list[Subject]]] = {
    "custom_concept101": custom_concepts,
    "dreambooth": dreambooth_subjects,
}


def make_items(name: str, subjects: Sequence[Subject], most: int, seed: int) -> Iterator[Item | Skip]:
    """Each picture as a target with 1 to `most` others of its subject; `name` of the set begins keys and groups."""
    for subject in subjects:
        if not subject.folder.is_dir():
            yield Skip(str(subject.folder), "no such folder")
            continue
        pictures = sorted(path for path in subject.folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if len(pictures) < 2:
            yield Skip(str(subject.folder), "fewer than two pictures of a subject")
            continue
        group, words = f"{name}:{subject.folder.name}", with_article(subject.words)
        for picture in pictures:
            key = f"{group}/{picture.name}"
            chosen = choose_references(key, [other for other in pictures if other != picture], most, seed)
            references = [(words, other) for other in chosen]
            yield Item(key, "subject", picture, words, references=references, group=group)
