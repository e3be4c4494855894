"""The last steps of the retrieval pipeline: clusters to record shards, and all counts to one file (paper section 3).

A shard is a function of its clusters alone: which shard a cluster goes to follows from its seed's key, its place there
from the order of keys, and its pictures are the files that lie in the blocks.
"""

import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_pipelines.record_writer import SplitWriter
from data_pipelines.records import sha256
from data_pipelines.retrieval.blocks import WorkFolder
from data_pipelines.retrieval.clusters import Cluster, Member, encode_cluster
from data_pipelines.retrieval.pairs import KEPT
from data_pipelines.retrieval.selection import Draft

WRITE = "write"
RECORDS = "records"  # folder of the work folder that becomes the output


def split_of(draft: Draft) -> str:
    """The split of a cluster: that of all its members."""
    return draft.pairs[0].split


def place(draft: Draft, clusters: Mapping[str, int], per_shard: int) -> tuple[tuple[str, int, int], Draft]:
    """The cluster under (split, its shard, number of shards); `clusters` are their numbers by split."""
    split = split_of(draft)
    shards = -(-clusters[split] // per_shard)
    return (split, zlib.crc32(draft.pairs[0].key.encode()) % shards, shards), draft


def write_shard(group: tuple[tuple[str, int, int], Iterable[Draft]], work: WorkFolder) -> tuple[list, Counter]:
    """Write one shard, beside and renamed; gives (split, file, records, sha256)."""
    (split, number, _), drafts = group[0], sorted(group[1], key=lambda draft: draft.pairs[0].key)
    folder = work.path / RECORDS / split
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{number:05d}.array_record"
    with tempfile.TemporaryDirectory(dir=work.path) as temporary:  # what a failed try leaves is no part of the output
        writer = SplitWriter(Path(temporary), split, shard_records=len(drafts))
        for draft in drafts:
            writer.write(encode_cluster(_fetch(draft, work)))
        writer.close()
        [written] = Path(temporary).iterdir()
        os.replace(written, file)
    return [(split, file.name, len(drafts), sha256(file))], Counter({(WRITE, KEPT): len(drafts)})


def _fetch(draft: Draft, work: WorkFolder) -> Cluster:
    members = (Member(pair.caption, work.picture(pair.block, pair.number), pair.url, pair.key) for pair in draft.pairs)
    return Cluster(tuple(members), draft.similarity)
