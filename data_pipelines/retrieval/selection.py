"""Rows to clusters: the second half of stage 1's data (paper section 3), as plain functions of what a worker sees.

Each returns (elements, Counter): a step's outcome for everything that came in. Elements are sorted by key wherever an
order could show, so that nothing depends on which worker was faster.
"""

import hashlib
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.corpus import SPLITS
from data_pipelines.retrieval import clustering, domains, duplicates
from data_pipelines.retrieval.blocks import Pair, Row
from data_pipelines.retrieval.pairs import KEPT
from data_pipelines.retrieval.search import neighbors
from data_pipelines.retrieval.settings import Settings

PICTURES, CAPTIONS, DOMAINS, SEEDS = "distinct pictures", "distinct captions", "domains", "seeds"
NEIGHBORS, DUPLICATES, SIZE, CLUSTERS = "neighbors", "near-duplicates", "cluster size", "distinct clusters"
COARSE_SAMPLE = 20_000  # rows of a domain that its coarse centroids are trained on


@dataclass(frozen=True)
class Gathered:
    """The rows of one domain of one split (or of one coarse cluster of it) and the seeds among them."""

    group: str  # 'train/food'
    rows: Sequence[Row]
    table: np.ndarray  # [N, D] float32 of unit length
    seeds: np.ndarray  # [K] places in rows


@dataclass(frozen=True)
class Draft:
    """A cluster before its pictures are fetched; the seed is the first member."""

    group: str
    pairs: Sequence[Pair]
    similarity: np.ndarray  # [n, n]


def by_key(row: Row) -> tuple[str, str]:
    """The order of rows; pixels decide between two pairs of one key."""
    return row.pair.key, row.marks.pixels


def first_picture(group: tuple[str, Iterable[Row]]) -> tuple[list[Row], Counter]:
    """Of pairs with identical pixels the one of the earliest split and key."""
    rows, count = _counted(group[1])
    first = min(rows, key=lambda row: (SPLITS.index(row.pair.split), by_key(row)))
    return [first], Counter({(PICTURES, KEPT): 1, (PICTURES, "identical pixels"): next(count) - 1})


def few_captions(group: tuple[str, Iterable[Row]], most: int) -> tuple[list[Row], Counter]:
    """Of pairs with one caption the first `most` by the hash of their keys."""
    rows, count = _counted(group[1])
    kept = heapq.nsmallest(most, rows, key=lambda row: (_hash(row.pair.key), by_key(row)))
    repeated = f"caption on more than {most} pairs"
    return kept, Counter({(CAPTIONS, KEPT): len(kept), (CAPTIONS, repeated): next(count) - len(kept)})


def _counted(rows: Iterable[Row]) -> tuple[Iterator[Row], Iterator[int]]:
    """The rows one by one, for of one placeholder there may be millions; and what then gives their number."""
    count = itertools.count()
    return (row for row, _ in zip(rows, count, strict=False)), count


def match_domain(row: Row, prompts: Mapping[str, np.ndarray], least: float) -> tuple[list, Counter]:
    """The row under 'split/domain', where a prompt is near enough."""
    vector = row.match if row.match.size else row.marks.embedding
    [(name, cosine)] = domains.match(vector[None], prompts)
    if cosine < least:
        return [], Counter({(DOMAINS, "no domain"): 1})
    domain = f"{row.pair.split}/{name}"
    return [(domain, row)], Counter({(DOMAINS, KEPT): 1, ("pairs of", domain): 1})


def coarse_order(row: Row) -> str:
    """The sample of a domain is the first rows in this order, which has nothing to do with what they show."""
    return _hash(row.pair.key)


def train_coarse(sample: tuple[str, Sequence[Row]], sizes: Mapping[str, int], most: int, seed: int):
    """(domain, centroids [C, D]) that deal a domain out to groups of about `most` rows; one group needs none."""
    domain, rows = sample
    count = math.ceil(sizes[domain] / most)
    if count == 1:
        return domain, np.zeros((0, 0), np.float32)
    table = clustering.unit(np.stack([row.marks.embedding for row in sorted(rows, key=by_key)]))
    return domain, clustering.kmeans(table, count, seed)


def assign(item: tuple[str, Row], centroids: Mapping[str, np.ndarray]) -> tuple[str, Row]:
    """The row under its group: the domain, or its nearest coarse cluster there."""
    domain, row = item
    if not len(centroids[domain]):
        return item
    place = clustering.nearest(clustering.unit(row.marks.embedding[None]), centroids[domain])[0][0]
    return f"{domain}/{place:04d}", row


def find_seeds(group: tuple[str, Iterable[Row]], settings: Settings) -> tuple[list[Gathered], Counter]:
    """Clusters the group: as many as its pictures can fill. Each cluster's most central picture is a seed."""
    name, rows = group[0], sorted(group[1], key=by_key)
    table = clustering.unit(np.stack([row.marks.embedding for row in rows]))
    count = math.ceil(len(rows) / settings.pictures_per_cluster)
    seeds = np.arange(len(rows))
    if count < len(rows):
        seeds = clustering.seeds(table, clustering.kmeans(table, count, settings.seed))
    others = "not the centre of its cluster (may be a neighbour)"
    counts = Counter({(SEEDS, KEPT): len(seeds), (SEEDS, others): len(rows) - len(seeds)})
    return [Gathered(name, rows, table, seeds)], counts


def find_neighbors(found: Gathered, settings: Settings) -> tuple[list[tuple[str, list[Row]]], Counter]:
    """(group, [seed, its nearest 10 pictures of the group ...]) for each seed."""
    count = min(settings.neighbors, len(found.rows) - 1)
    places = neighbors(found.table[found.seeds], found.table, count, exclude=found.seeds)[1] if count else [[]]
    lists = [
        (found.group, [found.rows[place] for place in (seed, *others)])
        for seed, others in zip(found.seeds.tolist(), np.asarray(places).tolist(), strict=True)
    ]
    return lists, Counter({(NEIGHBORS, KEPT): sum(len(rows) for _, rows in lists)})


def drop_duplicates(item: tuple[str, Sequence[Row]], settings: Settings) -> tuple[list[Draft], Counter]:
    """The seed and those neighbours that are no near-duplicate of another member; exactly 5, or no cluster."""
    group, rows = item
    marks = [row.marks for row in rows]
    kept, reasons = duplicates.prune(marks, settings.members, settings.sameness)
    counts = Counter({(DUPLICATES, KEPT): len(kept)} | {(DUPLICATES, reason): n for reason, n in reasons.items()})
    if len(kept) < settings.members:
        counts[SIZE, f"fewer than {settings.members} members"] = 1
        return [], counts
    counts[SIZE, KEPT] = 1
    similarity = duplicates.similarities([marks[i] for i in kept])
    return [Draft(group, [rows[i].pair for i in kept], similarity)], counts


def members_of(draft: Draft) -> str:
    """A name of the cluster's members, whatever their order."""
    return _hash("\n".join(sorted(pair.key for pair in draft.pairs)))


def one_cluster(group: tuple[str, Iterable[Draft]]) -> tuple[list[Draft], Counter]:
    """Of clusters with the same members the one of the first seed."""
    drafts = list(group[1])
    first = min(drafts, key=lambda draft: draft.pairs[0].key)
    counts = Counter({(CLUSTERS, KEPT): 1, (CLUSTERS, "the same members as another"): len(drafts) - 1})
    return [first], counts + Counter({("clusters of", first.group): 1})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
