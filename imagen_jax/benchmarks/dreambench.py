"""DreamBench: 30 subjects, 25 prompts each, four pictures a prompt (Ruiz et al. 2023; paper section 4.1, in-domain
subject-driven generation). The data set is the folder dataset/ of google/dreambooth: prompts_and_classes.txt, and a
folder for each subject.

The file has one list of prompts for objects and one for live subjects, which are its cats and dogs. Its unique token,
which a fine-tuned model was taught, is left out of a prompt: here the reference pictures say which one.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.formats.common import SUFFIXES
from data_pipelines.sources.groups import with_article
from data_pipelines.sources.item import About, Skip, SourceError
from data_pipelines.sources.subject_folders import CLASSES, Subject, dreambooth_subjects
from imagen_jax.benchmarks.generation import Request, add_generate, for_each
from imagen_jax.benchmarks.scoring import Judged, add_score

ABOUT = About(
    title="DreamBench",
    licence="CC-BY-4.0, with pictures under the licences in references_and_licenses.txt",
    citation="Ruiz, Li, Jampani, Pritch, Rubinstein, Aberman: DreamBooth: Fine Tuning Text-to-Image Diffusion Models "
    "for Subject-Driven Generation. CVPR 2023, arXiv 2208.12242",
    home="google/dreambooth on GitHub, its folder dataset/",
)
RULES = (
    "dino and clip_i: mean cosine of a picture with every real one of its subject; clip_t: with its prompt without the "
    "unique token; 'all' is the mean over pictures, of which each subject has equally many"
)
METRICS = ("dino", "clip_i", "clip_t")
PICTURES = 4  # a prompt
LIVE = ("cat", "dog")
_PROMPT = re.compile(r"'(.*)'\.format\(unique_token, class_token\)")


@dataclass(frozen=True)
class _Wanted:
    """One picture."""

    file: str
    prompt: str
    subject: Subject
    real: list[Path]  # all pictures of the subject


def add_actions(actions) -> None:
    """generate and score."""
    add_generate(actions, requests)
    add_score(actions, judged, METRICS, RULES)


def requests(arguments: argparse.Namespace) -> Iterator[Request | Skip]:
    """The pictures of DATA. Raises SourceError for a folder of another form."""
    return for_each(_request, _wanted(arguments.data))


def judged(arguments: argparse.Namespace) -> Iterator[Judged | Skip]:
    """Each picture with its prompt and all real pictures of its subject."""
    return for_each(_judged, _wanted(arguments.data))


def read_prompts(path: Path) -> tuple[list[str], list[str]]:
    """The prompts for objects and for live subjects, with the class as {1}. Raises SourceError where one is missing."""
    before, _, after = path.read_text(encoding="utf-8").partition("Live Subject Prompts")
    found = [match[1] for match in _PROMPT.finditer(before)], [match[1] for match in _PROMPT.finditer(after)]
    if not all(found):
        raise SourceError(f"{path}: no lists of prompts for objects and for live subjects: load it again")
    return found


def list_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by name; [] where there is none."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []


def _request(wanted: _Wanted) -> Request:
    references = [(with_article(wanted.subject.words), path) for path in wanted.real]
    return Request(wanted.file, "subject", caption=wanted.prompt, references=references)


def _judged(wanted: _Wanted) -> Judged:
    return Judged(wanted.file, ("all", wanted.subject.folder.name), wanted.prompt, {"": wanted.real})


def _wanted(data: Path) -> Iterator[_Wanted | Skip]:
    path = next((path for path in (data / CLASSES, data / "dataset" / CLASSES) if path.is_file()), None)
    if path is None:
        raise SourceError(f"{data}: no {CLASSES}: give the folder dataset/ of google/dreambooth")
    objects, live = read_prompts(path)
    for subject in dreambooth_subjects(path):
        real = list_pictures(subject.folder)
        if not real:
            yield Skip(str(subject.folder), "no pictures of the subject: load it again")
            continue
        for number, template in enumerate(live if subject.words in LIVE else objects):
            prompt = " ".join(template.format("", subject.words).split())
            for picture in range(PICTURES):
                file = f"{subject.folder.name}/{number:02d}_{picture}.png"
                yield _Wanted(file, prompt, subject, real)
