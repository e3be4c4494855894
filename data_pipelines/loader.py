"""Batches of packed instructions, where example i is a function of (seed, i) alone (the data of paper section 4.1).

So a run resumes at any position at once, batch size and host count do not change the stream, and two runs with one
seed see the same examples. The memory loader keeps a small corpus as an image pool and needs no TensorFlow; the
streaming loader (data_pipelines/streaming.py) reads record shards.
"""

import abc
import dataclasses
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.corpus import Corpus, load_corpus
from data_pipelines.examples import ExampleMaker
from data_pipelines.images import fit_image
from data_pipelines.instruction import Instruction, Layout, pack
from data_pipelines.mixture import Mixture
from data_pipelines.pairs import HELD_OUT_STYLE
from data_pipelines.tasks import TASKS
from data_pipelines.text import Tokenizer, load_tokenizer
from data_pipelines.wording import Example, renumber, tell_once, unname
from imagen_jax.types import Batch, Context, Text

LOADERS = ("memory", "records")
OF_MEMORY = dict(instructions=True, augment=True, told_styles=0.0)  # keys of `data` that the other loader cannot heed
PREFETCH = 2  # batches made ahead
MARKERS = 3  # numbers that training deals markers from: as many as suites need that join what tasks show apart
TOLD_ONCE = 0.3  # share of training instructions that say what a picture is for in one place, not in two
UNNAMED = 0.5  # share of the training instructions of `subject` that leave it to the pictures what it is
SEEDS = 1 << 63


class LoaderError(ValueError):
    """Data settings that cannot work; one line that names the key and the mend."""


class Loader(abc.ABC):
    """An endless stream of examples with random access.

    With `telling_seed` instructions are told anew before they are packed, as training wants it: some with each role
    told once only, half of those of a subject without its name, and all under other markers: one that always stood for
    one role, as [ref#2] did for a transfer's content, would be read as that role in every instruction.

    Attributes:
      tasks: names of the tasks, or of the data sets; Batch.task holds positions in it.
    """

    def __init__(
        self, mixture: Mixture, tokenizer: Tokenizer, layout: Layout, process: tuple[int, int] = (0, 1),
        telling_seed: int | None = None,
    ):  # fmt: skip
        self.mixture, self.tokenizer, self.layout, self._telling_seed = mixture, tokenizer, layout, telling_seed
        self.process_index, self.process_count = process
        self.tasks = mixture.tasks

    @abc.abstractmethod
    def example(self, i: int, task: str | None = None) -> Example:
        """Example `i` of the stream; with `task`, example `i` of that task alone."""

    def subject(self, i: int, task: str) -> str:
        """The root subject that the target of example `i` of a task shows, '' where that is not known."""
        return ""

    def batch(self, start: int, size: int, task: str | None = None) -> Batch:
        """Examples start ... start + size - 1, whole on every host."""
        return self._collate(range(start, start + size), task)

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Endless batches of global size `size` from example `start` on, made ahead in a thread.

        Each host gets its own contiguous part, size / process_count examples. Raises LoaderError where that does not
        divide. Errors of the thread are raised here; closing the iterator ends the thread.
        """
        self._local(0, size)
        return prefetch(self._collate(indices) for indices in self._positions(start, size))

    def _task_number(self, i: int, task: str | None) -> int:
        return int(self.mixture.task(i)) if task is None else self.tasks.index(task)

    def _positions(self, start: int, size: int) -> Iterator[range]:
        while True:
            yield self._local(start, size)
            start += size

    def _local(self, start: int, size: int) -> range:
        """This host's part of the global batch."""
        if size % self.process_count:
            raise LoaderError(
                f"train.batch_size {size} does not divide by {self.process_count} hosts: choose a multiple"
            )
        part = size // self.process_count
        return range(start + part * self.process_index, start + part * (self.process_index + 1))

    def told(self, i: int, task: str | None = None) -> Example:
        """As `example`, with the instruction as it is packed."""
        example = self.example(i, task)
        return dataclasses.replace(example, instruction=self._retell(example, i))

    def _pack(self, example: Example, i: int) -> tuple[Text, Context]:
        return pack(self._retell(example, i), self.tokenizer, self.layout)

    def _retell(self, example: Example, i: int) -> Instruction:
        """The instruction of example `i`; one with stored features is told as they were made."""
        instruction = example.instruction
        if self._telling_seed is None or instruction.features is not None:
            return instruction
        rng = random_of(self._telling_seed, 1 << 63 | i)
        numbers = 1 + rng.permutation(max(MARKERS, len(instruction.references)))[: len(instruction.references)]
        once, unnamed = rng.random() / TOLD_ONCE, rng.random() < UNNAMED
        instruction = renumber(instruction, numbers)
        if unnamed and example.task == "subject" and self._fits(told := unname(instruction)):
            instruction = told
        return tell_once(instruction, in_text=once < 0.5) if once < 1 else instruction

    def _fits(self, instruction: Instruction) -> bool:
        """Whether nothing of its text would be cut: "the subject" is longer than some names."""
        return len(self.tokenizer.encode(instruction.text)) <= self.layout.text_length

    def _collate(self, indices: Sequence[int], task: str | None = None) -> Batch:
        examples = [self.example(i, task) for i in indices]
        packed = [self._pack(example, i) for i, example in zip(indices, examples, strict=True)]
        text, context = jax.tree.map(lambda *leaves: np.stack(leaves), *packed)
        return Batch(
            image=np.stack([fit_image(example.target, self.layout.image_size) for example in examples]),
            text=text,
            context=context,
            task=np.array([self._task_number(i, task) for i in indices], np.int32),
            index=np.array(indices, np.int64),
        )


class MemoryLoader(Loader):
    """Makes examples from a corpus in memory, each from its own random stream."""

    def __init__(self, maker: ExampleMaker, seed: int, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self._maker, self._seed = maker, seed

    def example(self, i: int, task: str | None = None) -> Example:
        return self._maker.make(self.tasks[self._task_number(i, task)], random_of(self._seed, i))

    def subject(self, i: int, task: str) -> str:
        return self._maker.subject(task, random_of(self._seed, i))


def random_of(seed: int, stream: int) -> np.random.Generator:
    """One of 2^64 independent random streams of a seed."""
    return np.random.Generator(np.random.Philox(key=seed << 64 | stream))


def make_loader(
    data: ConfigDict, layout: Layout, split: str, seed: int, process_index: int = 0, process_count: int = 1
) -> Loader:
    """The loader that `data` describes, over one split ('train', 'validation' or 'test').

    loader='memory' makes examples of tasks from a corpus, augmented in 'train' alone and only where data.augment is
    True. loader='records' streams the prepared data sets data.records/NAME that the mixture names, with their text
    features where layout.feature_width asks for them.

    Raises ValueError, one line: an unknown loader, a bad mixture, a corpus or data sets that are missing, or a task
    that has nothing to work on there.
    """
    if not 0 <= seed < SEEDS:
        raise LoaderError(f"seed {seed} is outside 0 ... 2^63 - 1: choose another")
    if data.loader not in LOADERS:
        raise LoaderError(f"data.loader '{data.loader}' is none of {', '.join(LOADERS)}")
    mixture = Mixture({task: data.mixture[task] for task in _ordered(data.mixture)}, seed)
    retells = split == "train" and data.get("instructions", True)  # without them only markers tell references apart
    common = dict(
        mixture=mixture, tokenizer=load_tokenizer(data.tokenizer), layout=layout,
        process=(process_index, process_count), telling_seed=seed if retells else None,
    )  # fmt: skip
    chosen = _options_of_memory(data)
    if data.loader == "records":
        return _open_records(data, split, seed, **common)
    maker = open_maker(data.corpus, split, layout, common["tokenizer"], mixture.tasks, **chosen)
    return MemoryLoader(maker, seed, **common)


def _options_of_memory(data: ConfigDict) -> dict:
    """The keys of `data` that the memory loader alone heeds. Raises LoaderError where they cannot be heeded."""
    chosen = {key: data.get(key, usual) for key, usual in OF_MEMORY.items()}  # newer than some runs
    for key, value in chosen.items():
        if data.loader == "records" and value != OF_MEMORY[key]:
            what = "pictures" if key == "augment" else "words"
            raise LoaderError(f"data.{key}={value} is for data.loader='memory': prepared sets have their {what}")
    if not 0 <= chosen["told_styles"] <= 1:
        raise LoaderError(f"data.told_styles={chosen['told_styles']} is no share: choose one from 0 to 1")
    return chosen


def open_maker(
    corpus: str, split: str, layout: Layout, tokenizer: Tokenizer, tasks: Sequence[str] = (), augment: bool = True,
    **options,
) -> ExampleMaker:  # fmt: skip
    """The maker of examples of `tasks`, or of all that a split of a corpus has pairs for. Raises as make_loader."""
    pictures = _select(load_corpus(corpus, layout.image_size), split)
    where = f"split '{split}' of the corpus '{corpus}'"
    options |= dict(max_references=layout.max_references, augment=augment and split == "train", where=where)
    options |= dict(fits=lambda text: len(tokenizer.encode(text)) <= layout.text_length)
    if not tasks:
        every = ExampleMaker(pictures, (), **options)
        tasks = [name for name, task in TASKS.items() if len(task.table(every))]
    if not tasks:
        raise LoaderError(f"{where} has no pair for any task: choose another")
    return ExampleMaker(pictures, tasks, **options)


def _open_records(*arguments, **common) -> Loader:
    try:
        from data_pipelines.streaming import open_records  # the only way to TensorFlow
    except ImportError as error:
        raise LoaderError(
            f"data.loader='records' needs {error.name}, which is not installed: pip install -e .[data], or use 'memory'"
        ) from error
    return open_records(*arguments, **common)


def prefetch(items: Iterator, depth: int = PREFETCH) -> Iterator:
    """Yields `items`, made by a thread that stays at most `depth` ahead."""
    slots: queue.Queue = queue.Queue(depth)
    left = threading.Event()

    def put(item, error):
        while not left.is_set():
            try:
                return slots.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def work():
        try:
            for item in items:
                put(item, None)
                if left.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # whatever it is, it is the consumer's to see
            put(None, error)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            item, error = slots.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        left.set()
        thread.join()


def _ordered(tasks: Mapping[str, float]) -> list[str]:
    """Known tasks in their fixed order, then others by name: ids must not depend on how a config was written."""
    known = list(TASKS)
    return sorted(tasks, key=lambda task: (known.index(task) if task in known else len(known), task))


def _select(corpus: Corpus, split: str) -> Corpus:
    """The pictures of a split but for the held-out style's: those show subjects of every split."""
    shown = ((i, each) for i, each in enumerate(corpus.pictures) if each.style != HELD_OUT_STYLE)
    return corpus.take([i for i, picture in shown if picture.split == split])
