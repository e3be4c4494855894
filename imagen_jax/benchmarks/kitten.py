"""KITTEN: real entities (landmarks, plants, aircraft ...) that a model must know or be shown (Huang et al. 2024,
2410.11824; paper section 4.2 uses its idea of reference pictures of an entity).

Its repository's own file names were not to be seen from here. What is read is the plainest form of what its paper
describes: DATA/prompts.csv with the columns entity, prompt and, where there is one, domain; and the pictures of an
entity in DATA/support/ENTITY/ (shown to the model) and DATA/evaluation/ENTITY/ (compared with), or below
support/DOMAIN/ENTITY/.
"""

import argparse
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.item import About, Skip, SourceError
from imagen_jax import workdir
from imagen_jax.benchmarks.dreambench import list_pictures
from imagen_jax.benchmarks.generation import Request, add_generate, for_each
from imagen_jax.benchmarks.ratings import KITTEN, add_ratings
from imagen_jax.benchmarks.scoring import Judged, add_score

ABOUT = About(
    title="KITTEN",
    licence="see its repository; the entities and pictures are OVEN-Wiki's, under their own terms",
    citation="Huang, Wang, Bitton, Taitelbaum, Tomar, Chang, Jia, Chan, Hu, Su, Yang: KITTEN: A Knowledge-Intensive "
    "Evaluation of Image Generation on Visual Entities. arXiv 2410.11824",
    home="hhsinping/kitten on GitHub; its page is kitten-project.github.io",
)
RULES = (
    "clip_t: with the prompt; dino and clip_i: mean cosine with every picture of the entity in the evaluation set; the "
    "means are over pictures, a row for each domain"
)
METRICS = ("clip_t", "dino", "clip_i")
PROMPTS = "prompts.csv"


@dataclass(frozen=True)
class Prompt:
    """A line of the prompts."""

    number: int  # of the line, from 1
    entity: str
    prompt: str
    domain: str

    @property
    def file(self) -> str:
        """Where its picture goes."""
        return f"{_plain(self.domain)}/{_plain(self.entity)}/{self.number:05d}.png"


def add_actions(actions) -> None:
    """generate, score and ratings."""
    add_generate(actions, requests, write_form)
    add_score(actions, judged, METRICS, RULES)
    add_ratings(actions, KITTEN)


def requests(arguments: argparse.Namespace) -> Iterator[Request | Skip]:
    """A picture for each prompt, with the entity's support pictures as references. Raises SourceError."""
    return for_each(_request, with_pictures(arguments.data, "support"))


def judged(arguments: argparse.Namespace) -> Iterator[Judged | Skip]:
    """Each picture with its prompt and the entity's evaluation pictures."""
    return for_each(_judged, with_pictures(arguments.data, "evaluation"))


def write_form(arguments: argparse.Namespace, requests: Sequence[Request]) -> None:
    """OUTPUT/rating_form.tsv, to be filled in by raters as TASK_rater1.tsv ...: [text, entity], each 0 to 5."""
    lines = [f"uid\t{arguments.name}", *(f"{request.file}\t" for request in requests)]
    workdir.write_text(arguments.output / "rating_form.tsv", "\n".join(lines) + "\n")


def read_prompts(path: Path) -> list[Prompt]:
    """The lines of prompts.csv. Raises SourceError, one line with the place."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{path}: unreadable ({error}): make it from KITTEN's prompts, see docs/benchmarks.md"
        ) from error
    prompts = []
    for number, row in enumerate(rows, start=1):
        if not (row.get("entity") or "").strip() or not (row.get("prompt") or "").strip():
            raise SourceError(
                f"{path}: row {number}: needs the columns entity and prompt, it has {', '.join(map(str, row))}"
            )
        domain = (row.get("domain") or "").strip() or "entities"
        prompts.append(Prompt(number, row["entity"].strip(), row["prompt"].strip(), domain))
    return prompts


def with_pictures(data: Path, kind: str) -> Iterator[tuple[Prompt, list[Path]] | Skip]:
    """Each prompt with its entity's pictures in a set, 'support' or 'evaluation'; a Skip where there are none."""
    for prompt in read_prompts(data / PROMPTS):
        places = (data / kind / prompt.domain / prompt.entity, data / kind / prompt.entity)
        found = next((pictures for place in places if (pictures := list_pictures(place))), [])
        missing = Skip(str(places[1]), f"no pictures of the entity of prompt {prompt.number}")
        yield (prompt, found) if found else missing


def _request(found: tuple[Prompt, list[Path]]) -> Request:
    prompt, shown = found
    return Request(prompt.file, "subject", prompt.prompt, references=[(prompt.entity, path) for path in shown])


def _judged(found: tuple[Prompt, list[Path]]) -> Judged:
    prompt, real = found
    return Judged(prompt.file, ("all", prompt.domain), prompt.prompt, {"": real})


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
