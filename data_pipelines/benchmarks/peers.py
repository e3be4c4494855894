"""What the streaming loader is measured against: a plain PyTorch DataLoader, or a process pool where torch is absent.

Both read the same records with the same tokenizer and packing, and decode with Pillow and LANCZOS, as is usual.
"""

import itertools
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from data_pipelines import records
from data_pipelines.benchmarks.decode import with_pillow
from data_pipelines.instruction import Layout, pack
from data_pipelines.records import RecordReader
from data_pipelines.text import load_tokenizer

_SPAWN = multiprocessing.get_context("spawn")  # TensorFlow's threads run already: a fork may hang
Clock = dict[int, float]  # process id -> its CPU seconds so far


class PillowRecords:
    """A map-style dataset: packed arrays of example i, then the process that made it and its CPU seconds."""

    def __init__(self, folder: Path, layout: Layout):
        self._folder, self._layout = folder, layout

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, i: int) -> tuple:
        size = self._layout.image_size
        example = records.decode(self._reader.read(i % len(self)), lambda file: with_pillow(file, size))
        text, context = pack(example.instruction, self._tokenizer, self._layout)
        words = context.text.tokens, context.text.mask
        arrays = example.target, text.tokens, text.mask, context.images, *words, context.mask
        return *(np.array(array) for array in arrays), os.getpid(), time.process_time()

    def __getstate__(self) -> dict:
        return {"_folder": self._folder, "_layout": self._layout}  # each process opens the shards itself

    @cached_property
    def _reader(self) -> RecordReader:
        return RecordReader(self._folder / "train", "train")

    @cached_property
    def _tokenizer(self):
        return load_tokenizer()


def open_peer(folder: Path, layout: Layout, size: int, workers: int) -> tuple[str, Iterator[Clock]]:
    """Its name, and endless batches of `size`: of each, the clock of the process that made it."""
    dataset = PillowRecords(folder, layout)
    try:
        import torch.utils.data
    except ImportError:
        return "pool, Pillow", _pool(dataset, size, workers)
    order = [i for _, i in zip(range(1 << 20), itertools.cycle(range(len(dataset))), strict=False)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=size, sampler=order, num_workers=workers, multiprocessing_context=_SPAWN
    )
    return "DataLoader", ({int(batch[-2][-1]): float(batch[-1][-1])} for batch in loader)


def _pool(dataset: PillowRecords, size: int, workers: int) -> Iterator[Clock]:
    with ProcessPoolExecutor(workers, mp_context=_SPAWN) as pool:
        ahead: deque = deque()
        for start in itertools.count(0, size):
            ahead.append(pool.submit(_stack, dataset, range(start, start + size)))
            if len(ahead) > 2 * workers:  # as far ahead as a DataLoader goes
                yield {(batch := ahead.popleft().result())[-2][-1]: batch[-1][-1]}


def _stack(dataset: PillowRecords, indices: range) -> list[np.ndarray]:
    return [np.stack(column) for column in zip(*(dataset[i] for i in indices), strict=True)]
