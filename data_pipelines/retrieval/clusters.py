"""Clusters of similar captioned pictures: the record of stage 1's data, and which members a target sees (section 3.1).

A record of a folder of kind "clusters" is a record of data_pipelines/records.py whose JSON is

    {"members": [{"text", "image": part number, "url", "key"}, ...], "similarity": [[...], ...]}

with as many picture parts as members (five in the paper). Each member is the target of one example; others of the same
cluster are its context, drawn anew each epoch, worded as task `neighbors` when they are read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.records import RecordError, join_parts, parse_header, split_parts
from data_pipelines.shortening import plain

MEMBERS = 5  # of a cluster, in the paper
NEIGHBORS = 3  # of them in the context, in the paper


@dataclass(frozen=True)
class Member:
    """One (picture, text) pair; the picture stays an encoded file until it is needed."""

    text: str
    image: bytes | memoryview  # JPEG, PNG or WebP
    url: str = ""
    key: str = ""


@dataclass(frozen=True)
class Cluster:
    """Members that belong together, and how alike they are: [n, n], 1 on the diagonal."""

    members: tuple[Member, ...]
    similarity: np.ndarray


def encode_cluster(cluster: Cluster) -> bytes:
    """The record of a cluster. Raises ValueError for a member without words or a similarity of another shape."""
    count = len(cluster.members)
    if np.shape(cluster.similarity) != (count, count):
        raise ValueError(f"a cluster of {count} has similarities of shape {np.shape(cluster.similarity)}")
    fields = []
    for part, member in enumerate(cluster.members, start=2):
        if not (text := plain(member.text).strip(" .")):
            raise ValueError(f"member '{member.key}' of a cluster has no text")
        fields.append({"text": text, "image": str(part), "url": member.url, "key": member.key})
    similarity = [[round(float(value), 6) for value in row] for row in cluster.similarity]
    header = json.dumps({"members": fields, "similarity": similarity}, ensure_ascii=False).encode()
    return join_parts([header, *(member.image for member in cluster.members)])


def decode(record: bytes) -> Cluster:
    """The cluster of a record. Raises RecordError for whatever is wrong with it."""
    header, *files = split_parts(record)
    fields = parse_header(header)
    try:
        members = tuple(
            Member(item["text"], files[int(item["image"]) - 2], item.get("url", ""), item.get("key", ""))
            for item in fields["members"]
        )
        similarity = np.array(fields["similarity"], np.float64)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RecordError(f"the record is no cluster ({type(error).__name__} {error})") from error
    if similarity.shape != (len(members), len(members)):
        raise RecordError(f"the record has {len(members)} members and similarities of shape {similarity.shape}")
    return Cluster(members, similarity)


def choose(members: int, target: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` others of a cluster as context for member `target`, in random order; all others when there are fewer."""
    others = np.delete(np.arange(members), target)
    return rng.permutation(others)[:count].tolist()


def check_distinct(
    cluster: Cluster, target: int, chosen: Sequence[int], pictures: Sequence[np.ndarray], threshold: float
) -> None:
    """The guarantee of stage 1, held where it matters: no context picture gives the target away.

    `pictures` are those of the target and then of `chosen`, as the model sees them. Raises RecordError where one is the
    target's own or at least `threshold` alike.
    """
    for member, picture in zip(chosen, pictures[1:], strict=True):
        similarity = cluster.similarity[target, member]
        if not similarity < threshold:
            alike = f"are {similarity:.4f} alike, and the near-duplicate threshold is {threshold:.4f}"
        elif np.array_equal(picture, pictures[0]):
            alike = "are the same picture"
        else:
            continue
        raise RecordError(f"members {target} and {member} of the cluster {alike}: run the retrieval again")
