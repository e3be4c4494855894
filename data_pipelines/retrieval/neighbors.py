"""Neighbours of a picture for retrieval-augmented training: the paper's stage 1 (section 3.1).

The paper clusters WebLI by CLIP embeddings inside image-text domains and gives three members of a cluster as context
for a fourth. Here the clusters are known: the same Unicode subgroup, the same root subject, a shared keyword.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_pipelines.corpus import Picture
from data_pipelines.pairs import STYLES

SHARES = (("subgroup", 0.5), ("root", 0.3), ("keyword", 0.2))  # where each neighbour comes from
_TRIES = 8  # before every candidate is looked at


class Neighbors:
    """Draws neighbours among the pictures of one split; a picture with the target's very pixels is never one.

    `images` [N, S, S, 3] and `pictures` are in the same order.
    """

    def __init__(self, images: np.ndarray, pictures: Sequence[Picture]):
        self._content = [hash(image.tobytes()) for image in images]
        self._clusters: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._keys = [_cluster_keys(picture) for picture in pictures]
        for i, sources in enumerate(self._keys):
            if STYLES[pictures[i].style].depth:  # a map is nobody's neighbour
                continue
            for keys in sources.values():
                for key in keys:
                    self._clusters[key].append(i)

    def exist(self, target: int) -> bool:
        """Whether the target has any neighbour."""
        keys = (key for keys in self._keys[target].values() for key in keys)
        return any(self._content[i] != self._content[target] for key in keys for i in self._clusters[key])

    def draw(self, target: int, count: int, rng: np.random.Generator) -> list[int]:
        """Up to `count` different neighbours of `target`, fewer only when there are no more."""
        seen = {self._content[target]}
        chosen = []
        while len(chosen) < count:
            found = self._draw_one(target, seen, rng)
            if found is None:
                break
            seen.add(self._content[found])
            chosen.append(found)
        return chosen

    def _draw_one(self, target: int, seen: set[int], rng: np.random.Generator) -> int | None:
        keys = self._keys[target][_pick_source(rng.random())]
        for key, member in rng.random((_TRIES if keys else 0, 2)):
            cluster = self._clusters[keys[int(key * len(keys))]]
            found = cluster[int(member * len(cluster))]
            if self._content[found] not in seen:
                return found
        rest = sorted(self._candidates(target, seen))
        return rest[int(rng.random() * len(rest))] if rest else None

    def _candidates(self, target: int, seen: set[int]) -> set[int]:
        keys = (key for keys in self._keys[target].values() for key in keys)
        return {i for key in keys for i in self._clusters[key] if self._content[i] not in seen}


def _cluster_keys(picture: Picture) -> dict[str, list[tuple[str, str]]]:
    return {
        "subgroup": [("subgroup", picture.subgroup)],
        "root": [("root", picture.root)],
        "keyword": [("keyword", keyword) for keyword in picture.keywords if keyword],
    }


def _pick_source(uniform: float) -> str:
    for source, share in SHARES:
        uniform -= share
        if uniform < 0:
            return source
    return SHARES[-1][0]
