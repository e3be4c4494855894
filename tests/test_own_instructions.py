"""Instructions of one's own: lines of training JSONL become a data set that training streams."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record")

from data_pipelines import prepare, records
from data_pipelines.corpus import SPLITS
from data_pipelines.instruction import Layout
from data_pipelines.loader import make_loader
from data_pipelines.records import RecordReader
from experiments import stage2

STYLE = {"marker": "[ref#2]", "text": "style image", "image": "style.png"}
FOX = {"marker": "[ref#1]", "text": "a fox", "image": "fox.png"}
BOTH = {"text": "Draw [ref#1] in the style of [ref#2].", "references": [STYLE, FOX], "task": "mine"}


@pytest.fixture
def folder(tmp_path):
    for shade, name in enumerate(("fox", "style", *(f"drawn_{i}" for i in range(12)))):
        Image.fromarray(np.full((20, 20, 3), 10 * shade, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, lines):
    (folder / "mine.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def run(folder, *options):
    sizes = ("--size=16", "--text_length=48", "--reference_text_length=16", "--max_references=2")
    output = folder / "records" / "mine"
    return prepare.main(["instructions", f"--input={folder / 'mine.jsonl'}", f"--output={output}", *sizes, *options])


def examples(folder):
    for split in SPLITS:
        reader = RecordReader(folder / "records" / "mine" / split, split)
        for i in range(len(reader)):
            record = reader.read(i)
            yield split, records.parse_header(records.split_parts(record)[0]), records.decode(record)


def test_lines_become_records_in_their_own_words_and_order_of_markers(folder):
    write(folder, [BOTH | {"target": f"drawn_{i}.png"} for i in range(12)])
    assert run(folder, "--splits=0.5,0.25,0.25") == 0
    found = [example for _, _, example in examples(folder)]
    assert len(found) == 12 and {example.task for example in found} == {"mine"}
    assert {int(example.target[0, 0, 0]) for example in found} == {10 * shade for shade in range(2, 14)}
    for example in found:
        assert example.instruction.text == BOTH["text"]
        told = [(each.marker, each.text, int(each.image[0, 0, 0])) for each in example.instruction.references]
        assert told == [("[ref#1]", "a fox", 0), ("[ref#2]", "style image", 10)]


def test_a_group_a_target_and_a_split_decide_where_a_line_lies(folder):
    grouped = [BOTH | {"target": f"drawn_{i}.png", "group": "my fox"} for i in range(6)]
    shared = [BOTH | {"text": f"{i} {BOTH['text']}", "target": "drawn_6.png"} for i in range(6)]
    write(folder, [*grouped, *shared, BOTH | {"target": "drawn_7.png", "split": "test"}])
    assert run(folder, "--splits=0.4,0.3,0.3") == 0
    splits = {}
    for split, fields, _ in examples(folder):
        splits.setdefault(fields["group"], set()).add(split)
    assert all(len(found) == 1 for found in splits.values()) and splits["drawn_7.png"] == {"test"}


def test_training_streams_them_under_the_name_of_their_folder(folder):
    pytest.importorskip("tensorflow")
    write(folder, [BOTH | {"target": f"drawn_{i}.png"} for i in range(12)])
    assert run(folder) == 0
    data = stage2.get_config().data
    data.update(loader="records", records=str(folder / "records"))
    data.mixture = {"mine": 1.0}
    batch = make_loader(data, Layout(16, 2, 48, 16), "train", seed=0).batch(0, 4)
    assert batch.context.mask.all() and batch.image.shape == (4, 16, 16, 3)


def test_lines_that_are_no_instruction_are_counted_and_named(folder, capsys):
    good = BOTH | {"target": "drawn_0.png"}
    third = BOTH | {
        "target": "drawn_1.png",
        "text": "Draw [ref#1] as [ref#3].",
        "references": [FOX, STYLE | {"marker": "[ref#3]"}],
    }
    alone = good | {"text": "Draw [ref#1].", "references": [FOX]}
    write(folder, [good, "{", third, alone | {"references": []}, alone | {"target": "none.png"}])
    assert run(folder) == 0
    told = capsys.readouterr().out
    assert "wrote 1 examples" in told and "3 no instruction (--strict names the first)" in told
    assert "1 broken image" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            BOTH | {"text": "Draw [ref#1].", "target": "drawn_0.png"},
            "mine.jsonl:1: references[0]: marker: [ref#2] is not",
        ),
        (BOTH | {"target": "drawn_0.png", "group": 3}, "mine.jsonl:1: group: is a number; give a string"),
        (BOTH | {"target": "drawn_0.png", "text": BOTH["text"] + " very" * 60}, "mine.jsonl:1: a text too long"),
        (BOTH | {"target": "drawn_0.png", "groups": ""}, "unknown key 'groups'; did you mean 'group'?"),
    ],
)
def test_strict_names_the_line_and_writes_nothing(folder, capsys, line, told):
    write(folder, [line])
    assert run(folder, "--strict") == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and told in error and not any("error" in line for line in progress)
    assert not (folder / "records" / "mine").exists()


def test_more_references_than_the_model_has_are_not_cut_in_silence(folder, capsys):
    write(
        folder, [BOTH | {"target": "drawn_0.png"}, BOTH | {"text": "Draw.", "references": [], "target": "drawn_1.png"}]
    )
    assert run(folder, "--max_references=1") == 0
    assert "1 more references than --max_references" in capsys.readouterr().out


def test_a_file_that_is_missing_is_one_line(folder, capsys):
    assert run(folder) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("mine.jsonl: cannot be read (No such file or directory): give a .jsonl file in UTF-8")
    )
