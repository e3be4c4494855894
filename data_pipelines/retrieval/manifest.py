"""What the retrieval pipeline says about its output: counts that add up, settings, checksums, licences (section 3).

The flow is checked before the output appears: whatever a step keeps is what the next one sorts into kept and dropped.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from data_pipelines.corpus import SPLITS
from data_pipelines.record_writer import write_manifest
from data_pipelines.records import Shard
from data_pipelines.retrieval.blocks import READ
from data_pipelines.retrieval.pairs import EMBED, KEPT, QUALITY
from data_pipelines.retrieval.selection import (
    CAPTIONS,
    CLUSTERS,
    DOMAINS,
    DUPLICATES,
    NEIGHBORS,
    PICTURES,
    SEEDS,
    SIZE,
)
from data_pipelines.retrieval.settings import Settings
from data_pipelines.retrieval.writing import WRITE

FLOW = (  # step, what it counts, the step whose `kept` it reads
    (READ, "pairs", ""),
    (QUALITY, "pairs", READ),
    (EMBED, "pairs", QUALITY),
    (PICTURES, "pairs", EMBED),
    (CAPTIONS, "pairs", PICTURES),
    (DOMAINS, "pairs", CAPTIONS),
    (SEEDS, "pairs", DOMAINS),
    (NEIGHBORS, "candidates", ""),
    (DUPLICATES, "candidates", NEIGHBORS),
    (SIZE, "clusters", SEEDS),
    (CLUSTERS, "clusters", SIZE),
    (WRITE, "clusters", CLUSTERS),
)


class CountError(ValueError):
    """Something was lost or doubled between two steps; one line."""


def flow(counts: Mapping[tuple[str, str], int]) -> list[dict]:
    """The steps in order, each {step, unit, read, kept, dropped: {reason: n}}. Raises CountError."""
    steps = {}
    for step, unit, before in FLOW:
        outcomes = {outcome: n for (name, outcome), n in sorted(counts.items()) if name == step}
        read, kept = sum(outcomes.values()), outcomes.pop(KEPT, 0)
        steps[step] = {"step": step, "unit": unit, "read": read, "kept": kept, "dropped": outcomes}
        if before and steps[step]["read"] != steps[before]["kept"]:
            lost = f"'{before}' kept {steps[before]['kept']}, '{step}' read {steps[step]['read']}"
            raise CountError(f"{lost}: the input changed while it was read: delete the work folder and run again")
    return list(steps.values())


def table(steps: Sequence[Mapping]) -> str:
    """The flow as lines to read."""
    lines = [f"{'step':<18}{'unit':<12}{'read':>12}{'kept':>12}{'dropped':>12}"]
    for each in steps:
        dropped = sum(each["dropped"].values())
        lines.append(f"{each['step']:<18}{each['unit']:<12}{each['read']:>12,}{each['kept']:>12,}{dropped:>12,}")
        lines += [f"  {reason:<52}{n:>14,}" for reason, n in each["dropped"].items()]
    return "\n".join(lines)


def write_manifests(folder: Path, result: Mapping, settings: Settings, embedder: Mapping) -> list[dict]:
    """Write manifest.json of the data set and of each split below `folder`; returns the flow.

    result: what the pipeline's last step wrote: counts, shards, licences.
    """
    counts = {(step, outcome): n for step, outcome, n in result["counts"]}
    steps = flow(counts)
    shards = defaultdict(list)
    for split, *fields in sorted(result["shards"]):
        shards[split].append(Shard(*fields))
    common = {
        "kind": "clusters",
        "threshold": settings.sameness.similarity,
        "pixel_distance": settings.sameness.pixels,
        "members": settings.members,
        "size": settings.size,
    }
    for split in SPLITS:
        (folder / split).mkdir(exist_ok=True)
        clusters = sum(shard.count for shard in shards[split])
        write_manifest(folder / split, split, shards[split], **common, clusters=clusters)
    whole = common | {
        "embedder": embedder,
        "settings": describe(settings),
        "steps": steps,
        "clusters": {split: sum(shard.count for shard in shards[split]) for split in SPLITS},
        "pairs_by_domain": _tally(counts, "pairs of"),
        "clusters_by_domain": _tally(counts, "clusters of"),
        "pictures_by_licence": {name or "not stated": n for name, n in result["licences"]},
        "shards": {split: [asdict(shard) for shard in shards[split]] for split in SPLITS},
    }
    if leftover := counts.get(("embeddings", "without a pair")):
        whole["embeddings_without_a_pair"] = leftover
    (folder / "manifest.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return steps


def describe(settings: Settings) -> dict:
    """The settings without the places that output and work happen to have."""
    fields = asdict(settings)
    for name in ("output", "work", "cache"):
        del fields[name]
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


def _tally(counts: Mapping[tuple[str, str], int], name: str) -> dict[str, int]:
    return {outcome: n for (step, outcome), n in sorted(counts.items()) if step == name}
