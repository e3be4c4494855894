"""Scores of generated pictures against real ones and prompts: the `score` action of the benchmarks (paper section 4.1).

A benchmark says what each picture is measured by; here every picture and text is embedded once, and each score is kept
beside the means. A score is never made from half of its pictures in silence: missing ones are counted and named.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.sources.item import Skip
from imagen_jax.benchmarks import metrics
from imagen_jax.benchmarks.generation import BenchmarkError, read_pixels, without_skips
from imagen_jax.benchmarks.metrics import Encoder
from imagen_jax.benchmarks.tables import Row, write_scores

_AT_ONCE = 64  # pictures in memory


@dataclass(frozen=True)
class Judged:
    """What a generated picture is measured by."""

    file: str  # below the output folder
    groups: Sequence[str]  # the rows of the table whose means it belongs to
    prompt: str = ""  # for CLIP-T; '' none
    real: Mapping[str, Sequence[Path]] | None = None  # what to add to the metric's name -> real pictures of the subject
    target: Path | None = None  # the very picture wanted, to the pixel: L1, L2, and CLIP-T of this one


@dataclass(frozen=True)
class Encoders:
    """The networks at hand; None where the user gave no weights."""

    clip_image: Encoder | None = None
    clip_text: Encoder | None = None
    dino: Encoder | None = None


def add_score(
    actions, judged: Callable[[argparse.Namespace], Iterable[Judged | Skip]], names: Sequence[str], rules: str
) -> argparse.ArgumentParser:
    """The action `score` of a benchmark, whose table has the metrics `names`, by the `rules` that its file states."""
    parser = actions.add_parser("score", help="measure the generated pictures with your own CLIP and DINO weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set, as for generate")
    parser.add_argument("--output", type=Path, required=True, help="folder of the generated pictures")
    parser.add_argument("--clip", type=Path, help="Hugging Face folder of CLIP, such as openai/clip-vit-base-patch32")
    parser.add_argument("--dino", type=Path, help="Hugging Face folder, such as facebook/dino-vits16, or original .pth")
    parser.set_defaults(act=lambda arguments: _act(arguments, judged, names, rules))
    return parser


def _act(arguments: argparse.Namespace, read: Callable, names: Sequence[str], rules: str) -> None:
    judged = without_skips(read(arguments))
    there = [each for each in judged if (arguments.output / each.file).is_file()]
    if not there:
        raise BenchmarkError(f"{arguments.output}: none of {len(judged)} pictures is there: run generate first")
    found = {each.file for each in there}
    missing = [each.file for each in judged if each.file not in found]
    if missing:
        print(f"missing: {len(missing)} of {len(judged)} pictures, such as {missing[0]}: the means leave them out")
    encoders = open_encoders(arguments.clip, arguments.dino)
    scores = score(arguments.output, there, encoders)
    kept = {file: {name: row[name] for name in names if name in row} for file, row in scores.items()}
    weights = {"clip": str(arguments.clip or ""), "dino": str(arguments.dino or "")}
    about = {"rules": rules, "weights": weights, "wanted": len(judged), "missing": len(missing), "pictures": kept}
    write_scores(arguments.output / "scores.json", about, average(there, kept))


def open_encoders(clip: Path | None, dino: Path | None) -> Encoders:
    """The networks whose weights are given; a line says what is left out without. Raises WeightsError, EmbedError."""
    if not clip:
        print("no --clip: without CLIP-I and CLIP-T")
    if not dino:
        print("no --dino: without DINO")
    image, text = metrics.open_clip(clip) if clip else (None, None)
    return Encoders(image, text, metrics.open_dino(dino) if dino else None)


def score(output: Path, judged: Sequence[Judged], encoders: Encoders) -> dict[str, dict[str, float]]:
    """File -> metric -> score, of all measures that apply and whose network is at hand. Raises ImageError."""
    paths = {each.file: output / each.file for each in judged}
    real = {path for each in judged for group in (each.real or {}).values() for path in group}
    pictures = dict.fromkeys([*paths.values(), *sorted(real), *(each.target for each in judged if each.target)])
    looks = {
        name: _embed(encoder, list(pictures), name)
        for name, encoder in (("dino", encoders.dino), ("clip_i", encoders.clip_image))
        if encoder
    }
    prompts = list(dict.fromkeys(each.prompt for each in judged if each.prompt))
    texts = dict(zip(prompts, encoders.clip_text(prompts), strict=True)) if encoders.clip_text and prompts else {}
    return {each.file: _score_one(each, paths[each.file], looks, texts) for each in judged}


def average(judged: Sequence[Judged], scores: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """A row for each group, in the order of their first pictures: how many pictures, and the mean of each metric.

    A metric that some of the pictures lack, such as clip_t without a text, also says how many pictures it is of.
    """
    groups: dict[str, list[str]] = {}
    for each in judged:
        for group in each.groups:
            groups.setdefault(group, []).append(each.file)
    rows = []
    for group, files in groups.items():
        row = {"group": group, "pictures": len(files)}
        for name in dict.fromkeys(name for file in files for name in scores[file]):
            found = [scores[file][name] for file in files if name in scores[file]]
            row |= {name: float(np.mean(found))} | ({f"{name} pictures": len(found)} if len(found) < len(files) else {})
        rows.append(row)
    return rows


def _score_one(each: Judged, path: Path, looks: Mapping[str, Mapping], texts: Mapping) -> dict[str, float]:
    found = {}
    for name, vectors in looks.items():
        real = {suffix: np.stack([vectors[other] for other in group]) for suffix, group in (each.real or {}).items()}
        cosines = {name + suffix: metrics.similarity(vectors[path][None], group) for suffix, group in real.items()}
        if cosines:
            found |= cosines | {name: float(np.mean([*cosines.values()]))}
    if each.prompt in texts:
        text = texts[each.prompt][None]
        found["clip_t"] = metrics.similarity(looks["clip_i"][path][None], text)
        found["clip_score"] = metrics.clip_score(found["clip_t"])
        if each.target:
            found["clip_t_real"] = metrics.similarity(looks["clip_i"][each.target][None], text)
    if each.target:
        found["l1"], found["l2"] = metrics.distances(read_pixels(path), read_pixels(each.target))
    return found


def _embed(encoder: Encoder, paths: Sequence[Path], name: str) -> dict[Path, np.ndarray]:
    vectors = {}
    with tqdm(total=len(paths), desc=name, unit="picture", delay=1) as progress:
        for start in range(0, len(paths), _AT_ONCE):
            group = paths[start : start + _AT_ONCE]
            vectors |= dict(zip(group, encoder([read_pixels(path) for path in group]), strict=True))
            progress.update(len(group))
    return vectors
