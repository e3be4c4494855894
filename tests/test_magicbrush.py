"""MagicBrush in miniature, in the columns of osunlp/MagicBrush: edits, masks, turns, splits, and what is broken."""

import argparse
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.sources import magicbrush
from data_pipelines.sources.item import Item, Skip, SourceError

HOLE = (slice(2, 5), slice(3, 9))


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def picture(shade: int) -> np.ndarray:
    return np.full((8, 12, 3), shade, np.uint8)


def mask_picture(alpha: bool) -> bytes:
    """The source with a hole, transparent or white."""
    if not alpha:
        holed = picture(90)
        holed[HOLE] = 255
        return png(holed)
    rgba = np.concatenate([picture(90), np.full((8, 12, 1), 255, np.uint8)], axis=-1)
    rgba[HOLE] = 0
    return png(rgba)


def row(img_id="1001", turn_index=1, instruction="Replace the chocolate with a berry.", **changes):
    image = {
        name: {"bytes": png(picture(shade)), "path": f"{img_id}-{name}.png"}
        for name, shade in (("source", 90), ("target", 120))
    }
    fields = dict(img_id=img_id, turn_index=turn_index, instruction=instruction, source_img=image["source"])
    return fields | dict(mask_img={"bytes": mask_picture(True), "path": None}, target_img=image["target"]) | changes


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(path, *options):
    parser = argparse.ArgumentParser()
    magicbrush.add_arguments(parser)
    return list(magicbrush.items(parser.parse_args([f"--input={path}", *options])))


def test_edits_with_their_turns_and_splits(tmp_path):
    write(
        tmp_path / "data/train-00000-of-00051-9fd9f23e2b1cb397.parquet",
        row(),
        row(turn_index=2, instruction="make it a TV"),
    )
    write(tmp_path / "data/dev-00000-of-00004-d1efd62c48597ac6.parquet", row("2002"))
    dev, first, second = read(tmp_path)
    assert (first.task, first.change, first.key) == ("edit", "replace the chocolate with a berry", "1001-1")
    assert [text for text, _ in first.references] == ["content image"]
    assert first.references[0][1] == png(picture(90)) and first.target == png(picture(120))
    assert first.group == second.group == "1001" and (dev.split, first.split) == ("validation", "train")


@pytest.mark.parametrize("name", ["train", "dev"])
def test_files_of_one_split_alone_are_dealt_by_photograph(tmp_path, name):
    path = write(tmp_path / f"data/{name}-00000-of-00051.parquet", row(), row("2002"))
    for given in (path, tmp_path):
        assert [(item.split, item.group) for item in read(given)] == [("", "1001"), ("", "2002")]


@pytest.mark.parametrize("alpha", [True, False])
def test_the_hole_becomes_white_on_black(tmp_path, alpha):
    path = write(tmp_path / "train.parquet", row(mask_img={"bytes": mask_picture(alpha), "path": None}))
    (item,) = read(path, "--masked")
    assert item.task == "masked_edit" and [text for text, _ in item.references] == ["mask", "content image"]
    mask = item.references[0][1]
    expected = np.zeros((8, 12, 3), np.uint8)
    expected[HOLE] = 255
    np.testing.assert_array_equal(mask, expected)


def test_soft_edges_of_a_transparent_hole_stay_soft():
    rgba = np.dstack([picture(255), np.full((8, 12), 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 100
    mask = magicbrush.read_mask(png(rgba))
    assert (mask[0, 0, 0], mask[0, 1, 0], mask[1].max()) == (255, 155, 0)  # white paper round the hole is none


def test_broken_rows_are_skips(tmp_path):
    cut = {"bytes": mask_picture(True)[:40], "path": None}
    write(
        tmp_path / "train.parquet",
        row(mask_img=cut),
        row(mask_img={"bytes": png(picture(90)), "path": None}),
        row(target_img={"bytes": None, "path": None}),
        row(instruction=" . "),
        row("7"),
    )
    found = read(tmp_path, "--masked")
    assert [getattr(each, "reason", "") for each in found] == [
        "broken mask",
        "empty mask",
        "no picture",
        "no instruction",
        "",
    ]
    assert [type(each) for each in read(tmp_path)] == [
        Item,
        Item,
        Skip,
        Skip,
        Item,
    ]  # without --masked the mask is not read


def test_a_huge_mask_is_a_skip(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # the pictures have 96
    path = write(tmp_path / "train.parquet", row())
    assert [each.reason for each in read(path, "--masked")] == ["broken mask"]


@pytest.mark.parametrize(
    ("instruction", "change"),
    [
        ("Let the dog wear a hat.", "let the dog wear a hat"),
        ("What if the cat\n were  black?", "what if the cat were black?"),
        ("TV on the wall!", "TV on the wall"),
        ("I want a cow. ", "I want a cow"),
    ],
)
def test_change_of(instruction, change):
    assert magicbrush.change_of(instruction) == change


def test_a_set_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(SourceError, match=r"no parquet files: give the folder data/"):
        read(tmp_path / "nowhere")
    fields = row()
    del fields["mask_img"]
    write(tmp_path / "train.parquet", fields)
    with pytest.raises(SourceError, match=r"no column mask_img: its columns are img_id, turn_index, instruction"):
        read(tmp_path)
