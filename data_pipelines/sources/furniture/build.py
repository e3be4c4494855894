"""Builds the furniture corpus: every model of the Debian package from eight sides, in colour and as true depth.

`python -m data_pipelines.prepare furniture` runs it. Its depth, mask and novel-view pairs stand in for the control and
subject rows of the paper's Table 1. Split by family (models of one name), as the emoji are by root.
"""

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines import packages
from data_pipelines.corpus import SPLITS, SheetWriter, write_index
from data_pipelines.sources import duplicates
from data_pipelines.sources.furniture import drawing
from data_pipelines.sources.furniture.catalog import Model, read_catalog
from data_pipelines.sources.furniture.drawing import Drawn, draw
from data_pipelines.sources.furniture.fetch import unpack
from data_pipelines.sources.furniture.notice import notice
from data_pipelines.sources.furniture.views import COUNT
from data_pipelines.sources.whole import (
    LOSSLESS,
    SPAWN,
    check_size,
    is_complete,
    print_counts,
    split_evenly,
    stable_hash,
    write_whole,
)

HELP = "the furniture corpus: about 800 models from 8 sides with true depth, from a Debian package"
VIEWS = tuple(f"view_{k}" for k in range(COUNT))
DEPTHS = tuple(f"depth_{k}" for k in range(COUNT))
MODELS = "models.tsv"  # who made each model, and its range of depths
_COLUMNS = ("subject", "name", "author", "licence", "library", "near_m", "far_m")
_IN_FLIGHT = 16  # models drawn ahead of the writer, which bounds the memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare furniture`."""
    parser.add_argument(
        "--output", type=Path, default=Path("data/furniture"), help="folder to make (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=packages.CACHE, help="folder of fetched packages (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Fetch, draw, split and write. Raises a ValueError, one line, and then leaves nothing behind."""
    output = arguments.output
    check_size(arguments.size)
    if is_complete(output, arguments.size):
        return
    package = packages.fetch(packages.FURNITURE, arguments.cache)
    with tempfile.TemporaryDirectory() as folder:
        models = [model for library in unpack(package, Path(folder)) for model in read_catalog(library)]
        counts = write_whole(output, partial(build, models, Path(folder), arguments.size))
    print_counts(counts, dict.fromkeys(VIEWS + DEPTHS, packages.FURNITURE.licence))
    licences = Counter(row["licence"] for row in read_models(output))
    print("models: " + ", ".join(f"{licence} {number}" for licence, number in sorted(licences.items())))
    print(f"wrote {output}; authors and licences stand in {output / MODELS}")


def build(models: Sequence[Model], libraries: Path, size: int, folder: Path) -> Counter:
    """Write the corpus of `models` into an existing, empty folder. Returns pictures by (style, split)."""
    split = split_families(models)
    thumbnails, depths = _draw(models, libraries, size, folder)
    ranks = np.repeat([SPLITS.index(split[model.family]) for model in models], COUNT)
    leaves = duplicates.duplicated(thumbnails, ranks).reshape(len(models), COUNT).any(axis=1)
    kept = [(number, model) for number, model in enumerate(models) if not leaves[number]]
    _write_models(folder, [(model, *depths[number]) for number, model in kept])
    (folder / "NOTICE").write_text(notice([model for _, model in kept]), encoding="utf-8")
    rows = [_row(model, split[model.family], number) for number, model in kept]
    write_index(folder, size, _sources(), packages.FURNITURE.origin(), rows)
    return Counter((style, split[model.family]) for style in VIEWS + DEPTHS for _, model in kept)


def split_families(models: Sequence[Model]) -> dict[str, str]:
    """Family -> split. By category and inside it by hash, so that every category gets its share."""
    category = {model.family: model.category for model in reversed(models)}
    return split_evenly(sorted(category, key=lambda family: (category[family], stable_hash(family))))


def _draw(
    models: Sequence[Model], libraries: Path, size: int, folder: Path
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Write the sheets; thumbnails of all views [models * COUNT, s, s, 4], and (near, far) of each model."""
    writers = {style: SheetWriter(folder, style, size, **LOSSLESS) for style in VIEWS + DEPTHS}
    thumbnails, depths = [], []
    with tqdm(total=len(models) * COUNT, unit="view", desc="furniture") as progress:
        for drawn in _in_parallel(partial(draw, folder=libraries, size=size), models):
            for style, tile in zip(VIEWS + DEPTHS, (*drawn.colour, *drawn.depth), strict=True):
                writers[style].add(tile)
            thumbnails += [duplicates.thumbnail(tile) for tile in drawn.colour]
            depths.append((drawn.near, drawn.far))
            progress.update(COUNT)
        progress.set_description("sheets")
        for writer in writers.values():
            writer.flush()
    return np.stack(thumbnails), depths


def _in_parallel(function, models: Sequence[Model]) -> Iterator[Drawn]:
    """The models drawn in their order by all cores, a few ahead."""
    with ProcessPoolExecutor(mp_context=SPAWN) as pool:
        waiting = [pool.submit(function, model) for model in models[:_IN_FLIGHT]]
        for number in range(len(models)):
            yield waiting.pop(0).result()
            if number + _IN_FLIGHT < len(models):
                waiting.append(pool.submit(function, models[number + _IN_FLIGHT]))


def _sources() -> Mapping[str, Mapping]:
    """What manifest.json records of each style."""
    origin = packages.FURNITURE.origin() | {"held_out": False}
    far = drawing.FAR_GREY
    grey = f"grey/255 = {far} + {1 - far} * (1/depth - 1/far_m) / (1/near_m - 1/far_m), near_m and far_m in {MODELS}"
    return dict.fromkeys(VIEWS, origin) | dict.fromkeys(DEPTHS, origin | {"depth": grey})


def _row(model: Model, split: str, number: int) -> list[str]:
    places = " ".join(f"{style}:{number}" for style in VIEWS + DEPTHS)
    keywords = "|".join(dict.fromkeys((*model.tags, model.name.lower())))
    return [model.subject, model.family, split, model.name, keywords, model.category, model.category, places]


def read_models(folder: Path) -> list[dict[str, str]]:
    """The rows of models.tsv: who made each model, under which licence, and the depths its greys run between."""
    with (folder / MODELS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _write_models(folder: Path, models: Sequence[tuple[Model, float, float]]) -> None:
    with (folder / MODELS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(_COLUMNS)
        for model, near, far in models:
            own = (model.subject, model.name, model.author, model.licence, model.library)
            writer.writerow((*own, f"{near:.6g}", f"{far:.6g}"))
