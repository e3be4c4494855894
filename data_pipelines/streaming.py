"""Prepared data sets streamed with tf.data: the loader for data that does not fit in memory. The only use of TensorFlow
for training.

The position in the stream gives the data set (data_pipelines/mixture.py), how often that one came before gives the
epoch and the place in it, and a stateless shuffle of that epoch gives the example. So any position is reached at once,
and each example of a data set is seen once an epoch. tf.data runs the work in its own threads and keeps it in order;
an example is read, decoded and packed in one call there, by the same functions as everywhere, which hold Python's lock
only between the pictures.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells at its import what it lacks; nobody here needs it
import tensorflow as tf
from ml_collections import ConfigDict

from data_pipelines.datasets import DataSet, open_datasets
from data_pipelines.instruction import Instruction, Layout, pack
from data_pipelines.loader import PREFETCH, Loader, LoaderError
from data_pipelines.records import RecordError
from data_pipelines.text import Tokenizer
from data_pipelines.wording import Example
from imagen_jax.types import Batch, Context, Text

# image, text tokens and mask, context images, their text tokens and mask, context mask
_PACKED = (tf.uint8, tf.int32, tf.bool, tf.uint8, tf.int32, tf.bool, tf.bool)

_unfinished: weakref.WeakSet = weakref.WeakSet()  # TensorFlow aborts, or hangs, when Python ends under its threads


@atexit.register
def _close_unfinished():
    for batches in list(_unfinished):
        batches.close()


def open_records(
    data: ConfigDict, split: str, seed: int, layout: Layout, tokenizer: Tokenizer, mixture, process: tuple[int, int]
) -> StreamingLoader:
    """The loader over the data sets data.records/NAME that the mixture names; arguments as of Loader.

    Raises RecordError for damaged shards, LoaderError for data sets that are missing or do not fit the model.
    """
    if not data.records:
        raise LoaderError("data.records is empty: name the folder of the data sets, such as data/records")
    ratios = {name: data.mixture[name] for name in mixture.tasks}
    mixture, datasets = open_datasets(
        Path(data.records), ratios, split, seed, data.allow_missing, layout, tokenizer
    )  # fmt: skip
    return StreamingLoader(datasets, seed, mixture=mixture, tokenizer=tokenizer, layout=layout, process=process)


class StreamingLoader(Loader):
    """Streams data sets, in the order of the mixture's names, in its proportions."""

    def __init__(self, datasets: list[DataSet], seed: int, **common):
        super().__init__(**common)
        tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
        self._datasets = datasets
        self._totals = np.array([len(dataset) for dataset in datasets], np.int64)
        # Well mixed: under keys of small numbers the shuffle leaves much in its place.
        states = [np.random.SeedSequence((seed, task)).generate_state(2) for task in range(len(self.tasks))]
        self._seeds = np.array(states, np.int64)  # [tasks, 2]
        self._failure: ValueError | None = None

    def example(self, i: int, task: str | None = None) -> Example:
        number = self._task_number(i, task)
        occurrence = int(self.mixture.occurrence(i)) if task is None else i
        found, epoch = (part.numpy()[0] for part in self._shuffle(np.array([number]), np.array([occurrence], np.int64)))
        return self._example(number, int(found), int(epoch))

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        part, cores = len(self._local(0, size)), os.cpu_count() or 1
        first, within = start + part * self.process_index, tf.range(part, dtype=tf.int64)
        dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // size).map(lambda step: first + step * size + within)
        dataset = dataset.map(self._locate).unbatch().map(self._make, num_parallel_calls=cores)
        options = tf.data.Options()
        options.threading.private_threadpool_size = cores
        options.autotune.enabled = False
        dataset = dataset.batch(part, drop_remainder=True).prefetch(PREFETCH).with_options(options)
        batches = self._to_batches(iter(dataset))
        _unfinished.add(batches)
        return batches

    def _locate(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Stream positions [n] -> the same, data set numbers, example numbers inside the set, epochs."""
        look_up = lambda i: (self.mixture.task(i), self.mixture.occurrence(i))  # noqa: E731
        tasks, occurrences = tf.numpy_function(look_up, [indices], (tf.int64, tf.int64))
        tasks, occurrences = tf.ensure_shape(tasks, [None]), tf.ensure_shape(occurrences, [None])
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

    def _example(self, task: int, number: int, epoch: int) -> Example:
        try:
            return self._datasets[task].example(number, epoch)
        except ValueError as error:
            raise RecordError(f"{self._datasets[task].where(number)}: {error}") from error

    def _make(self, index: tf.Tensor, task: tf.Tensor, number: tf.Tensor, epoch: tf.Tensor) -> tuple:
        """One example, packed."""
        arrays = tf.numpy_function(self._pack_guarded, [task, number, epoch], _PACKED)
        layout = self.layout
        length, slots, words = layout.text_length, layout.max_references, layout.reference_text_length
        picture = [layout.image_size, layout.image_size, 3]
        shapes = picture, [length], [length], [slots, *picture], [slots, words], [slots, words], [slots]
        return index, task, *(tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True))

    def _pack_guarded(self, task: np.ndarray, number: np.ndarray, epoch: np.ndarray) -> tuple:
        """Keeps an error for `_to_batches` and returns blanks instead: TensorFlow would make pages of it."""
        try:
            return self._pack(int(task), int(number), int(epoch))
        except ValueError as error:
            self._failure = self._failure or error
            size = self.layout.image_size
            return self._flatten(Example(Instruction("nothing"), np.zeros((size, size, 3), np.uint8), ""))

    def _pack(self, task: int, number: int, epoch: int) -> tuple:
        example = self._example(task, number, epoch)
        try:
            return self._flatten(example)
        except ValueError as error:
            raise RecordError(f"{self._datasets[task].where(number)}: {error}") from error

    def _flatten(self, example: Example) -> tuple:
        """Packed arrays in the order of _PACKED."""
        text, context = pack(example.instruction, self.tokenizer, self.layout)
        words = context.text.tokens, context.text.mask
        return example.target, text.tokens, text.mask, context.images, *words, context.mask

    def _to_batches(self, elements: Iterator) -> Iterator[Batch]:
        try:
            for element in elements:
                if self._failure:
                    raise self._failure
                index, task, image, tokens, mask, images, context_tokens, context_text_mask, filled = (
                    tensor.numpy() for tensor in element
                )
                context = Context(images, Text(context_tokens, context_text_mask), filled)
                yield Batch(image, Text(tokens, mask), context, task.astype(np.int32), index)
        except tf.errors.OpError as error:
            raise RecordError(f"a record cannot be read: {error.message.splitlines()[0]}") from None
