"""Photo-Sketching on a miniature of its published layout, and folders of pairs."""

import argparse

import pytest
from PIL import Image

from data_pipelines.sources import sketch
from data_pipelines.sources.item import Item, Skip, SourceError


def read(*options):
    parser = argparse.ArgumentParser()
    sketch.add_arguments(parser)
    parser.set_defaults(seed=0)
    found = list(sketch.items(parser.parse_args([str(option) for option in options])))
    return [item for item in found if isinstance(item, Item)], [item for item in found if isinstance(item, Skip)]


def write_picture(path, shade=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)


@pytest.fixture
def folder(tmp_path):
    """ContourDrawing: image, list, sketch-rendered/width-5, of three photographs with five drawings each."""
    root = tmp_path / "ContourDrawing"
    for number, file in enumerate(("train", "val", "test")):
        name = f"000{number:05}"
        write_picture(root / f"image/{name}.jpg")
        for drawing in range(1, 6):
            write_picture(root / f"sketch-rendered/width-5/{name}_{drawing:02}.png")
        (root / "list").mkdir(exist_ok=True)
        (root / f"list/{file}.txt").write_text(f"{name}\n")
    rows = "".join(f"image/000{number:05}.jpg,a house by a lake\n" for number in range(3))
    (root / "captions.csv").write_text(f"image,caption\n{rows}")
    return root


def test_every_drawing_with_its_photograph_in_the_published_splits(folder):
    items, skips = read(f"--input={folder}", f"--captions={folder / 'captions.csv'}")
    assert not skips
    assert len(items) == len({item.key for item in items}) == 15
    assert [item.split for item in items] == ["train"] * 5 + ["validation"] * 5 + ["test"] * 5
    for item in items:
        ((text, drawing),) = item.references
        assert (item.task, text, item.caption) == ("line", "sketch", "a house by a lake")
        assert drawing.stem[:8] == item.target.stem == item.group


def test_captions_as_lines_of_json(folder):
    (folder / "captions.jsonl").write_text('{"file_name": "image/00000001.jpg", "text": "a pond"}\n')
    items, skips = read(f"--input={folder}", f"--captions={folder / 'captions.jsonl'}")
    assert {item.caption for item in items} == {"a pond"}
    assert [skip.reason for skip in skips] == ["no caption", "no caption"]


def test_without_captions_only_when_asked_to(folder):
    with pytest.raises(SourceError, match="the set has no captions: give --captions=FILE, or --allow_no_caption"):
        read(f"--input={folder}")
    items, skips = read(f"--input={folder}", "--allow_no_caption")
    assert {item.caption for item in items} == {"the drawn scene"}
    assert not skips


def test_missing_and_corrupt_pictures(folder):
    (folder / "image/00000000.jpg").unlink()
    (folder / "image/00000001.jpg").write_bytes(b"no picture")
    for drawing in folder.glob("sketch-rendered/width-5/00000002_*"):
        drawing.unlink()
    items, skips = read(f"--input={folder}", "--allow_no_caption")
    assert {item.target.name for item in items} == {"00000001.jpg"}  # the runner counts what it cannot decode
    assert [skip.reason for skip in skips] == ["no photograph", "no sketch"]


@pytest.mark.parametrize("pattern", ["{}.png", "{}_1.png"])
def test_two_folders_of_pairs(tmp_path, pattern):
    for name in ("cat_01", "dog"):
        write_picture(tmp_path / f"A/{name}.jpg")
        write_picture(tmp_path / "B" / pattern.format(name))
    options = [f"--input={tmp_path}", "--photographs=A", "--drawings=B", "--lists=", "--allow_no_caption"]
    items, skips = read(*options)
    assert [(item.target.stem, item.group, item.split) for item in items] == [
        ("cat_01", "cat_01", ""),
        ("dog", "dog", ""),
    ]
    assert not skips


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--allow_no_caption", "--lists=lists"], r"lists.train\.txt: no such file: unpack the lists .* --lists="),
        (["--allow_no_caption", "--drawings=sketches"], "sketches: no pictures there: unpack them, or correct"),
        (["--captions={}/list/train.txt"], r"is no \.csv or \.jsonl"),
        (["--captions={}/captions.jsonl"], "no such file"),
        (["--captions={}/wrong.csv"], "its columns are photo, words"),
    ],
)
def test_what_is_wrong_is_one_line(folder, options, expected):
    (folder / "wrong.csv").write_text("photo,words\nimage/00000000.jpg,a house\n")
    with pytest.raises(SourceError, match=expected) as caught:
        read(f"--input={folder}", *(option.format(folder) for option in options))
    assert "\n" not in str(caught.value)
