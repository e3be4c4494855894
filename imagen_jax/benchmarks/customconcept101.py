"""CustomConcept101: 101 subjects and 101 pairs of them, with prompts for each (Kumari et al. 2023; paper section 4.2,
multi-subject generation). The data set is the folder customconcept101/ of adobe-research/custom-diffusion, with its
dataset.json, dataset_multiconcept.json and prompts/, and benchmark_dataset/ unpacked in it.

Pictures go to OUTPUT/CONCEPT/samples/ beside a prompts.json, as its evaluate.py reads them. The prompts name the class;
a fine-tuned model's own token (<new1>) has no meaning here, where the reference pictures say which one.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.groups import with_article
from data_pipelines.sources.item import About, Skip, SourceError
from imagen_jax.benchmarks.dreambench import list_pictures
from imagen_jax.benchmarks.generation import Request, add_generate, for_each
from imagen_jax.benchmarks.scoring import Judged, add_score
from imagen_jax.workdir import write_json

ABOUT = About(
    title="CustomConcept101",
    licence="Unsplash License, CC-BY-SA-4.0, and each flower's own",
    citation="Kumari, Zhang, Zhang, Shechtman, Zhu: Multi-Concept Customization of Text-to-Image Diffusion. CVPR 2023, "
    "arXiv 2212.04488",
    home="adobe-research/custom-diffusion on GitHub, its folder customconcept101/",
)
RULES = (
    "as customconcept101/evaluate.py: clip_score is its text alignment, 2.5 x max(cosine, 0); clip_i and dino are its "
    "image alignments, the mean cosine with every real picture, of a pair with those of each concept (_1, _2) and "
    "their mean; 'all' is the mean over pictures, of which each concept has equally many for each of its prompts"
)
METRICS = ("clip_score", *(f"{name}{suffix}" for name in ("clip_i", "dino") for suffix in ("", "_1", "_2")))
FILES = {"pairs": "dataset_multiconcept.json", "single": "dataset.json"}


@dataclass(frozen=True)
class Wanted:
    """One picture."""

    file: str
    concept: str  # its folder of results
    prompt: str
    words: tuple[str, ...]  # the classes of its one or two concepts
    real: tuple[list[Path], ...]  # and their pictures


def add_actions(actions) -> None:
    """generate and score, of single concepts or of pairs."""
    for parser in (add_generate(actions, requests, write_prompts), add_score(actions, judged, METRICS, RULES)):
        words = "two subjects in a picture, or one (default: %(default)s)"
        parser.add_argument("--concepts", choices=tuple(FILES), default="pairs", help=words)
        words = "pictures for each prompt (default: %(default)s)"
        parser.add_argument("--pictures", type=int, choices=range(1, 1001), default=5, metavar="N", help=words)


def requests(arguments: argparse.Namespace) -> Iterator[Request | Skip]:
    """The pictures of DATA, told by all pictures of one subject, or by one of each of two. Raises SourceError."""
    return for_each(_request, wanted(arguments.data, arguments.concepts, arguments.pictures))


def judged(arguments: argparse.Namespace) -> Iterator[Judged | Skip]:
    """Each picture with its prompt and the real pictures of its concepts."""
    return for_each(_judged, wanted(arguments.data, arguments.concepts, arguments.pictures))


def write_prompts(arguments: argparse.Namespace, requests: Sequence[Request]) -> None:
    """OUTPUT/CONCEPT/prompts.json: the name of each picture without suffix -> its prompt."""
    prompts: dict[str, dict[str, str]] = {}
    for request in requests:
        path = Path(request.file)
        prompts.setdefault(path.parts[0], {})[path.stem] = request.caption
    for concept, found in prompts.items():
        write_json(arguments.output / concept / "prompts.json", found)


def wanted(data: Path, concepts: str, pictures: int) -> Iterator[Wanted | Skip]:
    """Every picture of the benchmark, or why there is none. Raises SourceError for a file of another form."""
    path = data / FILES[concepts]
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for number, entry in enumerate(entries):
            *members, prompts = entry if concepts == "pairs" else (entry, {})
            prompts_file = prompts["prompt_filename_compose"] if prompts else entry["prompt_filename"]
            folders = [data / member["instance_data_dir"] for member in members]
            words = tuple(str(member["class_prompt"]) for member in members)
            name = "+".join(folder.name for folder in folders)
            concept = f"{number:03d}_{name}" if len(members) > 1 else name
            yield from _of_concept(concept, folders, words, data / prompts_file, pictures)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}: give the folder customconcept101/ of custom-diffusion") from error
    except (LookupError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: not CustomConcept101's list of concepts ({error}): load it again") from error


def _request(each: Wanted) -> Request:
    if len(each.words) == 1:
        shown = [(with_article(each.words[0]), path) for path in each.real[0]]
        return Request(each.file, "subject", caption=each.prompt, references=shown)
    shown = [(with_article(words), real[0]) for words, real in zip(each.words, each.real, strict=True)]
    return Request(each.file, "multi_subject", caption=each.prompt, references=shown)


def _judged(each: Wanted) -> Judged:
    names = ("",) if len(each.real) == 1 else ("_1", "_2")
    return Judged(each.file, ("all", each.concept), each.prompt, dict(zip(names, each.real, strict=True)))


def _of_concept(
    concept: str, folders: Sequence[Path], words: tuple[str, ...], prompts: Path, pictures: int
) -> Iterator[Wanted | Skip]:
    real = tuple(map(list_pictures, folders))
    empty = [str(folder) for folder, found in zip(folders, real, strict=True) if not found]
    if empty or not prompts.is_file():
        yield Skip(
            empty[0] if empty else str(prompts), "missing: unpack benchmark_dataset.zip in the folder of the data"
        )
        return
    lines = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines):
        for picture in range(pictures):
            file = f"{concept}/samples/{number:02d}_{picture}.png"
            yield Wanted(file, concept, line.format(*words), words, real)
