"""Subject-driven sets on miniatures of their published layouts: Subjects200K, CustomConcept101, DreamBooth."""

import argparse
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.sources import groups, subjects, subjects200k
from data_pipelines.sources.item import Item, Skip, SourceError


def read(*options, seed=0):
    parser = argparse.ArgumentParser()
    subjects.add_arguments(parser)
    parser.set_defaults(seed=seed)
    found = list(subjects.items(parser.parse_args([str(option) for option in options])))
    return [item for item in found if isinstance(item, Item)], [item for item in found if isinstance(item, Skip)]


# Subjects200K


def pair(size=(1056, 528), left=50, right=200) -> bytes:
    """The published geometry: the pictures grey `left` and `right`, white around them."""
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    canvas[8:520, 8:520], canvas[8:520, 528:1040] = left, right
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


def row(item="Eames Lounge Chair.", scores=(5, 5, 5), valid=True, image=None, first="A chair by the sea."):
    return {
        "image": {"bytes": pair() if image is None else image, "path": None},
        "collection": "collection_2",
        "quality_assessment": scores and dict(zip(subjects200k.QUALITIES, scores, strict=True)),
        "description": {
            "item": item,
            "description_0": first,
            "description_1": "A chair in a studio.",
            "category": "Furniture",
            "description_valid": valid,
        },
    }


def write_parquet(folder, rows, name="train-00000-of-00032.parquet"):
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / name)
    return folder


def test_both_directions_of_a_pair(tmp_path):
    items, skips = read(f"--input={write_parquet(tmp_path, [row()])}")
    assert not skips
    assert [item.key for item in items] == ["train-00000-of-00032:0:0", "train-00000-of-00032:0:1"]
    assert [item.caption for item in items] == ["A chair by the sea.", "A chair in a studio."]
    for item, target, reference in zip(items, (50, 200), (200, 50), strict=True):
        ((words, picture),) = item.references
        assert words == "Eames Lounge Chair"
        assert item.target.shape == picture.shape == (512, 512, 3)
        assert (item.target == target).all() and (picture == reference).all()
    assert {item.group for item in items} == {"subjects200k:eames lounge chair"}


def test_rows_that_are_left_out_say_why(tmp_path):
    rows = [
        row(scores=(5, 4, 5)),
        row(scores=None),
        row(scores=(5, None, 5)),
        row(valid=False),
        row(first=None),
        row(image=b""),
        row(image=b"no picture"),
        row(image=pair((1100, 528))),
        row(valid=None),
    ]
    items, skips = read(f"--input={write_parquet(tmp_path, rows)}")
    assert [item.key[-3:] for item in items] == ["8:0", "8:1"]
    assert [skip.reason for skip in skips] == [
        "low quality",
        "quality not assessed",
        "quality not assessed",
        "description not valid",
        "no caption",
        "no picture",
        "broken image",
        "not a pair side by side",
    ]
    assert skips[-1].where.endswith("row 7: 1100 x 528 px")


def test_quality_is_the_users_choice(tmp_path):
    folder = write_parquet(tmp_path, [row(scores=(4, 5, 5)), row(scores=None), row(scores=(3, 5, 5))])
    assert len(read(f"--input={folder}", "--min_quality=4")[0]) == 2
    assert len(read(f"--input={folder}", "--min_quality=0")[0]) == 6


@pytest.mark.parametrize(
    ("size", "padding", "side"),
    [
        ((1056, 528), None, 512),
        ((1048, 528), None, 512),
        ((1024, 512), None, 512),
        ((2048, 1024), None, 1024),
        ((2080, 1040), None, 1024),
        ((1056, 528), 0, 528),
        ((200, 100), 10, 80),
        ((1000, 528), None, None),
        ((1024, 600), None, None),
        ((512, 512), None, None),
        ((200, 100), 50, None),
        ((200, 100), -1, None),
    ],
)
def test_geometry_of_a_pair(size, padding, side):
    found = subjects200k.cut(np.zeros((size[1], size[0], 3), np.uint8), padding)
    assert found is None if side is None else [each.shape for each in found] == [(side, side, 3)] * 2


def test_a_wrong_column_names_those_found(tmp_path):
    rows = [{"picture": b"", "description": "x"}]
    with pytest.raises(SourceError, match="no column image, quality_assessment: its columns are picture, description"):
        read(f"--input={write_parquet(tmp_path, rows)}")


def test_descriptions_of_another_form_are_counted(tmp_path):
    folder = write_parquet(tmp_path, [row() | {"description": "a chair"}])
    assert [skip.reason for skip in read(f"--input={folder}")[1]] == ["no caption"]


def test_a_broken_file_costs_itself_only(tmp_path):
    write_parquet(tmp_path, [row()], "train-00001-of-00032.parquet")
    (tmp_path / "data/train-00000-of-00032.parquet").write_bytes(b"PAR1 cut off")
    items, skips = read(f"--input={tmp_path}")
    assert len(items) == 2
    assert [skip.reason for skip in skips] == ["broken parquet file"]


# folders


def write_pictures(folder, count):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i:02}.jpg")


def write_concepts(folder):
    concepts = [
        {
            "instance_prompt": f"photo of a <new1> {words}",
            "class_prompt": words,
            "instance_data_dir": f"./benchmark_dataset/{name}",
            "class_data_dir": f"./regularization/{name}",
            "prompt_filename": "prompts/things.txt",
        }
        for name, words in (("actionfigure_1", "action figure"), ("wearable_sunglasses2", "sunglasses"), ("x", "cup"))
    ]
    (folder / "dataset.json").write_text(json.dumps(concepts))
    write_pictures(folder / "benchmark_dataset/actionfigure_1", 5)
    write_pictures(folder / "benchmark_dataset/wearable_sunglasses2", 2)
    return folder


def write_dreambooth(folder):
    write_pictures(folder / "dataset/backpack_dog", 4)
    write_pictures(folder / "dataset/teapot", 1)
    text = "Classes\n\nsubject_name,class\nbackpack_dog,backpack\nteapot,teapot\n\nPrompts\n\n'a {0}, in the jungle',\n"
    (folder / "dataset/prompts_and_classes.txt").write_text(text)
    return folder


def check_subjects(items):
    for item in items:
        references = [picture for _, picture in item.references]
        assert item.task == "subject"
        assert {picture.parent for picture in references} == {item.target.parent}
        assert item.target not in references and len(set(references)) == len(references) <= 3
        assert {words for words, _ in item.references} == {item.caption}


def test_custom_concept101(tmp_path):
    items, skips = read(f"--input={write_concepts(tmp_path)}")
    check_subjects(items)
    assert len(items) == 7
    assert {(item.group, item.caption) for item in items} == {
        ("custom_concept101:actionfigure_1", "an action figure"),
        ("custom_concept101:wearable_sunglasses2", "sunglasses"),
    }
    assert [skip.reason for skip in skips] == ["no such folder"]


def test_dreambooth(tmp_path):
    items, skips = read(f"--input={write_dreambooth(tmp_path)}")
    check_subjects(items)
    assert {(item.group, item.caption) for item in items} == {("dreambooth:backpack_dog", "a backpack")}
    assert len(items) == 4
    assert [skip.reason for skip in skips] == ["fewer than two pictures of a subject"]


def test_references_are_drawn_by_the_seed(tmp_path):
    folder = write_concepts(tmp_path)
    first, again, other = (read(f"--input={folder}", seed=seed)[0] for seed in (0, 0, 1))
    assert first == again != other


def test_a_corrupt_picture_is_left_to_the_runner(tmp_path):
    folder = write_dreambooth(tmp_path)
    (folder / "dataset/backpack_dog/00.jpg").write_bytes(b"")
    assert len(read(f"--input={folder}")[0]) == 4


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("dataset.json", '[{"class": "cup"}]', "has no 'instance_data_dir': the first one's keys are class"),
        ("dataset.json", "[1", "not CustomConcept101's list of concepts"),
        ("prompts_and_classes.txt", "name,class\n", "no line 'subject_name,class'"),
        ("prompts_and_classes.txt", "subject_name,class\n", "no subject below"),
        ("readme.txt", "", "none of the known sets: give a folder with one of"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, file, text, expected):
    (tmp_path / file).write_text(text)
    with pytest.raises(SourceError, match=expected) as caught:
        read(f"--input={tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_folder_of_two_kinds_needs_the_format(tmp_path):
    write_dreambooth(write_concepts(tmp_path))
    with pytest.raises(SourceError, match="could be custom_concept101 or dreambooth: say which by --format"):
        read(f"--input={tmp_path}")
    assert len(read(f"--input={tmp_path}", "--format=dreambooth")[0]) == 4
    with pytest.raises(SourceError, match="is no folder of subjects200k"):
        read(f"--input={tmp_path}", "--format=subjects200k")


# words


@pytest.mark.parametrize(("noun", "phrase"), [("fox", "a fox"), ("Umbrella", "an Umbrella"), ("shoes", "shoes")])
def test_with_article(noun, phrase):
    assert groups.with_article(noun) == phrase


def test_join_words():
    assert [groups.join_words("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
