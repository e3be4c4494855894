"""Prepared data sets streamed at scale: the loader for data that does not fit in memory. Its only use of TensorFlow.

tf.data says what comes: the position in the stream gives the data set (data_pipelines/mixture.py), how often that one
came before gives the epoch and the place in it, and a stateless shuffle of that epoch gives the example. So any
position is reached at once, and each example of a data set is seen once an epoch. Python's threads do the work: they
read, decode and pack by the same functions as everywhere, and hold Python's lock only between the pictures. (The same
calls from inside tf.data took a tenth more CPU time: `python -m data_pipelines.benchmarks loader`.)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells at its import of libraries that it lacks,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # and of some that it uses: nobody here needs to know
import tensorflow as tf
from ml_collections import ConfigDict

from data_pipelines.datasets import DataSet, open_datasets
from data_pipelines.features import DTYPES
from data_pipelines.instruction import Layout
from data_pipelines.loader import PREFETCH, Loader, LoaderError
from data_pipelines.mixture import PERIOD, Mixture
from data_pipelines.records import RecordError
from data_pipelines.text import Tokenizer
from data_pipelines.wording import Example
from imagen_jax.types import Batch, Context, Text


def open_records(
    data: ConfigDict, split: str, seed: int, *, mixture: Mixture, layout: Layout, tokenizer: Tokenizer, **common
) -> StreamingLoader:
    """The loader over the data sets data.records/NAME that the mixture names; keyword arguments as of Loader.

    Raises RecordError for damaged shards, LoaderError for data sets that are missing or do not fit the model.
    """
    if not data.records:
        raise LoaderError("data.records is empty: name the folder of the data sets, such as data/records")
    ratios = {name: data.mixture[name] for name in mixture.tasks}
    mixture, datasets = open_datasets(Path(data.records), ratios, split, seed, data.allow_missing, layout, tokenizer)
    return StreamingLoader(datasets, seed, mixture=mixture, layout=layout, tokenizer=tokenizer, **common)


class StreamingLoader(Loader):
    """Streams data sets, in the order of the mixture's names, in its proportions."""

    def __init__(self, datasets: list[DataSet], seed: int, **common):
        super().__init__(**common)
        tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
        self._datasets = datasets
        about = datasets[0].reader.manifest.get("text_features", {})  # the same in all: open_datasets
        self._feature_dtype = DTYPES.get(about.get("dtype"))
        self._totals = np.array([len(dataset) for dataset in datasets], np.int64)
        # Well mixed: under keys of small numbers the shuffle leaves much in its place.
        states = [np.random.SeedSequence((seed, task)).generate_state(2) for task in range(len(self.tasks))]
        self._seeds = np.array(states, np.int64)  # [tasks, 2]

    def example(self, i: int, task: str | None = None) -> Example:
        number = self._task_number(i, task)
        occurrence = int(self.mixture.occurrence(i)) if task is None else i
        place = self._shuffle(np.array([number]), np.array([occurrence], np.int64))
        return self._read(number, *(int(part[0]) for part in place))

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        part = len(self._local(0, size))
        first, within = start + part * self.process_index, tf.range(part, dtype=tf.int64)
        dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // size).map(lambda step: first + step * size + within)
        return self._make(dataset.map(self._locate).prefetch(PREFETCH).as_numpy_iterator())

    def _locate(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Stream positions [n] -> the same, data set numbers, example numbers inside the set, epochs."""
        slots = indices % PERIOD
        tasks = tf.gather(self.mixture.slots, slots)
        occurrences = indices // PERIOD * tf.gather(self.mixture.counts, tasks) + tf.gather(self.mixture.before, slots)
        return indices, tasks, *self._shuffle(tasks, occurrences)

    def _shuffle(self, tasks: tf.Tensor, occurrences: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data sets and occurrences in the stream [n] -> example numbers, a new permutation each epoch; and epochs."""
        totals = tf.gather(self._totals, tasks)
        epochs = occurrences // totals
        numbers = tf.raw_ops.RandomIndexShuffle(  # tf.random.experimental.index_shuffle cannot take a seed an element
            index=occurrences % totals,
            seed=tf.concat([tf.gather(self._seeds, tasks), epochs[:, None]], axis=1),
            max_index=totals - 1,
            rounds=8,
        )
        return numbers, epochs

    def _make(self, places: Iterator[tuple[np.ndarray, ...]]) -> Iterator[Batch]:
        """Batches of the examples at `places`, in their order; PREFETCH of them are in work beside the one awaited."""
        ahead: deque[tuple[Batch, list[Future]]] = deque()
        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        try:
            for indices, tasks, numbers, epochs in places:
                batch = self._blank(indices, tasks)
                rows = enumerate(zip(tasks.tolist(), numbers.tolist(), epochs.tolist(), strict=True))
                ahead.append((batch, [pool.submit(self._fill, batch, row, *place) for row, place in rows]))
                if len(ahead) > PREFETCH:
                    batch, work = ahead.popleft()
                    for row in work:
                        row.result()
                    yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _blank(self, indices: np.ndarray, tasks: np.ndarray) -> Batch:
        layout, count = self.layout, len(indices)
        side, slots = layout.image_size, layout.max_references

        def text(*shape: int) -> Text:
            width = layout.feature_width
            features = np.empty((*shape, width), self._feature_dtype) if width else None
            return Text(np.empty(shape, np.int32), np.empty(shape, bool), features)

        context = Context(
            images=np.empty((count, slots, side, side, 3), np.uint8),
            text=text(count, slots, layout.reference_text_length),
            mask=np.empty((count, slots), bool),
        )
        image = np.empty((count, side, side, 3), np.uint8)
        return Batch(image, text(count, layout.text_length), context, tasks.astype(np.int32), indices)

    def _fill(self, batch: Batch, row: int, task: int, number: int, epoch: int) -> None:
        """Put one packed example into its row."""
        example = self._read(task, number, epoch)
        try:
            text, context = self._pack(example, int(batch.index[row]))
        except ValueError as error:
            raise RecordError(f"{self._datasets[task].where(number)}: {error}") from error
        batch.image[row] = example.target
        for whole, one in ((batch.text, text), (batch.context, context)):
            for into, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(one), strict=True):
                into[row] = leaf

    def _read(self, task: int, number: int, epoch: int) -> Example:
        dataset = self._datasets[task]
        try:
            return dataset.example(number, epoch)
        except ValueError as error:
            raise RecordError(f"{dataset.where(number)}: {error}") from error
