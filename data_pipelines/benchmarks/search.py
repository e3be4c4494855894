"""Neighbour search against faiss-cpu's exact index, on the same cores in one run, method by method in turns."""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.corpus import load_corpus
from data_pipelines.packages import CACHE
from data_pipelines.retrieval.embed import open_embedder
from data_pipelines.retrieval.ivf import open_flat
from data_pipelines.retrieval.search import METHODS, neighbors, recall

HELP = "Pairs of vectors compared per second, against faiss-cpu; and the share of true neighbours found."
SPEED_GATE = 1.0  # exact, times faiss's exact index
RECALL_GATE = 0.98  # the other methods, on the embeddings of a corpus
_FAISS = "faiss flat"
_EMBEDDER = "efficientnet_lite0"
_BATCH = 512  # pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `benchmarks search`."""
    parser.add_argument("--rows", type=int, default=100_000, help="of the database (default: %(default)s)")
    parser.add_argument("--dimensions", type=int, default=512, help="of a vector (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=10_000, help="searched at once (default: %(default)s)")
    parser.add_argument("--neighbors", type=int, default=10, help="of each query (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each method, in turns (default: %(default)s)")
    parser.add_argument("--nprobe", type=int, default=32, help="lists that ivf reads (default: %(default)s)")
    parser.add_argument(
        "--corpus", type=Path, default=Path("data/emoji"), help="whose embeddings the recall gate uses (%(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=0, help="of the corpus, evenly spaced (default: all)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of fetched packages (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print a table of methods on made-up vectors, then one on a corpus's embeddings where the corpus is there."""
    k, database = arguments.neighbors, make_vectors(arguments.rows, arguments.dimensions, 0)
    queries = make_vectors(arguments.queries, arguments.dimensions, 1)
    print(f"{len(queries):,} queries against {arguments.rows:,} x {arguments.dimensions}, k={k}; made-up vectors")
    exact = _compare(queries, database, k, None, arguments)
    print(f"exact is {exact:.2f}x faiss flat: {_met(exact >= SPEED_GATE)} (gate {SPEED_GATE:g}x)")
    if not arguments.corpus.is_dir():
        print(f"{arguments.corpus} is not there: recall on a corpus not measured")
        return
    vectors = embed_corpus(arguments.corpus, arguments.pictures, arguments.cache)
    print(f"{len(vectors):,} x {vectors.shape[1]}, {_EMBEDDER} of {arguments.corpus}, each against all others, k={k}")
    _compare(vectors, vectors, k, np.arange(len(vectors)), arguments)


def make_vectors(rows: int, dimensions: int, seed: int) -> np.ndarray:
    """Vectors of length 1 [rows, dimensions] in loose groups, with dimensions that fade as those of embeddings do."""
    spread = np.arange(1, dimensions + 1, dtype=np.float32) ** -0.5
    centres = np.random.default_rng(2).standard_normal((1000, dimensions), np.float32)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, dimensions), np.float32)
    x += centres[rng.integers(0, len(centres), rows)]
    x *= spread
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embed_corpus(folder: Path, count: int, cache: Path) -> np.ndarray:
    """Embeddings [N, 1280] of a corpus's pictures laid on white; count: 0 for all. Raises CorpusError, FetchError."""
    embedder = open_embedder(_EMBEDDER, cache)
    images = load_corpus(folder, 64).images
    images = images[:: max(len(images) // count, 1)] if count else images
    rows = []
    with tqdm(total=len(images), unit="picture", desc="embedding") as progress:
        for start in range(0, len(images), _BATCH):
            rows.append(embedder([_on_white(image) for image in images[start : start + _BATCH]]))
            progress.update(len(rows[-1]))
    return np.concatenate(rows)


def _on_white(image: np.ndarray) -> np.ndarray:
    alpha = image[..., 3:] / 255
    return np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _compare(queries, database, k: int, exclude, arguments: argparse.Namespace) -> float:
    """Print the table; returns the exact method's speed as a multiple of faiss flat's."""
    flat = open_flat(database)
    methods = {_FAISS: lambda: flat(queries, k + (exclude is not None))}
    for method in METHODS:
        options = {"method": method, "exclude": exclude, "nprobe": arguments.nprobe}
        methods[method] = lambda options=options: neighbors(queries, database, k, **options)[1]
    found, seconds = _measure(methods, arguments.repeats)
    print(f"{'method':<14}{'seconds':>9}{'pairs/s':>12}{'ratio':>8}{'CPU ratio':>11}{'recall@' + str(k):>11}")
    for method, (wall, cpu) in seconds.items():
        times = [base / mine for base, mine in zip(seconds[_FAISS], (wall, cpu), strict=True)]
        spent = f"{wall:>9.2f}{len(queries) * len(database) / wall:>12.3g}"
        line = f"{method:<14}{spent}{times[0]:>8.2f}{times[1]:>11.2f}"
        if method == _FAISS:
            print(line)
            continue
        share = recall(found[method], found["exact"])
        gated = exclude is not None and method != "exact"
        print(f"{line}{share:>11.4f}" + (f"  {_met(share >= RECALL_GATE)} (gate {RECALL_GATE})" if gated else ""))
    if exclude is None:
        print(f"faiss flat and exact agree on {recall(found[_FAISS], found['exact']):.4%} of the neighbours")
    return seconds[_FAISS][0] / seconds["exact"][0]


def _measure(methods: Mapping[str, Callable], repeats: int) -> tuple[dict, dict[str, tuple[float, float]]]:
    """What each method finds, and its median wall and CPU seconds; the first round, which compiles, is not timed."""
    found, seconds = {}, {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = method()
            if turn:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return found, {name: tuple(np.median(spent, axis=0)) for name, spent in seconds.items()}


def _met(yes: bool) -> str:
    return "met" if yes else "not met"
