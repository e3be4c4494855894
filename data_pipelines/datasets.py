"""The prepared data sets of a mixture: found, checked against the model before the first step, and read example by
example (paper Table 1 and section 3.1). Needs no TensorFlow.

A data set of examples is worded when it is prepared; of clusters, when it is read, since the context of a target is
drawn anew each epoch.
"""

import abc
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines import features, records, templates
from data_pipelines.images import fit_image
from data_pipelines.instruction import Layout
from data_pipelines.loader import LoaderError
from data_pipelines.mixture import Mixture
from data_pipelines.prepare import command
from data_pipelines.records import RecordError, RecordReader
from data_pipelines.retrieval import clusters
from data_pipelines.shortening import shorten, word_short
from data_pipelines.text import Tokenizer
from data_pipelines.wording import Draft, Example

PHRASING, SHORTEST = 6, 4  # tokens of each share that go to the words around the texts, and the least of a text
_log = logging.getLogger(__name__)


class DataSet(abc.ABC):
    """Random access to the examples of one split, with pictures at the model's size."""

    def __init__(self, name: str, reader: RecordReader, layout: Layout, tokenizer: Tokenizer, seed: int):
        self.reader, self._layout, self._tokenizer, self._seed = reader, layout, tokenizer, seed
        for most, least, key, what in self._demands(layout):
            if most < least:
                raise LoaderError(
                    f"{reader.folder}: {what} {least}, and the model's {key} is {most}: raise that, or prepare {name} "
                    f"again with a smaller --{key.rpartition('.')[2]}"
                )
        size = reader.manifest.get("size", layout.image_size)
        if size < layout.image_size:
            raise LoaderError(
                f"{reader.folder}: its pictures are of {size} px and the model's of {layout.image_size}: prepare "
                f"{name} again with --size={layout.image_size}"
            )

    @abc.abstractmethod
    def __len__(self) -> int:
        """Examples an epoch."""

    @abc.abstractmethod
    def example(self, number: int, epoch: int) -> Example:
        """Example `number` as it is in an epoch. Raises ValueError for a damaged record."""

    @abc.abstractmethod
    def where(self, number: int) -> str:
        """The shard and record of an example, for messages."""

    @abc.abstractmethod
    def _demands(self, layout: Layout):
        """(the model's limit, what the data set needs, the config's key, in words)."""

    def _picture(self, file: bytes | memoryview) -> np.ndarray:
        size = self._layout.image_size
        return fit_image(records.open_picture(file, size), size)


class Examples(DataSet):
    """Records that hold an example each."""

    def __len__(self) -> int:
        return len(self.reader)

    def example(self, number: int, epoch: int) -> Example:
        return records.decode(self.reader.read(number), self._picture)

    def where(self, number: int) -> str:
        return self.reader.where(number)

    def _demands(self, layout: Layout):
        longest = self.reader.manifest.get("longest", {})
        yield layout.max_references, longest.get("references", 0), "data.max_references", "its most references are"
        yield layout.text_length, longest.get("text", 0), "data.text_length", "the tokens of its longest text are"
        least = longest.get("reference_text", 0)
        what = "the tokens of its longest reference text are"
        yield layout.reference_text_length, least, "data.reference_text_length", what


class Clusters(DataSet):
    """Records that hold a cluster each, every member of it the target of one example."""

    @property
    def _members(self) -> int:
        return self.reader.manifest.get("members", clusters.MEMBERS)

    def __len__(self) -> int:
        return self._members * len(self.reader)

    def example(self, number: int, epoch: int) -> Example:
        record, target = divmod(number, self._members)
        cluster = clusters.decode(self.reader.read(record))
        if len(cluster.members) != self._members:
            raise RecordError(f"the cluster has {len(cluster.members)} members, not {self._members}")
        rng = np.random.default_rng((self._seed, epoch, number))
        first = int(rng.integers(templates.count("neighbors")))
        count = min(clusters.NEIGHBORS, self._layout.max_references)
        chosen = clusters.choose(self._members, target, count, rng)
        pictures = [self._picture(cluster.members[i].image) for i in (target, *chosen)]
        clusters.check_distinct(cluster, target, chosen, pictures, self.reader.manifest["threshold"])
        return self._worded([cluster.members[i].text for i in (target, *chosen)], pictures, first)

    def where(self, number: int) -> str:
        return self.reader.where(number // self._members)

    def _worded(self, texts: Sequence[str], pictures: Sequence[np.ndarray], first: int) -> Example:
        """The first to be drawn, the others its references; where they do not fit whole, each has an equal share.

        Where that is still too long, references are left out from the last.
        """
        whole, given = self._layout.text_length, self._layout.reference_text_length
        share = max(whole // len(texts) - PHRASING, SHORTEST)
        for caption_length, length in ((whole, given), (share, min(given, share))):
            named = [self._cut(text, length, f"[ref#{k}] ") for k, text in enumerate(texts[1:], start=1)]
            references = list(zip(named, pictures[1:], strict=True))
            draft = Draft(pictures[0], self._cut(texts[0], caption_length), references=references)
            example, _ = word_short("neighbors", draft, first, partial(self._fits, whole))
            if len(example.instruction.references) == len(references):
                break
        return example

    def _cut(self, text: str, length: int, before: str = "") -> str:
        return shorten(text, lambda cut: self._fits(length, f"{before}{cut}"))

    def _fits(self, length: int, text: str) -> bool:
        return len(self._tokenizer.encode(text)) <= length

    def _demands(self, layout: Layout):
        yield layout.max_references, 1, "data.max_references", "the least neighbours of a target are"


def open_datasets(
    root: Path, mixture: Mapping[str, float], split: str, seed: int, allow_missing: bool, layout: Layout,
    tokenizer: Tokenizer,
) -> tuple[Mixture, list[DataSet]]:  # fmt: skip
    """The data sets that the mixture names, in its order, and the mixture of those that are there.

    Raises LoaderError, one line, for data sets that are missing or hold nothing in this split (unless `allow_missing`
    leaves them out) and for those that do not fit the model; RecordError for damaged ones.
    """
    Mixture(mixture, seed)  # its own complaints come first
    readers: dict[str, RecordReader] = {}
    missing: dict[str, str] = {}  # name -> its mend
    for name in mixture:
        if not (root / name).is_dir():
            missing[name] = f"{name}: {command(name, root)} --size={layout.image_size}"
        elif not (root / name / split).is_dir():
            missing[name] = f"{name}: has no split '{split}' in {root / name}"
        elif not len(reader := _open_split(root / name, split)):
            mend = "prepare it anew with larger shares, such as --splits=0.8,0.1,0.1, or more groups"
            missing[name] = f"{name}: split '{split}' in {root / name} is empty: {mend}"
        else:
            readers[name] = reader
    mixture = _without(mixture, missing, split, root, allow_missing)
    if layout.feature_width:
        _check_features(readers, layout.feature_width)
    kinds = {"examples": Examples, "clusters": Clusters}
    opened = [kinds[reader.kind](name, reader, layout, tokenizer, seed) for name, reader in readers.items()]
    return Mixture(mixture, seed), opened


def _open_split(folder: Path, split: str) -> RecordReader:
    """The split of a data set; where that is an empty 'test', as MagicBrush's is, 'validation' stands for it."""
    reader = RecordReader(folder / split, split)
    if split != "test" or len(reader) or not (folder / "validation").is_dir():
        return reader
    _log.warning("%s: split 'test' is empty: 'validation' stands for it", folder)
    return RecordReader(folder / "validation", "validation")


def _check_features(readers: Mapping[str, RecordReader], width: int) -> None:
    """Every data set holds text features of one and the same encoder, `width` wide."""
    first = next(iter(readers.values()))
    for reader in readers.values():
        mend = features.MEND.format(folder=reader.folder.parent)
        if reader.kind != "examples":
            raise LoaderError(f"{reader.folder}: {features.UNWORDED}")
        if not (about := reader.manifest.get("text_features")):
            raise LoaderError(f"{reader.folder}: holds no text features: {mend}")
        if about["width"] != width:
            wrong = f"its text features are {about['width']} wide ({about['weights']}), and text_encoder.emb is {width}"
            raise LoaderError(f"{reader.folder}: {wrong}: {mend}")
        if any(about[key] != first.manifest["text_features"][key] for key in ("digest", "dtype", "tokenizer")):
            raise LoaderError(
                f"{reader.folder}: its text features are by another encoder, tokenizer or --dtype than those of "
                f"{first.folder}: embed both with one"
            )


def _without(
    mixture: Mapping[str, float], missing: Mapping[str, str], split: str, root: Path, allow_missing: bool
) -> Mapping[str, float]:
    if not missing:
        return mixture
    told = f"{len(missing)} of {len(mixture)} data sets of data.mixture are missing for '{split}' in {root}"
    kept = {name: ratio for name, ratio in mixture.items() if name not in missing}
    if not allow_missing or not kept:
        mend = "or set data.allow_missing=True to do without" if kept else "none is left: check data.records too"
        raise LoaderError(f"{told} ({'; '.join(missing.values())}): prepare them, {mend}")
    total = sum(kept.values())
    kept = {name: ratio / total for name, ratio in kept.items()}
    ratios = ", ".join(f"{name} {ratio:.4g}" for name, ratio in kept.items())
    _log.warning("%s and left out (%s); the ratios are now %s", told, ", ".join(missing), ratios)
    return kept
