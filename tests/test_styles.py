"""Style-reference folders: references, captions beside and in files, the similarity filter, and groups by style."""

import argparse
import json

import pytest
from PIL import Image

from data_pipelines.corpus import FIXTURE
from data_pipelines.sources import styles
from data_pipelines.sources.item import Item, Skip, SourceError


def read(*options, seed=0):
    parser = argparse.ArgumentParser()
    styles.add_arguments(parser)
    parser.set_defaults(seed=seed)
    found = list(styles.items(parser.parse_args([str(option) for option in options])))
    return [item for item in found if isinstance(item, Item)], [item for item in found if isinstance(item, Skip)]


def write_picture(path, caption=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    if caption:
        path.with_suffix(".txt").write_text(caption)


@pytest.fixture
def folder(tmp_path):
    """One style with a marked reference, one where any picture serves."""
    write_picture(tmp_path / "water_color/reference.jpg")
    for name in ("cat", "dog", "owl"):
        write_picture(tmp_path / f"water_color/{name}.png", f"a {name}")
        write_picture(tmp_path / f"Pop Art style/{name}.png", f"a {name}")
    return tmp_path


def test_samples_with_a_reference_of_their_style(folder):
    items, skips = read(f"--input={folder}")
    assert not skips
    assert len(items) == 6
    for item in items:
        ((text, reference),) = item.references
        assert (item.task, text, item.caption) == ("style", "style image", f"a {item.target.stem}")
        assert reference != item.target and reference.parent == item.target.parent
        assert item.group == f"style:{item.target.parent.name}"
        assert (reference.stem == "reference") == (item.target.parent.name == "water_color")


def test_styles_by_name(folder):
    items, _ = read(f"--input={folder}", "--name_styles")
    assert {item.references[0][0] for item in items} == {"water color style", "Pop Art style"}


def test_the_reference_is_a_function_of_the_seed(folder):
    first, again, *others = (read(f"--input={folder}", seed=seed)[0] for seed in (0, 0, 1, 2))
    assert first == again
    assert any(first != other for other in others)


def write_captions(folder, style, **similarities):
    rows = [{"file_name": f"{name}.png", "text": f"a {name}", **({"similarity": value} if value is not None else {})}
            for name, value in similarities.items()]  # fmt: skip
    (folder / style / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_similarity_filter_counts_what_it_leaves_out(folder):
    write_captions(folder, "water_color", cat=0.31, dog=0.2, owl=None)
    write_captions(folder, "Pop Art style", cat=0.3, dog="high")
    items, skips = read(f"--input={folder}", "--min_similarity=0.3")
    assert [(item.target.parent.name, item.target.stem) for item in items] == [
        ("Pop Art style", "cat"),
        ("water_color", "cat"),
    ]
    assert [skip.reason for skip in skips] == ["no similarity", "low similarity", "no similarity"]
    assert len(read(f"--input={folder}")[0]) == 5


def test_one_caption_file_for_all_styles(folder):
    rows = [{"file_name": f"water_color/{name}", "text": "a thing"} for name in ("cat.png", "reference.jpg", "no.png")]
    rows.append({"file_name": "loose.png", "text": "a thing"})
    write_picture(folder / "loose.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items, skips = read(f"--input={folder}")
    assert [item.target.name for item in items] == ["cat.png"]
    assert [skip.reason for skip in skips] == ["no such picture", "in no style's folder", "style without captions"]


def test_pictures_that_cannot_be_used_are_counted(folder):
    write_picture(folder / "alone/cat.png", "a cat")
    write_picture(folder / "bare/cat.png")
    (folder / "water_color/cat.png").write_bytes(b"no picture")
    items, skips = read(f"--input={folder}")
    assert len(items) == 6  # the runner counts what it cannot decode
    assert sorted(skip.reason for skip in skips) == [
        "no caption",
        "only picture of its style",
        "style without captions",
    ]


def test_a_corpus_is_one_line():
    with pytest.raises(SourceError, match="its pictures are no files: give folders of picture files, one a style"):
        read(f"--input={FIXTURE}")


@pytest.mark.parametrize("name", ["", "nowhere", "water_color"])
def test_a_folder_without_styles_is_one_line(folder, name):
    if not name:
        folder = folder / "empty"
        folder.mkdir()
    with pytest.raises(SourceError, match="no folders with pictures: give a folder that holds one folder a style"):
        read(f"--input={folder / name}")
