"""The validator finds each kind of fault, says where it is, goes on after it, and is silent about sound data."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record")

from data_pipelines import corpus, records
from data_pipelines.images import encode_image
from data_pipelines.instruction import Instruction, Reference
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.retrieval.clusters import Cluster, Member, encode_cluster
from data_pipelines.validate import main
from data_pipelines.wording import Example
from tests.small_corpus import make_memory_loader

SIZE = 16


def _picture(seed, height=SIZE, width=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _line(number, **changes):
    """A sound line of training JSONL, or one with a fault."""
    references = [{"marker": "[ref#1]", "text": "line drawing", "image": f"{number}-line.png"}]
    fields = {"text": f"Color [ref#1] as number {number}.", "references": references, "target": f"{number}.png"}
    return json.dumps(fields | {"task": "line"} | changes)


@pytest.fixture
def jsonl(tmp_path):
    for number in range(6):
        Image.fromarray(_picture(number)).save(tmp_path / f"{number}.png")
        Image.fromarray(_picture(100 + number)).save(tmp_path / f"{number}-line.png")
    Image.fromarray(_picture(7, height=8)).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:100])

    def write(*lines):
        (tmp_path / "data.jsonl").write_bytes(b"\n".join(s if isinstance(s, bytes) else s.encode() for s in lines))
        return str(tmp_path / "data.jsonl")

    return write


def _run(capsys, *arguments):
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_sound_lines_are_counted(jsonl, capsys):
    code, out, _ = _run(capsys, jsonl(_line(0), "", _line(1), _line(2)))
    assert code == 0 and out[0].endswith("data.jsonl: 3 examples, no problems")
    assert any(line.split() == ["tasks", "line", "3"] for line in out)
    assert any(line.split() == ["sizes", "16x16", "3"] for line in out)
    assert re.search(r"text tokens +median 6, longest 6", out[-1])


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("{", "instruction", "2:2: invalid JSON"),
        (b'{"text": "\xff"}', "instruction", "byte 10 is not UTF-8"),
        (_line(1, task=3), "instruction", "task: is a number"),
        (_line(1, tusk="line"), "instruction", "unknown key 'tusk'; did you mean 'task'?"),
        (_line(1, text="Color it."), "instruction", "[ref#1] is not in the text"),
        (_line(1, text="Color [ref1]."), "instruction", "'[ref1]' is not a marker"),
        (_line(1, target="none.png"), "image", "no such image file"),
        (_line(1, target="broken.png"), "image", "broken or cut off"),
        (_line(1, target="wide.png"), "size", "no longer lie over each other"),
        (_line(1, target="1-line.png"), "reference is target", "the same pixels"),
        (_line(0), "duplicate example", "data.jsonl:1 again"),
        (_line(1, text="Color [ref#1] " + "very " * 200), "text length", "more than text_length=128"),
        (_line(1, references=[{"marker": "[ref#1]", "text": "so " * 40, "image": "1-line.png"}]), "text length", "=32"),
    ],
)
def test_each_fault_of_a_line_is_one_line_with_its_place(jsonl, capsys, line, kind, words):
    path = jsonl(_line(0), line, _line(2))
    code, out, _ = _run(capsys, path)
    problems = [text for text in out if text.startswith(f"{path}:")]
    assert code == 1 and problems[0].startswith(f"{path}:2: {kind}: ") and words in problems[0], out
    assert any(text.split()[:2] == ["problems", kind.split()[0]] for text in out)
    assert any(text.startswith(f"{path}: 3 examples, 1 problem") for text in out)


def test_it_goes_on_after_a_fault_and_prints_no_more_than_asked(jsonl, capsys):
    path = jsonl("{", _line(0), "[]", _line(1, task=None), _line(2))
    code, out, _ = _run(capsys, path)
    assert code == 1 and [text.split(":")[1] for text in out[:3]] == ["1", "3", "4"]
    assert any(text.split() == ["tasks", "line", "2"] for text in out)
    _, out, _ = _run(capsys, path, "--max_problems=1")
    assert out[1].endswith("5 examples, 3 problems") and "2 problems beyond --max_problems=1" in out[2]


def test_the_least_size_and_the_limits_can_be_told(jsonl, capsys):
    path = jsonl(_line(0))
    assert _run(capsys, path, "--size=16", "--text_length=20")[0] == 0
    assert "16x16 is smaller than --size=17" in _run(capsys, path, "--size=17")[1][0]
    assert "more than text_length=4" in _run(capsys, path, "--text_length=4")[1][0]


def test_a_single_instruction(jsonl, tmp_path, capsys):
    jsonl(_line(0))
    sound = {key: value for key, value in json.loads(_line(0)).items() if key in ("text", "references")}
    (tmp_path / "one.json").write_text(json.dumps(sound))
    assert _run(capsys, tmp_path / "one.json")[0] == 0
    (tmp_path / "one.json").write_text(json.dumps(sound | {"text": "Color it."}))
    assert _run(capsys, tmp_path / "one.json")[0] == 1


def _example(number, text="Color [ref#1]", reference=None):
    shown = _picture(100 + number) if reference is None else reference
    return Example(Instruction(f"{text}.", (Reference("[ref#1]", "a fox", shown),)), _picture(number), "subject")


def _write(folder, splits):
    """A data set of {split: [(example, key, group), ...]}."""
    with DatasetWriter(folder, shard_records=2) as writer:
        for split, items in splits.items():
            for example, key, group in items:
                writer.split(split).write(records.encode(example, key, group))
            writer.split(split).finish(kind="examples", size=SIZE, arguments={"text_length": 12})
    return folder


def test_a_sound_data_set_alone_and_among_others(tmp_path, capsys):
    items = {"train": [(_example(i), f"k{i}", f"g{i // 2}") for i in range(5)], "test": [(_example(9), "k9", "g9")]}
    folder = _write(tmp_path / "root" / "set", items)
    _write(tmp_path / "root" / "other", items)  # the same again, but another data set
    for path, count in ((folder, 6), (folder / "train", 5), (tmp_path / "root", 12)):
        code, out, _ = _run(capsys, path)
        assert code == 0 and f": {count} examples, no problems" in out[0]


def test_a_named_group_lies_in_one_split_of_all_data_sets(tmp_path, capsys):
    for name, split, number in (("celeba", "train", 1), ("celeba_hq", "test", 2)):
        unnamed = (_example(number + 5), "0", "0")  # its key, which other data sets have too, stands for its group
        items = [(_example(number), f"{name}/0", "person 7"), unnamed]
        _write(tmp_path / name, {split: items})
    code, out, _ = _run(capsys, tmp_path)
    assert code == 1 and "celeba_hq/test/00000.array_record: record 0: leak: group 'person 7'" in out[0]
    assert "is in split train of celeba and in test" in out[0] and ": 4 examples, 1 problem" in out[1]


@pytest.mark.parametrize(
    ("train", "test", "place", "words"),
    [
        ([(_example(1), "a", ""), (_example(2), "a", "")], [], "record 1", "duplicate key: key 'a' is taken by "),
        ([(_example(1), "a", ""), (_example(1), "b", "")], [], "record 1", "duplicate example: is "),
        ([(_example(1), "a", "a")], [(_example(2), "a", "a")], "record 0", "leak: group 'a' is in split train and in"),
        ([(_example(1), "a", "p")], [(_example(2), "b", "p")], "record 0", "leak: group 'p' is in split train and in"),
        ([(_example(1), "a", "")], [(_example(1, "Take [ref#1]"), "b", "")], "record 0", "leak: the very picture"),
        ([(_example(1, reference=_picture(1)), "a", "")], [], "record 0", "reference is target"),
        ([(_example(1, "Color it as [ref#1] says " * 2), "a", "")], [], "record 0", "more than text_length=12"),
        ([(replace(_example(1), target=_picture(1, 8, 8)), "a", "")], [], "record 0", "the manifest says size 16"),
    ],
)
def test_faults_of_a_data_set_name_shard_and_record(tmp_path, capsys, train, test, place, words):
    folder = _write(tmp_path / "set", {"train": train, "test": test})
    code, out, _ = _run(capsys, folder)
    assert code == 1 and place in out[0] and ".array_record: " in out[0] and words in out[0], out


def test_one_picture_in_the_same_words_of_other_references_is_another_example(tmp_path, capsys):
    items = [(_example(1), "a", ""), (_example(1, reference=_picture(50)), "b", "")]
    assert _run(capsys, _write(tmp_path / "set", {"train": items}))[0] == 0


def test_without_array_record_there_is_one_line(tmp_path, capsys, monkeypatch):
    folder = _write(tmp_path / "set", {"train": [(_example(1), "a", "")]})
    monkeypatch.setitem(sys.modules, "array_record", None)
    monkeypatch.delitem(sys.modules, "array_record.python", raising=False)
    monkeypatch.delitem(sys.modules, "array_record.python.array_record_module", raising=False)
    code, _, err = _run(capsys, folder / "train")
    assert code == 2 and err.startswith("error: array_record") and err.endswith("pip install -e '.[data]'\n")


def test_damaged_shards_are_found_and_the_rest_is_read(tmp_path, capsys):
    folder = _write(tmp_path / "set", {"train": [(_example(i), f"{i}", "") for i in range(3)], "test": []})
    shard = folder / "train" / "00000.array_record"
    content = bytearray(shard.read_bytes())
    content[content.index(b"IHDR") + 20] ^= 1  # in a picture
    shard.write_bytes(content)
    code, out, _ = _run(capsys, folder)
    assert code == 1 and f"{shard}: shard: its checksum is not the manifest's" in out[0]
    assert any(line.split()[:2] == ["tasks", "subject"] for line in out)
    shard.unlink()
    code, out, _ = _run(capsys, folder)
    assert code == 1 and "the manifest names it and it is missing" in out[0]
    assert _run(capsys, folder / "train")[0] == 2


def _cluster(similarity=0.5, pictures=range(5)):
    members = tuple(Member(f"fox {i}", encode_image(_picture(i), "png")) for i in pictures)
    return encode_cluster(Cluster(members, np.full((5, 5), similarity) * (1 - np.eye(5)) + np.eye(5)))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([_cluster()], [_cluster(pictures=range(5, 10))], None),
        ([_cluster(similarity=0.99)], [], "near-duplicate: members 0 and 1 of the cluster are 0.9900 alike"),
        ([_cluster(pictures=(0, 1, 2, 3, 1))], [], "near-duplicate: members 1 and 4 of the cluster are the same"),
        ([_cluster(), _cluster()], [], "duplicate example"),
        ([_cluster()], [_cluster(pictures=(4, 5, 6, 7, 8))], "leak: the very picture"),
    ],
)
def test_clusters(tmp_path, capsys, train, test, words):
    with DatasetWriter(tmp_path / "neighbors") as writer:
        for split, items in (("train", train), ("test", test)):
            for item in items:
                writer.split(split).write(item)
            writer.split(split).finish(kind="clusters", threshold=0.95, size=SIZE, members=5)
    code, out, _ = _run(capsys, tmp_path / "neighbors")
    assert (code == 0) if words is None else (code == 1 and words in out[0]), out


def test_what_the_project_itself_makes_is_sound(tmp_path, capsys):
    loader = make_memory_loader("text_to_image", "line", "edge", "mask", "subject", "style", "style_transfer")
    _write_loaded(tmp_path / "set", [loader.example(i) for i in range(12)])
    assert _run(capsys, tmp_path / "set", "--text_length=64")[0] == 0


def _write_loaded(folder, examples):
    with DatasetWriter(folder) as writer:
        for number, example in enumerate(examples):
            writer.split("train").write(records.encode(example, f"{number}"))
        writer.split("train").finish(kind="examples")


def test_a_corpus_whose_root_lies_in_two_splits(tmp_path, capsys):
    writer = corpus.SheetWriter(tmp_path, "noto", 32, lossless=True)
    tiles = [f"noto:{writer.add(np.full((32, 32, 4), 50 * i, np.uint8))}" for i in range(2)]
    writer.flush()
    for second, code in (("train", 0), ("test", 1)):
        rows = [("1f340", "train"), ("1f341", second)]
        rows = [
            (name, "1f340", split, "clover", "", "", "", tile) for (name, split), tile in zip(rows, tiles, strict=True)
        ]
        corpus.write_index(tmp_path, 32, {"noto": {"held_out": False}}, {}, rows)
        found, out, _ = _run(capsys, tmp_path)
        assert found == code
    assert "index.tsv: 1f341: leak: root 1f340 is in split train and in test" in out[0]


def test_a_drawing_that_comes_again_in_a_later_split(tmp_path, capsys):
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    tile[..., 3] = 255
    for number, second in enumerate((255 - tile, np.minimum(tile, 252))):
        folder = tmp_path / str(number)
        writer = corpus.SheetWriter(folder, "noto", 64, lossless=True)
        tiles = [f"noto:{writer.add(each)}" for each in (tile, second)]
        writer.flush()
        rows = [(code, code, split, "clover", "", "", "") for code, split in (("1f340", "train"), ("1f341", "test"))]
        rows = [(*row, place) for row, place in zip(rows, tiles, strict=True)]
        corpus.write_index(folder, 64, {"noto": {"held_out": False}}, {}, rows)
    assert _run(capsys, tmp_path / "0")[0] == 0
    code, out, _ = _run(capsys, tmp_path / "1")
    assert code == 1 and "index.tsv: 1f341: near-duplicate: its drawing in noto, of split test, nearly equals" in out[0]


@pytest.mark.parametrize("path", ["nothing", "nothing.jsonl", "nothing.json", "."])
def test_what_holds_no_data_is_one_line_and_exit_code_2(tmp_path, capsys, path):
    code, out, err = _run(capsys, tmp_path / path)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
