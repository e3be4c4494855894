"""Record shards streamed with tf.data: the loader for data that does not fit in memory. The only use of TensorFlow.

The position in the stream gives the task (data_pipelines/mixture.py), how often that task came before gives the epoch
and the place in it, and a stateless shuffle of that epoch gives the record. So any position is reached at once, and
each record of a task is seen once an epoch. TensorFlow decodes; words and pictures are packed by the same
`instruction.pack` as everywhere.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipelines import records
from data_pipelines.images import fit_image
from data_pipelines.instruction import Instruction, pack
from data_pipelines.loader import PREFETCH, Loader, LoaderError
from data_pipelines.records import RecordError, RecordReader
from data_pipelines.wording import Example
from imagen_jax.types import Batch, Context, Text

# image, text tokens and mask, context images, their text tokens and mask, context mask
_PACKED = (tf.uint8, tf.int32, tf.bool, tf.uint8, tf.int32, tf.bool, tf.bool)

_unfinished: weakref.WeakSet = weakref.WeakSet()  # TensorFlow aborts, or hangs, when Python ends under its threads


@atexit.register
def _close_unfinished():
    for batches in list(_unfinished):
        batches.close()


def open_records(folder: str, split: str, seed: int, **common) -> StreamingLoader:
    """The loader over FOLDER/SPLIT, as `prepare records` writes it; `common` are the arguments of Loader.

    Raises RecordError for missing or damaged shards, LoaderError for a task that they do not hold.
    """
    if not folder:
        raise LoaderError("data.records is empty: name the folder made by `python -m data_pipelines.prepare records`")
    return StreamingLoader(RecordReader(Path(folder) / split, split), seed, **common)


class StreamingLoader(Loader):
    """Streams the records of a RecordReader in the proportions of the mixture."""

    def __init__(self, reader: RecordReader, seed: int, **common):
        super().__init__(**common)
        for task in self.tasks:
            if not reader.counts.get(task):
                held = ", ".join(sorted(reader.counts)) or "nothing"
                raise LoaderError(f"data.mixture.{task}: the records hold {held}: remove the task, or write it too")
        tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
        self._reader = reader
        self._totals = np.array([reader.counts[task] for task in self.tasks], np.int64)
        # Well mixed: under keys of small numbers the shuffle leaves much in its place.
        states = [np.random.SeedSequence((seed, task)).generate_state(2) for task in range(len(self.tasks))]
        self._seeds = np.array(states, np.int64)  # [tasks, 2]
        self._failure: ValueError | None = None

    def example(self, i: int, task: str | None = None) -> Example:
        number = int(self.mixture.task(i)) if task is None else self.tasks.index(task)
        occurrence = int(self.mixture.occurrence(i)) if task is None else i
        (record,) = self._shuffle(np.array([number]), np.array([occurrence], np.int64)).numpy()
        return records.decode(self._reader.read(self.tasks[number], int(record)))

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        part = len(self._local(0, size))
        first, within = start + part * self.process_index, tf.range(part, dtype=tf.int64)
        dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // size).map(lambda step: first + step * size + within)
        dataset = dataset.map(self._locate).map(self._read, num_parallel_calls=2).unbatch()
        dataset = dataset.map(self._make, num_parallel_calls=tf.data.AUTOTUNE).batch(part, drop_remainder=True)
        batches = self._to_batches(iter(dataset.prefetch(PREFETCH)))
        _unfinished.add(batches)
        return batches

    def _locate(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Stream positions [n] -> the same, task ids, record numbers inside the task."""
        look_up = lambda i: (self.mixture.task(i), self.mixture.occurrence(i))  # noqa: E731
        tasks, occurrences = tf.numpy_function(look_up, [indices], (tf.int64, tf.int64))
        tasks, occurrences = tf.ensure_shape(tasks, [None]), tf.ensure_shape(occurrences, [None])
        return indices, tasks, self._shuffle(tasks, occurrences)

    def _shuffle(self, tasks: tf.Tensor, occurrences: tf.Tensor) -> tf.Tensor:
        """Task ids and occurrences in the stream [n] -> record numbers, a new permutation each epoch."""
        totals = tf.gather(self._totals, tasks)
        seeds = tf.gather(self._seeds, tasks)  # [n, 2]
        return tf.raw_ops.RandomIndexShuffle(  # tf.random.experimental.index_shuffle cannot take a seed an element
            index=occurrences % totals,
            seed=tf.concat([seeds, (occurrences // totals)[:, None]], axis=1),
            max_index=totals - 1,
            rounds=8,
        )

    def _read(self, indices: tf.Tensor, tasks: tf.Tensor, numbers: tf.Tensor) -> tuple:
        """Adds each record's JSON [n] and picture files [n, 1 + K], '' in empty slots."""
        headers, files = tf.numpy_function(
            self._guarded(self._read_parts, self._no_parts), [tasks, numbers], (tf.string, tf.string)
        )
        count = 1 + self.layout.max_references
        return indices, tasks, tf.ensure_shape(headers, [None]), tf.ensure_shape(files, [None, count])

    def _read_parts(self, tasks: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        headers, files = self._no_parts(tasks, numbers)
        for row, (task, number) in enumerate(zip(tasks, numbers, strict=True)):
            headers[row], *pictures = records.split_parts(self._reader.read(self.tasks[task], int(number)))
            if len(pictures) > files.shape[1]:
                raise RecordError(
                    f"record {number} of {self.tasks[task]} has {len(pictures) - 1} references, more than "
                    f"data.max_references={self.layout.max_references}: raise that, or write records with fewer"
                )
            files[row, : len(pictures)] = pictures
        return headers, files

    def _no_parts(self, tasks: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(tasks)
        return np.full(count, b"", object), np.full((count, 1 + self.layout.max_references), b"", object)

    def _make(self, index: tf.Tensor, task: tf.Tensor, header: tf.Tensor, files: tf.Tensor) -> tuple:
        """One example: decode in TensorFlow, then pack."""
        pictures = [_decode(files[slot]) for slot in range(1 + self.layout.max_references)]
        packed = tf.numpy_function(self._guarded(self._pack, self._pack_nothing), [header, *pictures], _PACKED)
        return index, task, *packed

    def _pack(self, header: bytes, *pictures: np.ndarray) -> tuple:
        example = records.assemble(header, [picture for picture in pictures if picture.size])
        return self._flatten(example.instruction, example.target)

    def _pack_nothing(self, *arguments) -> tuple:
        return self._flatten(Instruction("nothing"), np.zeros((1, 1, 3), np.uint8))

    def _flatten(self, instruction: Instruction, target: np.ndarray) -> tuple:
        """Packed arrays in the order of _PACKED."""
        text, context = pack(instruction, self.tokenizer, self.layout)
        image = fit_image(target, self.layout.image_size)
        words = context.text.tokens, context.text.mask
        return image, text.tokens, text.mask, context.images, *words, context.mask

    def _guarded(self, function: Callable, blank: Callable) -> Callable:
        """Keeps an error for `_to_batches` and returns `blank` instead: TensorFlow would make pages of it."""

        def call(*arguments):
            try:
                return function(*arguments)
            except ValueError as error:
                self._failure = self._failure or error
                return blank(*arguments)

        return call

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


def _decode(file: tf.Tensor) -> tf.Tensor:
    """A PNG, JPEG or WebP file -> [h, w, 3] uint8; '' -> no pixels."""
    nothing = lambda: tf.zeros([0, 0, 3], tf.uint8)  # noqa: E731
    picture = lambda: tf.io.decode_image(file, channels=3, expand_animations=False)  # noqa: E731
    return tf.cond(tf.strings.length(file) > 0, picture, nothing)
