"""The arms of an evaluation: one case drawn with its own references, with another case's, with none, with only one.

The paper's claim is that the references are followed, several at once (section 4). Text alone already tells a part of
the answer, so every case is drawn again without what is claimed to matter; its noise is the same in every arm.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict

from data_pipelines.instruction import Layout, pack
from data_pipelines.suites import ZERO_SHOT, Case
from data_pipelines.text import Tokenizer
from imagen_jax import cascade, grid, partition, samplers
from imagen_jax.runs import Run
from imagen_jax.types import Context, Text

MODEL, SHUFFLED, TEXT_ONLY = "model", "shuffled", "text_only"  # drawn by the model
COPY, REAL = "copy", "real"  # taken from the case

Pictures = UInt8[np.ndarray, "N S S 3"]


def alone(slot: int) -> str:
    """The arm that keeps only the reference of `slot`, from 1 on."""
    return f"only_{slot}"


def drawn_arms(cases: Sequence[Case], reads_references: bool) -> tuple[str, ...]:
    """The arms of a suite that the model draws; where no reference is read, every other arm would equal the first.

    A suite that joins conditions as no training task did is also drawn with each of its references alone.
    """
    slots = max(len(case.example.instruction.references) for case in cases)
    if not (slots and reads_references):
        return (MODEL,)
    shuffled = (SHUFFLED,) if len(cases) > 1 else ()  # a lone case has nobody to take references from
    joined = cases[0].suite in ZERO_SHOT and slots > 1
    return (MODEL, *shuffled, TEXT_ONLY, *(alone(slot) for slot in range(1, slots + 1) if joined))


def taken_arms(cases: Sequence[Case]) -> dict[str, Pictures]:
    """The arms that need no model: the real targets, and the reference that copying would return, if there is one."""
    arms = {REAL: np.stack([case.example.target for case in cases])}
    references = [case.example.instruction.references for case in cases]
    if all(references):
        arms[COPY] = np.stack([r[case.wanted.copy].image for r, case in zip(references, cases, strict=True)])
    return arms


def pack_cases(cases: Sequence[Case], tokenizer: Tokenizer, layout: Layout) -> tuple[Text, Context]:
    """What the model reads for each case: [N, L] and [N, K, ...], by the function that packs training examples."""
    packed = [pack(case.example.instruction, tokenizer, layout) for case in cases]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *packed)


def context_of(arm: str, context: Context) -> Context:
    """The references [N, K, ...] that an arm shows; all arms have one shape, so one compiled sampler draws them all.

    `shuffled`: case i gets the references of case i - 1, which may by chance ask for the same style.
    """
    if arm == MODEL:
        return context
    if arm == SHUFFLED:
        return jax.tree.map(lambda leaf: np.roll(leaf, 1, axis=0), context)
    kept = [alone(slot) == arm for slot in range(1, context.mask.shape[1] + 1)]  # none for text_only
    return context.replace(mask=context.mask & np.array(kept))


def draw(
    run: Run,
    sample: ConfigDict,
    mesh: Mesh,
    inputs: tuple[Text, Context],
    indices: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    tell: Callable[[int], None],
) -> Pictures:
    """The base model's picture of each packed instruction.

    Args:
      run, sample: the run, and the `sample` section of a config.
      inputs: [N, ...], from `pack_cases` and `context_of`.
      indices: [N] the cases' numbers: picture i depends on (seed, indices[i]) and its instruction alone.
      batch_size: pictures drawn at once; the last batch is filled up with its last case, so that all compile to one.
      tell: called with the number of new pictures after each batch.

    Raises:
      PartitionError: the batch does not divide over the mesh.
    """
    count, pictures = len(indices), []
    for start in range(0, count, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        part = jax.tree.map(lambda leaf: leaf[rows], (*inputs, indices.astype(np.int32)))
        text, context, numbers = partition.shard_batch(part, mesh)
        keys = samplers.sample_keys(jax.random.key(seed), numbers)
        drawn = grid.to_uint8(cascade.sample_base(run, sample, text, context, keys))
        pictures.append(drawn[: count - start])
        tell(len(pictures[-1]))
    return np.concatenate(pictures)


def digest(arrays: Any, settings: Mapping | None = None) -> str:
    """A short name of the contents of a tree of arrays, and of plain settings beside it."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        leaf = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        total.update(leaf.tobytes())
    return total.hexdigest()[:16]
