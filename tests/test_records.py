"""Record shards: what is written is read, damage is found and named, and nothing half-written remains."""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("array_record")

from data_pipelines import records
from data_pipelines.images import encode_image
from data_pipelines.prepare import main
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.records import RecordError, RecordReader
from data_pipelines.retrieval import clusters
from data_pipelines.retrieval.clusters import Cluster, Member, encode_cluster
from tests.small_corpus import make_memory_loader


@pytest.fixture(scope="module")
def examples():
    loader = make_memory_loader("text_to_image", "style_transfer")
    return [loader.example(i) for i in range(8)]


@pytest.fixture
def folder(tmp_path, examples):
    with DatasetWriter(tmp_path / "set", shard_records=3) as writer:
        for example in examples:
            writer.split("train").write(records.encode(example))
        writer.split("train").finish(kind="examples")
        writer.split("test").finish(kind="examples")
    return tmp_path / "set" / "train"


def assert_same(a, b):
    assert (a.task, a.instruction.text) == (b.task, b.instruction.text)
    np.testing.assert_array_equal(a.target, b.target)
    for x, y in zip(a.instruction.references, b.instruction.references, strict=True):
        assert (x.marker, x.text) == (y.marker, y.text)
        np.testing.assert_array_equal(x.image, y.image)


def test_a_record_holds_the_example_without_loss(examples):
    for example in examples:
        record = records.encode(example, key="a/1", group="a")
        assert_same(records.decode(record), example)
        fields = records.parse_header(records.split_parts(record)[0])
        assert (fields["key"], fields["group"], fields["task"]) == ("a/1", "a", example.task)


def test_shards_are_read_at_random(folder, examples):
    reader = RecordReader(folder, "train")
    assert len(reader) == reader.verify() == 8
    assert sorted(path.name for path in folder.glob("*.array_record")) == [f"{i:05d}.array_record" for i in range(3)]
    for i in (7, 0, 3, 2, 5, 6, 1, 4):
        assert_same(records.decode(reader.read(i)), examples[i])
    assert reader.where(5) == f"{folder / '00001.array_record'}: record 2"
    assert len(RecordReader(folder.parent / "test", "test")) == 0


def _replaced(record, part, content):
    parts = records.split_parts(record)
    parts[part] = content
    return records.join_parts(parts)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda r: r[:3], "header is cut off"),
        (lambda r: r[:-1], "its header says"),
        (lambda r: _replaced(r, 0, b"{"), "JSON is damaged"),
        (lambda r: _replaced(r, 0, b"{}"), "JSON is damaged"),
        (lambda r: _replaced(r, 0, b"[]"), "JSON is damaged"),
        (lambda r: _replaced(r, 1, b"not a picture"), "picture of the record is not readable"),
        (lambda r: _replaced(r, 0, records.split_parts(r)[0].replace(b'"2"', b'"9"')), "no part '9'"),
        (lambda r: _replaced(r, 0, records.split_parts(r)[0].replace(b"[ref#2]", b"[ref#7]", 1)), r"\[ref#"),
    ],
)
def test_damaged_records_are_one_clear_line(examples, damage, words):
    record = next(records.encode(example) for example in examples if example.task == "style_transfer")
    with pytest.raises(RecordError, match=words) as caught:
        records.decode(damage(record))
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_one_clear_line(folder, tmp_path):
    with pytest.raises(RecordError, match=r"is format 2 and split 'train', not 2 and 'test'"):
        RecordReader(folder, "test")
    with pytest.raises(RecordError, match="no such file, so no records here"):
        RecordReader(tmp_path / "nowhere", "train")
    shard = folder / "00002.array_record"
    whole = shard.read_bytes()
    place = whole.index(b"IEND")
    shard.write_bytes(whole[:place] + b"XXXX" + whole[place + 4 :])
    with pytest.raises(RecordError, match=f"{shard}: its checksum"):
        RecordReader(folder, "train").verify()
    with pytest.raises(RecordError, match=f"{shard}: record 0: the shard is damaged"):
        RecordReader(folder, "train").read(6)
    shard.write_bytes(b"nothing")
    with pytest.raises(RecordError, match=f"{shard}: holds 0 records, the manifest says 2"):
        RecordReader(folder, "train")
    shard.unlink()
    with pytest.raises(RecordError, match=f"{shard}: the manifest names it and it is missing"):
        RecordReader(folder, "train")
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"format": 2, "split": "train", "kind": "songs", "shards": []}))
    with pytest.raises(RecordError, match="kind 'songs' is none of examples, clusters"):
        RecordReader(folder, "train")
    manifest.write_text(json.dumps({"format": 1, "split": "train", "shards": [{"task": "edge"}]}))
    with pytest.raises(RecordError, match=r"is format 1 .*prepare the data set again"):
        RecordReader(folder, "train")
    manifest.write_text("[]")
    with pytest.raises(RecordError, match="not a manifest of records"):
        RecordReader(folder, "train")


@pytest.fixture
def one_more_file():
    """Lets this process open one more file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 1, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_shards_than_open_files_raise_the_limit(folder, one_more_file):
    assert len(RecordReader(folder, "train")) == 8


def test_more_shards_than_may_be_open_are_one_clear_line(folder, one_more_file, monkeypatch):
    monkeypatch.setattr(records, "_allow_open_files", lambda: None)
    with pytest.raises(RecordError, match=r"array_record: Too many open files: each of 3 shards .* raise `ulimit -n`"):
        RecordReader(folder, "train")


def test_a_failed_write_leaves_nothing_and_a_finished_one_is_kept(tmp_path, examples, folder):
    with pytest.raises(KeyboardInterrupt), DatasetWriter(tmp_path / "new") as writer:
        writer.split("train").write(records.encode(examples[0]))
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    with pytest.raises(RecordError, match="exists already"), DatasetWriter(folder.parent):
        pass
    assert RecordReader(folder, "train").verify() == 8


KILLED = """
import sys, time
from data_pipelines.record_writer import DatasetWriter
with DatasetWriter(sys.argv[1], shard_records=2) as writer:
    for _ in range(5):
        writer.split("train").write(b"record")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_run_at_work_is_left_alone_and_a_killed_one_leaves_only_what_the_next_removes(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "set")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    with pytest.raises(RecordError, match="another run is writing it"), DatasetWriter(tmp_path / "set"):
        pass
    process.kill()
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["set.tmp"]
    for _ in range(100):  # the kernel gives the lock back a moment after the end
        try:
            with DatasetWriter(tmp_path / "set") as writer:
                writer.split("train").write(b"record")
                writer.split("train").finish(kind="examples")
            break
        except RecordError:
            time.sleep(0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["train"]
    assert len(RecordReader(tmp_path / "set" / "train", "train")) == 1


def test_the_command_writes_a_checked_data_set_a_task(tmp_path, capsys):
    arguments = ["records", f"--output={tmp_path}", "--examples=6", "--held_out=2", "--size=8", "--tasks", "edge"]
    assert main([*arguments, "line", "edge"]) == 0
    told = capsys.readouterr().out
    assert f"wrote 6 train, 2 validation, 2 test examples to {tmp_path / 'line'}" in told and "licence:  Apache" in told
    assert {path.name for path in tmp_path.iterdir()} == {"edge", "line"}
    manifest = RecordReader(tmp_path / "edge" / "test", "test").manifest
    assert manifest["counts"] == {"written": {"edge": 2}} and manifest["longest"]["references"] == 1
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def _cluster(similarity=None):
    pictures = [np.full((4, 4, 3), 40 * i, np.uint8) for i in range(5)]
    members = [Member(f"the number {i}", encode_image(picture)) for i, picture in enumerate(pictures)]
    return Cluster(tuple(members), np.eye(5) if similarity is None else similarity), pictures


def test_a_cluster_survives_its_record():
    cluster, _pictures = _cluster()
    cluster = Cluster((Member("a caption with\na [[ref#1]] and Ref #12.", cluster.members[0].image),) * 5, np.eye(5))
    again = clusters.decode(encode_cluster(cluster))
    assert again.members[0].text == "a caption with a ref 1 and Ref 12"
    assert again.members[0].image == cluster.members[0].image
    np.testing.assert_array_equal(again.similarity, np.eye(5))
    with pytest.raises(ValueError, match="has no text"):
        encode_cluster(Cluster((Member(" . ", b""),), np.eye(1)))
    with pytest.raises(RecordError, match="is no cluster"):
        clusters.decode(records.join_parts([b"{}", b""]))


def test_the_context_of_a_cluster_never_holds_the_target():
    rng = np.random.default_rng(0)
    drawn = [clusters.choose(5, 2, 3, rng) for _ in range(200)]
    assert all(2 not in chosen and len(set(chosen)) == 3 for chosen in drawn)
    assert len({tuple(chosen) for chosen in drawn}) == 4 * 3 * 2
    assert len(clusters.choose(5, 0, 9, rng)) == 4


def test_near_duplicates_in_a_context_are_refused():
    similarity = np.eye(5)
    similarity[0, 3] = similarity[3, 0] = 0.97
    cluster, pictures = _cluster(similarity)
    clusters.check_distinct(cluster, 0, [1, 2], [pictures[i] for i in (0, 1, 2)], 0.9)
    clusters.check_distinct(cluster, 1, [3], [pictures[i] for i in (1, 3)], 0.9)
    with pytest.raises(RecordError, match=r"members 0 and 3 of the cluster are 0.9700 alike"):
        clusters.check_distinct(cluster, 0, [1, 3], [pictures[i] for i in (0, 1, 3)], 0.9)
    with pytest.raises(RecordError, match="members 0 and 1 of the cluster are the same picture"):
        clusters.check_distinct(cluster, 0, [1], [pictures[0], pictures[0]], 0.9)
