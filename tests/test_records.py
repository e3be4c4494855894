"""Record shards: what is written is read, damage is found and named, and nothing half-written remains."""

import json
import struct

import numpy as np
import pytest

pytest.importorskip("array_record")

from data_pipelines import records
from data_pipelines.prepare import main
from data_pipelines.records import RecordError, RecordReader, RecordWriter
from tests.small_corpus import make_memory_loader


@pytest.fixture(scope="module")
def examples():
    loader = make_memory_loader("text_to_image", "style_transfer")
    return [loader.example(i) for i in range(10)]


@pytest.fixture
def folder(tmp_path, examples):
    with RecordWriter(tmp_path / "train", "train", shard_records=3) as writer:
        for example in examples:
            writer.write(example)
    return tmp_path / "train"


def assert_same(a, b):
    assert (a.task, a.instruction.text) == (b.task, b.instruction.text)
    np.testing.assert_array_equal(a.target, b.target)
    for x, y in zip(a.instruction.references, b.instruction.references, strict=True):
        assert (x.marker, x.text) == (y.marker, y.text)
        np.testing.assert_array_equal(x.image, y.image)


def test_a_record_holds_the_example_without_loss(examples):
    for example in examples:
        assert_same(records.decode(records.encode(example)), example)


def test_shards_are_read_at_random_by_task(folder, examples):
    reader = RecordReader(folder, "train")
    assert reader.counts == {"text_to_image": 5, "style_transfer": 5}
    assert reader.verify() == 10
    assert len(list(folder.glob("style_transfer-*.array_record"))) == 2
    for task in reader.counts:
        written = [example for example in examples if example.task == task]
        for i in (4, 0, 3, 2, 1):
            assert_same(records.decode(reader.read(task, i)), written[i])


def _replaced(record, part, content):
    parts = records.split_parts(record)
    parts[part] = content
    return struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)) + b"".join(parts)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda r: r[:3], "header is cut off"),
        (lambda r: r[:-1], "its header says"),
        (lambda r: _replaced(r, 0, b"{"), "JSON is damaged"),
        (lambda r: _replaced(r, 0, b"{}"), "JSON is damaged"),
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
    with pytest.raises(RecordError, match=r"is format 1 and split 'train', not 1 and 'test'"):
        RecordReader(folder, "test")
    with pytest.raises(RecordError, match="no such file, so no records here"):
        RecordReader(tmp_path / "nowhere", "train")
    shard = folder / "style_transfer-00001.array_record"
    whole = shard.read_bytes()
    place = whole.index(b"IEND")
    shard.write_bytes(whole[:place] + b"XXXX" + whole[place + 4 :])
    with pytest.raises(RecordError, match=f"{shard}: its checksum"):
        RecordReader(folder, "train").verify()
    shard.write_bytes(b"nothing")
    with pytest.raises(RecordError, match=f"{shard}: holds 0 records, the manifest says 2"):
        RecordReader(folder, "train")
    shard.unlink()
    with pytest.raises(RecordError, match=f"{shard}: the manifest names it and it is missing"):
        RecordReader(folder, "train")
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(RecordError, match="not a manifest of records"):
        RecordReader(folder, "train")


def test_a_failed_write_leaves_nothing_and_a_finished_one_is_kept(tmp_path, examples, folder):
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path / "new", "train") as writer:
        writer.write(examples[0])
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train"]
    with pytest.raises(RecordError, match="exists already"), RecordWriter(folder, "train"):
        pass
    assert RecordReader(folder, "train").verify() == 10


def test_the_command_writes_a_checked_folder(tmp_path, capsys):
    arguments = ["records", f"--output={tmp_path}", "--examples=12", "--size=8", "--tasks", "edge", "line"]
    assert main(arguments) == 0
    assert "wrote 12 examples" in capsys.readouterr().out
    shards = json.loads((tmp_path / "train" / "manifest.json").read_text())["shards"]
    assert [(shard["task"], shard["count"]) for shard in shards] == [("edge", 6), ("line", 6)]
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
