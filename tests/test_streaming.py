"""The streaming loader: equal to the memory path byte for byte, each record once an epoch, any position at once."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

pytest.importorskip("tensorflow")
pytest.importorskip("array_record")

from data_pipelines.instruction import Layout, pack
from data_pipelines.loader import LoaderError, make_loader
from data_pipelines.records import RecordError, RecordWriter
from data_pipelines.text import load_tokenizer
from tests.small_corpus import LAYOUT, make_memory_loader

TASKS = ("text_to_image", "subject")
COUNT = 14  # of each task


@pytest.fixture(scope="module")
def examples():
    memory = make_memory_loader(*TASKS)
    return [memory.example(i, task) for task in TASKS for i in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("records")
    with RecordWriter(path / "train", "train", shard_records=5) as writer:
        for example in examples:
            writer.write(example)
    return path


def stream(folder, layout=LAYOUT, seed=0, tasks=TASKS, process=(0, 1)):
    mixture = {task: 1 / len(tasks) for task in tasks}
    data = ConfigDict(dict(loader="records", records=str(folder), tokenizer="", mixture=mixture))
    return make_loader(data, layout, "train", seed, *process)


def assert_equal(a, b):
    def same(x, y):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)

    jax.tree.map(same, a, b)


@pytest.mark.parametrize("size", [LAYOUT.image_size, 8])
def test_streamed_batches_equal_packed_examples(folder, examples, size):
    layout = Layout(size, LAYOUT.max_references, LAYOUT.text_length, LAYOUT.reference_text_length)
    loader = stream(folder, layout)
    batches = loader.batches(5, 7)
    for start in (5, 12, 19):
        assert_equal(next(batches), loader.batch(start, 7))
    batches.close()
    packed = [pack(example.instruction, load_tokenizer(), layout) for example in examples]
    batch = loader.batch(0, 20)
    for row in range(20):
        mine = jax.tree.map(lambda leaf: leaf[row], (batch.text, batch.context))
        assert any(_is_equal(mine, other) for other in packed)


def _is_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_each_record_comes_once_an_epoch_in_a_new_order(folder):
    loader = stream(folder)
    for task in range(2):
        numbers = loader._shuffle(np.full(3 * COUNT, task), np.arange(3 * COUNT)).numpy().reshape(3, COUNT)
        assert (np.sort(numbers, axis=1) == np.arange(COUNT)).all()
        assert len({tuple(epoch) for epoch in numbers}) == 3
    batch = loader.batch(0, 4 * COUNT)
    assert len(np.unique(batch.image[batch.task == 0], axis=0)) == len(
        np.unique(batch.image[batch.task == 0][:COUNT], axis=0)
    )


def test_positions_are_pure_and_far_ones_reached_at_once(folder):
    loader = stream(folder)
    next(loader.batches(0, 4))  # TensorFlow's first use
    start = time.perf_counter()
    far = next(loader.batches(10**8, 8))
    assert time.perf_counter() - start < 2
    assert_equal(far, loader.batch(10**8, 8))
    assert_equal(jax.tree.map(lambda leaf: leaf[3:6], far), loader.batch(10**8 + 3, 3))
    assert far.index.tolist() == list(range(10**8, 10**8 + 8))
    assert not _is_equal(stream(folder, seed=1).batch(0, 8).image, loader.batch(0, 8).image)


def test_hosts_share_one_global_batch(folder):
    parts = [stream(folder, process=(p, 2)).batches(6, 4) for p in range(2)]
    for start in (6, 10):
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(next(part) for part in parts))
        assert_equal(whole, stream(folder).batch(start, 4))


def test_missing_tasks_and_too_many_references_are_one_clear_line(folder):
    with pytest.raises(LoaderError, match=r"data.mixture.edge: the records hold subject, text_to_image"):
        stream(folder, tasks=("edge",))
    with pytest.raises(RecordError, match="no such file, so no records here"):
        stream(folder / "elsewhere")
    narrow = stream(folder, Layout(16, 1, 64, 24), tasks=("subject",))
    with pytest.raises(RecordError, match=r"more than data.max_references=1") as caught:
        for _, _ in zip(range(4), narrow.batches(0, 8), strict=False):
            pass
    assert "\n" not in str(caught.value)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from ml_collections import ConfigDict
from data_pipelines.loader import LoaderError, make_loader
from tests.small_corpus import LAYOUT, make_memory_loader
make_memory_loader("subject").batch(0, 2)
data = ConfigDict(dict(loader="records", records=sys.argv[1], tokenizer="", mixture=dict(subject=1.0)))
try:
    make_loader(data, LAYOUT, "train", 0)
except LoaderError as error:
    print(error)
"""


def test_without_tensorflow_memory_works_and_records_name_the_mend(folder):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "needs tensorflow, which is not installed: pip install -e .[data]" in result.stdout
