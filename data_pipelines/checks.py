"""What can be wrong with an example, by itself and beside the others of its data set.

The paper holds identities apart and drops near-duplicates (section 3). Data from elsewhere is held to the same here,
and to what the model can read: markers, lengths and sizes. The command is data_pipelines/validate.py.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines import records
from data_pipelines.images import ImageError
from data_pipelines.instruction import Instruction, InstructionError, Reference, check, context_text
from data_pipelines.records import RecordError
from data_pipelines.retrieval import clusters
from data_pipelines.stored import Stored
from data_pipelines.text import Tokenizer
from data_pipelines.wording import Example

LENGTHS = dict(text_length=128, reference_text_length=32, max_references=3)  # of the paper's size, where none is told
SAME_SHAPE = 0.02  # sides may differ so much in proportion and still lie over each other
ALIGNED = {  # task -> the references that must lie over the target
    "line": [0], "edge": [0], "depth": [0], "mask": [0], "edit": [0], "masked_edit": [0, 1], "style_transfer": [1]
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What is wrong with one example, shard or data set."""

    where: str  # file:line, or shard and record
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.what}"


@dataclass(frozen=True)
class Facts:
    """What is kept of an example when its pictures are gone; pictures and texts as 64 bits of their hash."""

    task: str
    key: str
    group: str
    content: int  # of everything that makes it this example
    targets: Sequence[int]
    references: Sequence[int]
    target_size: str
    tokens: int


class Examiner:
    """Checks one example of `stored` by itself; used by many threads at once."""

    def __init__(self, stored: Stored, arguments: argparse.Namespace, tokenizer: Tokenizer):
        self._stored, self._tokenizer = stored, tokenizer
        self._least = arguments.size
        self._exactly = stored.manifest.get("size", 0)
        self._lengths = {
            name: getattr(arguments, name) or stored.setting(name, default) for name, default in LENGTHS.items()
        }

    def examine(self, index: int, data: bytes | ValueError) -> tuple[Facts | None, list[Problem]]:
        """What is wrong with the example that `read` gave, or the error that it raised."""
        where = self._stored.where(index)
        if isinstance(data, ValueError):
            return None, [Problem(where, "shard", str(data).removeprefix(f"{where}: "))]
        try:
            if self._stored.manifest.get("kind") == "clusters":
                facts, found = self._cluster(data)
            else:
                facts, found = self._example(self._stored.decode(index, data), self._stored.fields(data))
        except ValueError as error:
            return None, [Problem(where, _kind(error), str(error).removeprefix(f"{where}: "))]
        return facts, [Problem(where, kind, what) for kind, what in found]

    def _example(self, example: Example, fields: dict) -> tuple[Facts, list[tuple[str, str]]]:
        references = example.instruction.references
        pictures = [reference.image for reference in references]
        hashes = [_hash(picture) for picture in pictures]
        target = [] if example.target is None else [example.target]
        targets = [_hash(picture) for picture in target]
        found = [*self._check_lengths(example.instruction), *self._check_sizes(target + pictures)]
        found += _check_alignment(example, pictures)
        for slot, hashed in enumerate(hashes):
            if hashed in targets:
                found.append(("reference is target", f"references[{slot}] and the target have the same pixels"))
        facts = Facts(
            task=example.task or "(none)",
            key=str(fields.get("key", "")),
            group=str(fields.get("group", "")),
            content=_hash(example.instruction.text, *targets, *hashes),
            targets=targets,
            references=hashes,
            target_size=_size(target[0]) if target else "(none)",
            tokens=len(self._tokenizer.encode(example.instruction.text)),
        )
        return facts, found

    def _cluster(self, data: bytes) -> tuple[Facts, list[tuple[str, str]]]:
        cluster = clusters.decode(data)
        pictures = [records.open_picture(member.image) for member in cluster.members]
        found, manifest = self._check_sizes(pictures), self._stored.manifest
        if len(pictures) != manifest.get("members", clusters.MEMBERS):
            found.append(("record", f"the cluster has {len(pictures)} members"))
        for member, picture in zip(
            cluster.members, pictures, strict=True
        ):  # each is a target, and a reference of others
            check(Instruction(f"[ref#1] {member.text}", (Reference("[ref#1]", member.text, picture),)))
        for target in range(len(pictures)):
            others = list(range(target + 1, len(pictures)))
            try:
                clusters.check_distinct(
                    cluster, target, others, [pictures[target], *pictures[target + 1 :]], manifest["threshold"]
                )
            except RecordError as error:
                found.append(("near-duplicate", str(error)))
        hashes = [_hash(picture) for picture in pictures]
        facts = Facts(
            task="neighbors (clusters)",
            key="",
            group="",
            content=_hash(*sorted(hashes)),
            targets=hashes,
            references=hashes[1:],
            target_size=_size(pictures[0]),
            tokens=max(len(self._tokenizer.encode(member.text)) for member in cluster.members),
        )
        return facts, found

    def _check_lengths(self, instruction: Instruction) -> list[tuple[str, str]]:
        references = instruction.references
        texts = {f"references[{slot}]": context_text(reference) for slot, reference in enumerate(references)}
        limits = [("text", instruction.text, "text_length")]
        limits += [(name, text, "reference_text_length") for name, text in texts.items()]
        found = []
        for name, text, option in limits:
            if (tokens := len(self._tokenizer.encode(text))) > self._lengths[option]:
                found.append(("text length", f"{name} has {tokens} tokens, more than {option}={self._lengths[option]}"))
        if len(references) > self._lengths["max_references"]:
            most = f"max_references={self._lengths['max_references']}"
            found.append(("references", f"{len(references)} are more than {most}"))
        return found

    def _check_sizes(self, pictures: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        found = []
        for picture in pictures:
            if self._exactly and picture.shape[:2] != (self._exactly, self._exactly):
                found.append(("size", f"a picture of {_size(picture)}, and the manifest says size {self._exactly}"))
            elif min(picture.shape[:2]) < self._least:
                found.append(("size", f"a picture of {_size(picture)} is smaller than --size={self._least}"))
        return found


class Comparer:
    """Checks the examples of one data set against each other, all splits of it; some 300 bytes an example.

    `groups` are the named groups of all data sets that are checked together, where they are first met.
    """

    def __init__(self, groups: dict[int, Stored]):
        self._groups = groups
        self._keys: dict[int, tuple[Stored, int]] = {}
        self._contents: dict[int, tuple[Stored, int]] = {}
        self._own: dict[int, Stored] = {}  # where target pictures, and groups without a name, are first met

    def compare(self, stored: Stored, index: int, facts: Facts) -> Iterator[Problem]:
        """What the example shares with an earlier one and should not."""
        place, where = (stored, index), stored.where(index)
        if facts.key and (first := self._keys.setdefault(_hash(stored.split, facts.key), place)) != place:
            yield Problem(where, "duplicate key", f"key '{facts.key}' is taken by {first[0].where(first[1])}")
        if (first := self._contents.setdefault(facts.content, place)) != place:
            yield Problem(where, "duplicate example", f"is {first[0].where(first[1])} again, pictures and text")
        if facts.group:  # where its key stands for it, it is of this data set alone
            known = self._own if facts.group == facts.key else self._groups
            yield from _hold_apart(known, stored, where, _hash("group", facts.group), f"group '{facts.group}'")
        for target in set(facts.targets):
            yield from _hold_apart(self._own, stored, where, target, "the very picture that is to be drawn")


def _hold_apart(known: dict[int, Stored], stored: Stored, where: str, what: int, name: str) -> Iterator[Problem]:
    first = known.setdefault(what, stored)
    if first.split != stored.split:
        other = "" if first.name == stored.name else f" of {first.name}"
        yield Problem(where, "leak", f"{name} is in split {first.split}{other} and in {stored.split}")


def _check_alignment(example: Example, pictures: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    found = []
    for slot in ALIGNED.get(example.task, []) if example.target is not None else []:
        if slot < len(pictures):
            shape, wanted = pictures[slot].shape, example.target.shape
            if abs(shape[0] * wanted[1] / (shape[1] * wanted[0]) - 1) > SAME_SHAPE:
                sizes = f"references[{slot}] is {_size(pictures[slot])} and the target {_size(example.target)}"
                found.append(("size", f"{sizes}: cut to squares, they no longer lie over each other"))
    return found


def _kind(error: BaseException) -> str:
    """The deepest cause names the kind of a problem."""
    kind = "instruction"
    while error is not None:
        for cause, name in ((ImageError, "image"), (InstructionError, "instruction"), (RecordError, "record")):
            kind = name if isinstance(error, cause) else kind
        error = error.__context__
    return kind


def _hash(*parts: np.ndarray | str | int) -> int:
    """64 bits of pictures and words."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(str(part.shape).encode())
            digest.update(np.ascontiguousarray(part))
        else:
            digest.update(f"{part}\0".encode())
    return int.from_bytes(digest.digest())


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
