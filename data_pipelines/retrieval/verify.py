"""An independent check of a folder of clusters: no near-duplicates in any, nothing in two splits (paper section 3).

It trusts nothing but the records: pictures are decoded and compared anew, as pixels at twice the size of the pipeline's
thumbnails and, on demand, by embedding them again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.corpus import SPLITS
from data_pipelines.records import RecordError, RecordReader, open_picture
from data_pipelines.retrieval.clusters import Cluster, decode
from data_pipelines.retrieval.duplicates import pixel_distance, pixel_hash

PROMISES = ("threshold", "pixel_distance", "members", "size", "clusters", "settings")  # what the manifest must tell
SIDE = 32  # pixels of the compared pictures
TOLERANCE = 0.005  # of a similarity: embeddings were kept as float16, and machines round differently


class VerifyError(ValueError):
    """A folder that breaks its promise: one line with the shard, the record and what is wrong."""


class Verifier:
    """Checks clusters one by one, and remembers what must not come twice.

    Attributes:
      split: of the clusters that follow.
      largest: similarity of two members of one cluster, as the records say.
    """

    def __init__(self, manifest: Mapping):
        self.split, self.largest = "", 0.0
        self.split_of_key: dict[str, str] = {}
        self._manifest = manifest
        self._urls_differ = "url" in manifest["settings"]["same"]
        self._split_of_pixels: dict[str, str] = {}
        self._seeds: set[str] = set()
        self._members: set[frozenset[str]] = set()

    def check(self, record: bytes) -> None:
        """Raises RecordError for a cluster that breaks a promise."""
        cluster = decode(record)
        pictures = [open_picture(member.image) for member in cluster.members]
        self._check_form(cluster, pictures)
        small = [_small(picture) for picture in pictures]
        for a, b in combinations(range(len(pictures)), 2):
            fault = self._fault(cluster, a, b, pictures, small)
            if fault:
                raise RecordError(f"{cluster.members[a].key} and {cluster.members[b].key}: {fault}")
        self._check_once([member.key for member in cluster.members], [pixel_hash(picture) for picture in pictures])

    def _check_form(self, cluster: Cluster, pictures: Sequence[np.ndarray]) -> None:
        wanted, size = self._manifest["members"], self._manifest["size"]
        if len(pictures) != wanted:
            raise RecordError(f"{len(pictures)} members, not {wanted}")
        if shapes := {picture.shape for picture in pictures} - {(size, size, 3)}:
            raise RecordError(f"a picture of shape {shapes.pop()}, not {(size, size, 3)}")
        similarity = cluster.similarity
        if not (np.array_equal(similarity, similarity.T) and np.all(np.diag(similarity) == 1)):
            raise RecordError("its similarities are not symmetric with 1 on the diagonal")

    def _fault(self, cluster: Cluster, a: int, b: int, pictures, small) -> str:
        """Why members a and b are near-duplicates, '' where they are not."""
        similarity, distance = cluster.similarity[a, b], pixel_distance(small[a], small[b])
        self.largest = max(self.largest, float(similarity))
        if not similarity < self._manifest["threshold"]:
            return f"similarity {similarity:.4f}, and the threshold is {self._manifest['threshold']:g}"
        if self._urls_differ and cluster.members[a].url and cluster.members[a].url == cluster.members[b].url:
            return f"one URL, {cluster.members[a].url}"
        if np.array_equal(pictures[a], pictures[b]):
            return "identical pixels"
        if distance <= self._manifest["pixel_distance"]:
            return f"the pictures differ by {distance:.1f} of 255 only"
        return ""

    def _check_once(self, keys: Sequence[str], pixels: Sequence[str]) -> None:
        if keys[0] in self._seeds or frozenset(keys) in self._members or len(set(keys)) < len(keys):
            raise RecordError(f"{keys[0]}: the seed or the members come twice")
        self._seeds.add(keys[0])
        self._members.add(frozenset(keys))
        for key, name in zip(keys, pixels, strict=True):
            for seen, value in ((self.split_of_key, key), (self._split_of_pixels, name)):
                if seen.setdefault(value, self.split) != self.split:
                    raise RecordError(f"{key}: the picture is also in {seen[value]}")


def verify(folder: Path) -> tuple[int, int, float]:
    """Check every shard and cluster: (clusters, distinct pictures, largest similarity). Raises VerifyError."""
    manifest = read_manifest(folder)
    verifier, clusters = Verifier(manifest), 0
    try:
        for split in SPLITS:
            verifier.split = split
            count, promised = RecordReader(folder / split, split).verify(verifier.check), manifest["clusters"][split]
            if count != promised:
                raise VerifyError(f"{folder / split}: {count} clusters, the manifest says {promised}")
            clusters += count
    except RecordError as error:
        raise VerifyError(str(error)) from error
    return clusters, len(verifier.split_of_key), verifier.largest


def embed_again(folder: Path, embed: Callable[[Sequence[np.ndarray]], np.ndarray]) -> tuple[float, float]:
    """Embed the records' own pictures: (largest similarity, largest deviation from a record's). Raises VerifyError.

    Each picture is embedded once, so its vector stays in memory.
    """
    threshold = read_manifest(folder)["threshold"] + TOLERANCE
    vectors: dict[str, np.ndarray] = {}
    largest = deviation = 0.0
    clusters = _clusters(folder)
    while batch := list(islice(clusters, 64)):
        new = {m.key: m for _, cluster in batch for m in cluster.members if m.key not in vectors}
        vectors.update(zip(new, embed([open_picture(member.image) for member in new.values()]), strict=True))
        for where, cluster in batch:
            table = np.stack([vectors[member.key] for member in cluster.members])
            cosines = table @ table.T
            deviation = max(deviation, float(np.abs(cosines - cluster.similarity).max()))
            alike = float(cosines[~np.eye(len(cosines), dtype=bool)].max())
            if alike >= threshold:
                raise VerifyError(f"{where}: embedded anew, two members are {alike:.4f} alike")
            largest = max(largest, alike)
    return largest, deviation


def _clusters(folder: Path) -> Iterator[tuple[str, Cluster]]:
    for split in SPLITS:
        reader = RecordReader(folder / split, split)
        for index in range(len(reader)):
            yield reader.where(index), decode(reader.read(index))


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder of clusters. Raises VerifyError where it is none."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in PROMISES if name not in manifest]
    except (OSError, ValueError) as error:
        raise VerifyError(f"{path}: unreadable ({error}): give the --output of a finished run") from None
    if missing:
        raise VerifyError(f"{path}: has no '{missing[0]}': give the --output of a finished run")
    return manifest


def _small(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
