"""Human ratings: two scores a picture and rater, from TSV files in the form that ImagenHub publishes (2310.01596).

A file TASK_raterN.tsv has a column `uid` with the pictures' names and one for each model, with cells such as [0.5, 1];
spaces do not matter. Every rater of a task rates the same pictures of the same models.

ImagenHub's published Overall is the mean, over all ratings (every rater and picture), of sqrt(SC x PQ), rounded to
three digits at the end and nowhere before: from its own files this gives the printed .575 for SuTI and .229 for
ControlNet, where means over raters first, or of rounded numbers, do not. The tables of Instruct-Imagen (paper, Table 4)
are sqrt(mean SC x mean PQ), which is never less: compare like with like.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagen_jax.benchmarks.tables import Row, write_scores

_CELL = re.compile(r"\[\s*([0-9.]+)\s*,\s*([0-9.]+)\s*\]")
_FILE = re.compile(r"(.+)_rater\d+")

Ratings = dict[str, np.ndarray]  # model -> [raters, pictures, 2]


class RatingsError(ValueError):
    """A file of ratings that cannot be used: one line with its place and the mend."""


@dataclass(frozen=True)
class Scale:
    """What the two scores are called, which values they take, and how they join to the overall one."""

    names: tuple[str, str]
    highest: float
    step: float  # from 0 up to `highest`
    join: Callable[[np.ndarray, np.ndarray], np.ndarray]
    rules: str


IMAGEN_HUB = Scale(
    ("SC", "PQ"),
    highest=1,
    step=0.5,
    join=lambda sc, pq: np.sqrt(sc * pq),
    rules="overall: mean over all ratings of sqrt(SC x PQ), as ImagenHub publishes it; overall of means: sqrt(mean SC "
    "x mean PQ), as Instruct-Imagen's Table 4; kappa: Fleiss 1971, of each picture's values from all raters",
)
KITTEN = Scale(
    ("text", "entity"),
    highest=5,
    step=0.5,
    join=lambda text, entity: (text + entity) / 2,
    rules="overall: mean of text and entity, as the paper's 'all'; kappa: Fleiss 1971",
)


def add_ratings(actions, scale: Scale) -> None:
    """The action `ratings` of a benchmark that people score."""
    parser = actions.add_parser("ratings", help="means and agreement of human ratings, from files TASK_raterN.tsv")
    words = f"folder with the files; a cell is [{', '.join(scale.names)}]"
    parser.add_argument("--data", type=Path, required=True, help=words)
    parser.add_argument(
        "--output", type=Path, default=Path("ratings.json"), help="file to write (default: %(default)s)"
    )
    parser.set_defaults(act=lambda arguments: _act(arguments, scale))


def _act(arguments: argparse.Namespace, scale: Scale) -> None:
    tasks = read_ratings(arguments.data, scale)
    rows = [row for task, ratings in tasks.items() for row in summarize(task, ratings, scale)]
    write_scores(arguments.output, {"scale": scale.names, "rules": scale.rules}, rows)


def read_ratings(folder: Path, scale: Scale) -> dict[str, Ratings]:
    """Task -> model -> [raters, pictures, 2] of the folder's files TASK_raterN.tsv, in any sub-folder.

    Raises RatingsError for a missing or foreign file, a bad cell, and raters who differ in pictures or models.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).rglob("*.tsv")):
        if match := _FILE.fullmatch(path.stem):
            files.setdefault(match[1], []).append(path)
    if not files:
        raise RatingsError(f"{folder}: no files named TASK_rater1.tsv, TASK_rater2.tsv ...: give the folder that has")
    return {task: _join_raters([(path, _read_file(path, scale)) for path in paths]) for task, paths in files.items()}


def summarize(task: str, ratings: Ratings, scale: Scale) -> list[Row]:
    """A row for each model: the two means, the overall score both ways, and Fleiss' kappa of each of the three."""
    rows = []
    for model, values in ratings.items():
        first, second = values[..., 0], values[..., 1]
        overall = scale.join(first, second)
        scores = dict(zip((*scale.names, "overall"), (first, second, overall), strict=True))
        means = {name: float(score.mean()) for name, score in scores.items()}
        of_means = {"overall of means": float(scale.join(first.mean(), second.mean()))}
        kappas = {f"kappa {name}": fleiss_kappa(count_categories(score)) for name, score in scores.items()}
        counts = {"raters": values.shape[0], "pictures": values.shape[1]}
        rows.append({"task": task, "model": model, **counts, **means, **of_means, **kappas})
    return rows


def count_categories(labels: np.ndarray) -> np.ndarray:
    """How many raters gave each picture each value: [raters, pictures] -> [pictures, categories] int."""
    values = np.unique(labels)
    return (labels[:, :, None] == values).sum(0)


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa (1971) of counts [subjects, categories], each row with the same number of raters.

    1 is full agreement, 0 as much as by chance; nan with a single rater, and where all gave the same value to all.
    """
    subjects, raters = len(counts), int(counts[0].sum())
    if raters < 2:
        return float("nan")
    share = counts.sum(0) / (subjects * raters)  # p_j
    agreement = (np.square(counts).sum(1) - raters) / (raters * (raters - 1))  # P_i
    chance = np.square(share).sum()
    return float((agreement.mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def _read_file(path: Path, scale: Scale) -> Mapping[str, dict[str, tuple[float, float]]]:
    """Model -> picture -> its two scores."""
    lines = [line.split("\t") for line in _text(path).splitlines()]
    header = [name.strip() for name in lines[0]] if lines else []
    if header[:1] != ["uid"] or len(header) < 2:
        raise RatingsError(f"{path}:1: begins with '{' '.join(header)[:40]}': the first line is uid, then the models")
    found: dict[str, dict[str, tuple[float, float]]] = {model: {} for model in header[1:]}
    for number, (uid, *cells) in enumerate(lines[1:], start=2):
        if not uid.strip() and not cells:
            continue
        if len(cells) != len(found):
            raise RatingsError(f"{path}:{number}: has {len(cells)} ratings for {len(found)} models: mend the line")
        for model, cell in zip(found, cells, strict=True):
            if uid in found[model]:
                raise RatingsError(f"{path}:{number}: '{uid}' is rated twice: remove one of its lines")
            found[model][uid] = _scores(cell, scale, f"{path}:{number}: {model}")
    if not found[header[1]]:
        raise RatingsError(f"{path}: no ratings below its first line: fill it in, or take it out of the folder")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RatingsError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8 text") from None


def _scores(cell: str, scale: Scale, where: str) -> tuple[float, float]:
    match = _CELL.fullmatch(cell.strip())
    try:
        scores = (float(match[1]), float(match[2])) if match else ()
    except ValueError:  # "1.2.3"
        scores = ()
    if not scores or any(score > scale.highest or score % scale.step for score in scores):
        form = f"[{', '.join(scale.names)}], each 0 to {scale.highest:g} in steps of {scale.step:g}"
        raise RatingsError(f"{where}: '{cell.strip()}' is no rating: write {form}")
    return scores


def _join_raters(files: Sequence[tuple[Path, Mapping]]) -> Ratings:
    (first_path, first), *others = files
    for path, found in others:
        if different := found.keys() ^ first.keys():
            raise RatingsError(f"{path} and {first_path.name} differ in the models {', '.join(sorted(different))}")
        for model in first:
            if different := found[model].keys() ^ first[model].keys():
                raise RatingsError(f"{path}: it and {first_path.name} differ in '{min(different)}': rate the same ones")
    return {
        model: np.array([[found[model][uid] for uid in pictures] for _, found in files])
        for model, pictures in first.items()
    }
