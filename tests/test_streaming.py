"""The streaming loader: equal to the memory path byte for byte, each example once an epoch, any position at once."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

pytest.importorskip("tensorflow")
pytest.importorskip("array_record")

from data_pipelines import records
from data_pipelines.images import encode_image, fit_image, read_image
from data_pipelines.instruction import Layout, pack
from data_pipelines.loader import LoaderError, make_loader
from data_pipelines.prepare import command
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.records import RecordError
from data_pipelines.retrieval.clusters import MEMBERS, Cluster, Member, encode_cluster
from data_pipelines.text import load_tokenizer
from tests.small_corpus import LAYOUT, make_memory_loader

TASKS = ("text_to_image", "subject")
COUNT = 14  # of each task
CLUSTERS = 4
THRESHOLD = 0.9


@pytest.fixture(scope="module")
def examples():
    memory = make_memory_loader(*TASKS)
    return {task: [memory.example(i, task) for i in range(COUNT)] for task in TASKS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    root = tmp_path_factory.mktemp("records")
    for task in TASKS:
        write(root / task, [records.encode(example) for example in examples[task]], kind="examples", size=16)
    write(root / "neighbors", [encode_cluster(make_cluster(i)) for i in range(CLUSTERS)], kind="clusters")
    return root


def write(path, encoded, shard_records=5, splits=("train", "test"), **fields):
    with DatasetWriter(path, shard_records) as writer:
        for split in splits:
            for record in encoded:
                writer.split(split).write(record)
            writer.split(split).finish(threshold=THRESHOLD, **fields)
    return path


def make_cluster(number, words="thing", similarity=None):
    pictures = [np.full((20, 24, 3), 40 * number + 5 * i, np.uint8) for i in range(MEMBERS)]
    members = (Member(f"{words} {number} of kind {i}", encode_image(p, "png")) for i, p in enumerate(pictures))
    return Cluster(tuple(members), np.full((MEMBERS, MEMBERS), 0.5) if similarity is None else similarity)


def stream(folder, layout=LAYOUT, seed=0, tasks=TASKS, process=(0, 1), split="train", allow_missing=False):
    mixture = {task: 1 / len(tasks) for task in tasks}
    data = dict(loader="records", records=str(folder), tokenizer="", mixture=mixture, allow_missing=allow_missing)
    return make_loader(ConfigDict(data), layout, split, seed, *process)


def assert_equal(a, b):
    def same(x, y):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)

    jax.tree.map(same, a, b)


def _is_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("size", [LAYOUT.image_size, 8])
def test_streamed_batches_equal_packed_examples(folder, examples, size):
    layout = Layout(size, LAYOUT.max_references, LAYOUT.text_length, LAYOUT.reference_text_length)
    for split in ("train", "test"):
        loader = stream(folder, layout, split=split)
        batches = loader.batches(5, 7)
        for start in (5, 12, 19):
            assert_equal(next(batches), loader.batch(start, 7))
        batches.close()
    batch = loader.batch(0, 20)  # of 'test', whose markers are as stored
    for number, task in enumerate(TASKS):
        packed = [(fit_image(e.target, size), pack(e.instruction, load_tokenizer(), layout)) for e in examples[task]]
        for row in np.flatnonzero(batch.task == number):
            mine = jax.tree.map(lambda leaf, row=row: leaf[row], (batch.image, (batch.text, batch.context)))
            assert any(_is_equal(mine, other) for other in packed)


def test_large_photographs_stream_as_they_are_read_elsewhere(tmp_path, photograph):
    file = encode_image(photograph, "jpeg")
    header = json.dumps({"text": "a photograph", "references": [], "target": "2", "task": "text_to_image"}).encode()
    write(tmp_path / "photographs", [records.join_parts([header, file])], kind="examples")
    (batch,) = (batch for batch, _ in zip(stream(tmp_path, tasks=("photographs",)).batches(0, 1), [0], strict=False))
    np.testing.assert_array_equal(batch.image[0], fit_image(read_image(file, LAYOUT.image_size), LAYOUT.image_size))


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    return fit_image(rng.integers(0, 256, (12, 12, 3), np.uint8), 96)


def test_each_example_comes_once_an_epoch_in_a_new_order(folder):
    loader = stream(folder, tasks=(*TASKS, "neighbors"))
    for number, count in enumerate((COUNT, COUNT, CLUSTERS * MEMBERS)):
        places, epochs = loader._shuffle(np.full(3 * count, number), np.arange(3 * count))
        places = places.numpy().reshape(3, count)
        assert (np.sort(places, axis=1) == np.arange(count)).all()
        assert len({tuple(epoch) for epoch in places}) == 3
        assert epochs.numpy().tolist() == np.repeat(np.arange(3), count).tolist()


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


def test_a_cluster_gives_each_member_a_changing_context_without_the_target(folder):
    loader = stream(folder, tasks=("neighbors",))
    seen: dict[int, set] = {}
    for i in range(6 * CLUSTERS * MEMBERS):
        example = loader.example(i)
        target = int(example.target[0, 0, 0])
        context = [int(reference.image[0, 0, 0]) for reference in example.instruction.references]
        assert example.task == "neighbors" and len(set(context)) == 3 and target not in context
        assert all(value // 40 == target // 40 for value in context)
        assert f"thing {target // 40} of kind {target % 40 // 5}" in example.instruction.text
        seen.setdefault(target, set()).add(tuple(context))
    assert len(seen) == CLUSTERS * MEMBERS and min(map(len, seen.values())) > 1
    batches = loader.batches(3, 6)
    assert_equal(next(batches), loader.batch(3, 6))
    batches.close()


def test_clusters_have_as_many_members_as_their_manifest_says(tmp_path):
    whole = make_cluster(1)
    cluster = Cluster(whole.members[:3], whole.similarity[:3, :3])
    write(tmp_path / "neighbors", [encode_cluster(cluster)] * 2, kind="clusters", members=3)
    loader = stream(tmp_path, tasks=("neighbors",))
    examples = [loader.example(i) for i in range(6)]
    assert {int(example.target[0, 0, 0]) for example in examples} == {40, 45, 50}
    assert all(len(example.instruction.references) == 2 for example in examples)


def test_long_captions_of_clusters_are_cut_at_a_word(tmp_path):
    write(tmp_path / "neighbors", [encode_cluster(make_cluster(0, words="wonderful " * 60))], kind="clusters")
    loader = stream(tmp_path, tasks=("neighbors",))
    for i in range(MEMBERS):
        assert len(loader.example(i).instruction.references) == LAYOUT.max_references == 3, "shared out, not left out"
    example = loader.example(0)
    assert "wonderful" in example.instruction.text.replace(example.instruction.references[0].text, "")
    encode = load_tokenizer().encode
    assert len(encode(example.instruction.text)) <= LAYOUT.text_length
    for reference in example.instruction.references:
        assert len(encode(f"{reference.marker} {reference.text}")) <= LAYOUT.reference_text_length
        assert set(reference.text.split()) == {"wonderful"}


def test_near_duplicates_in_a_cluster_are_refused_while_reading(tmp_path):
    similarity = np.full((MEMBERS, MEMBERS), THRESHOLD)
    write(tmp_path / "neighbors", [encode_cluster(make_cluster(0, similarity=similarity))], kind="clusters")
    loader = stream(tmp_path, tasks=("neighbors",))
    with pytest.raises(RecordError, match=r"00000.array_record: record 0: members \d and \d of the cluster are 0.9000"):
        next(loader.batches(0, 2))
    with pytest.raises(RecordError, match="record 0: members"):
        loader.example(0)


def test_a_corrupt_picture_is_one_line_that_names_its_record(tmp_path, examples):
    encoded = [records.encode(example) for example in examples["text_to_image"][:3]]
    parts = records.split_parts(encoded[1])
    encoded[1] = records.join_parts([parts[0], parts[1][: len(parts[1]) // 2]])
    write(tmp_path / "broken", encoded, kind="examples", shard_records=3)
    batches = stream(tmp_path, tasks=("broken",)).batches(0, 3)
    with pytest.raises(RecordError, match=r"broken/train/00000.array_record: record 1: a picture .* broken") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


def test_data_sets_that_do_not_fit_the_model_are_one_line_at_the_start(tmp_path):
    longest = {"text": 70, "reference_text": 30, "references": 3}
    write(tmp_path / "long", [], kind="examples", splits=("test",), longest=longest, size=16)
    record = records.join_parts([b"{}", b""])
    write(tmp_path / "set", [record], kind="examples", longest=longest, size=16)
    for layout, words in (
        (Layout(16, 2, 70, 30), "its most references are 3, and the model's data.max_references is 2"),
        (Layout(16, 3, 64, 30), "the tokens of its longest text are 70, and the model's data.text_length is 64"),
        (Layout(16, 3, 70, 24), "longest reference text are 30, and the model's data.reference_text_length is 24"),
        (Layout(32, 3, 70, 30), "its pictures are of 16 px and the model's of 32"),
    ):
        with pytest.raises(LoaderError, match=words) as caught:
            stream(tmp_path, layout, tasks=("set",))
        assert str(caught.value).startswith(str(tmp_path / "set" / "train")) and "\n" not in str(caught.value)
    assert stream(tmp_path, Layout(16, 3, 70, 30), tasks=("set",)).tasks == ("set",)


def test_missing_data_sets_are_all_named_with_their_commands(folder, caplog):
    tasks = ("subject", "captions", "depth", "neighbors", "mine")
    with pytest.raises(LoaderError, match=r"3 of 5 data sets of data.mixture are missing for 'train'") as caught:
        stream(folder, tasks=tasks)
    told = str(caught.value)
    prepare = "python -m data_pipelines.prepare"
    assert f"captions: {prepare} captions --input=... --output={folder}/captions --size=" in told
    assert f"depth: {prepare} control --condition=depth --input=... --output={folder}/depth --size=" in told
    assert f"mine: {prepare} FAMILY" in told and "data.allow_missing=True" in told
    assert command("line", folder) == f"{prepare} records --tasks line --examples=20000 --output={folder}"
    assert command("emoji", folder) == f"{prepare} emoji --output={folder}/emoji"
    assert "\n" not in told
    with caplog.at_level(logging.WARNING):
        loader = stream(folder, tasks=tasks, allow_missing=True)
    assert loader.tasks == ("subject", "neighbors") and "the ratios are now subject 0.5, neighbors 0.5" in caplog.text
    assert loader.batch(0, 4).task.tolist().count(0) == 2
    with pytest.raises(LoaderError, match=r"none is left: check data.records"):
        stream(Path(folder) / "elsewhere", allow_missing=True)


def test_a_split_without_examples_is_told_in_the_same_way(tmp_path, examples):
    encoded = [records.encode(example) for example in examples["text_to_image"][:2]]
    write(tmp_path / "all", encoded, kind="examples")
    write(tmp_path / "some", encoded, kind="examples", splits=("train",))
    with pytest.raises(LoaderError, match=r"1 of 2 .* missing for 'test' .*some: has no split 'test'"):
        stream(tmp_path, tasks=("all", "some"), split="test")
    assert stream(tmp_path, tasks=("all", "some"), split="test", allow_missing=True).tasks == ("all",)
    write(tmp_path / "none", [], kind="examples", splits=("test",))
    with pytest.raises(LoaderError, match=r"none is empty: prepare it anew with larger shares, such as --splits=0.8"):
        stream(tmp_path, tasks=("all", "none"), split="test")


def test_validation_stands_for_an_empty_test_split(tmp_path, examples, caplog):
    first, second = (records.encode(example) for example in examples["text_to_image"][:2])
    with DatasetWriter(tmp_path / "set") as writer:  # as of MagicBrush, which publishes train and dev
        for split, held in (("train", [first]), ("validation", [second]), ("test", [])):
            for record in held:
                writer.split(split).write(record)
            writer.split(split).finish(kind="examples")
    with caplog.at_level(logging.WARNING):
        loader = stream(tmp_path, tasks=("set",), split="test")
    np.testing.assert_array_equal(loader.example(0).target, examples["text_to_image"][1].target)
    assert f"{tmp_path}/set: split 'test' is empty: 'validation' stands for it" in caplog.text
    train = stream(tmp_path, tasks=("set",), split="train").example(0)
    np.testing.assert_array_equal(train.target, examples["text_to_image"][0].target)


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


def test_tensorflow_is_quiet_when_it_is_imported():
    command = [sys.executable, "-c", "import data_pipelines.streaming"]
    assert not subprocess.run(command, capture_output=True, text=True, check=True).stderr
