"""Control maps of a folder of captioned pictures, from the reader's options to items and records."""

import argparse
import json

import numpy as np
import onnx_writer
import pytest
import small_hed
from PIL import Image

from data_pipelines import prepare
from data_pipelines.conditions import extract, planes
from data_pipelines.images import fit_image
from data_pipelines.records import RecordReader, decode
from data_pipelines.sources import control
from data_pipelines.sources.item import Item, Skip, SourceError

SIZE = 32


def make_picture(seed, height=48, width=64):
    """A bright rectangle on dark ground, the left part of the red channel, somewhere."""
    image = np.full((height, width, 3), 20, np.uint8)
    top, left = np.random.default_rng(seed).integers(4, 16, 2)
    image[top : top + 20, left + 8 : left + 36] = (230, 160, 90)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten captioned pictures and one that is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = [{"file_name": f"{i}.png", "text": f"box number {i}"} for i in range(11)]
    for i in range(10):
        Image.fromarray(make_picture(i)).save(folder / f"{i}.png")
    (folder / "10.png").write_bytes(b"broken")
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network whose map is the red channel."""
    path = tmp_path_factory.mktemp("network") / "midas.onnx"
    red = np.float32([1, 0, 0]).reshape(1, 3, 1, 1)
    nodes = [("Conv", ["x", "k"], ["y"], {})]
    path.write_bytes(onnx_writer.model({"x": ["b", 3, 64, 64]}, {"y": ["b", 1, 64, 64]}, nodes, {"k": red}))
    return path


def parse(folder, *options):
    parser = argparse.ArgumentParser()
    control.add_arguments(parser)
    parser.add_argument("--size", type=int, default=SIZE)
    return parser.parse_args([f"--input={folder}", *options])


def read(folder, *options):
    """The items and skips, in lists."""
    found = list(control.items(parse(folder, *options)))
    return [each for each in found if isinstance(each, Item)], [each for each in found if isinstance(each, Skip)]


def reference(item):
    ((text, plane),) = item.references
    assert plane.shape == (SIZE, SIZE, 3) and plane.dtype == np.uint8 and (plane == plane[..., :1]).all()
    return text, plane[..., 0]


def test_depth_maps_align_with_their_targets(folder, network):
    found, skipped = read(folder, "--condition=depth", f"--network={network}")
    assert [skip.reason for skip in skipped] == ["broken image"]
    assert [item.caption for item in found] == [f"box number {i}" for i in range(10)]
    assert [item.group for item in found] == [f"{i}.png" for i in range(10)]  # whatever its captions are
    for i, item in enumerate(found):
        text, plane = reference(item)
        assert (item.task, text) == ("depth", "depth map")
        np.testing.assert_array_equal(item.target, fit_image(make_picture(i), SIZE))
        inside = item.target[..., 0] > 128
        assert (plane[inside] > 128).mean() > 0.95 and (plane[~inside] < 128).mean() > 0.95


def test_masks_are_given_maps_made_clean(folder, tmp_path):
    for i in range(9):  # the tenth has none
        mask = (make_picture(i)[..., 0] > 128) * np.uint8(200)
        mask[0, 20] = 200  # a speck
        Image.fromarray(mask).save(tmp_path / f"{i}.png")
    found, skipped = read(folder, "--condition=mask", f"--maps={tmp_path}", "--detail=1")
    assert sorted(skip.reason for skip in skipped) == ["broken image", "no map of that name"]
    for i, item in enumerate(found):
        text, plane = reference(item)
        assert text == "mask" and set(np.unique(plane)) == {0, 255}
        expected = fit_image(make_picture(i), SIZE)[..., 0] > 128
        assert (plane.astype(bool) ^ expected).mean() < 0.05 and not plane[0].any()


def test_edges_are_dilated_by_a_draw_that_is_the_same_in_every_run(folder):
    thin, _ = read(folder, "--condition=edge", "--method=canny", "--dilate=0")
    found, _ = read(folder, "--condition=edge", "--method=canny", "--dilate=2")
    again, _ = read(folder, "--condition=edge", "--method=canny")  # 2 is the default
    seen = set()
    for least, item, twin in zip(thin, found, again, strict=True):
        plane = reference(item)[1]
        np.testing.assert_array_equal(plane, reference(twin)[1])
        grown = [planes.dilate(reference(least)[1], pixels) for pixels in range(3)]
        (pixels,) = (pixels for pixels in range(3) if np.array_equal(plane, grown[pixels]))
        seen.add(pixels)
    assert seen == {0, 1, 2}


def test_edges_of_image_depth_and_mask_are_drawn_by_key(folder, network, tmp_path):
    for i in range(10):  # a mask that is elsewhere than the box
        mask = np.zeros((48, 64), np.uint8)
        mask[36:44, 16:24] = 255
        Image.fromarray(mask).save(tmp_path / f"{i}.png")
    options = ["--condition=edge", "--method=canny", "--dilate=0", f"--network=depth:{network}"]
    found, skipped = read(folder, *options, f"--maps=mask:{tmp_path}", "--of=image,depth,mask")
    assert len(found) == 10 and [skip.reason for skip in skipped] == ["broken image"]
    low = [not reference(item)[1][: SIZE // 2].any() for item in found]  # only the mask has nothing above
    assert 1 <= sum(low) <= 6
    assert low == [control._draw("of", item.key, 3) == 2 for item in found]


def test_hed_makes_edges_and_line_drawings(folder, monkeypatch):
    monkeypatch.setattr(control, "BATCH_PIXELS", 4 * SIZE**2)  # so that the ten make three batches
    find = extract.edge_finder(small_hed.params(), 4)
    monkeypatch.setattr(extract, "open_hed", lambda cache, batch: extract.edge_finder(small_hed.params(), batch))
    edges, _ = read(folder, "--condition=edge", "--dilate=0", "--detail=1")
    expected = find(np.stack([fit_image(make_picture(i), SIZE) for i in range(10)]))
    for item, probability in zip(edges, expected, strict=True):
        text, plane = reference(item)
        assert text == "edge map" and np.abs(plane - 255 * probability).max() < 0.51
    lines, _ = read(folder, "--condition=line", "--detail=1")
    for item, probability in zip(lines, expected, strict=True):
        assert (item.task, reference(item)[0]) == ("line", "sketch")
        np.testing.assert_array_equal(reference(item)[1], planes.sketch(probability))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--condition=depth"], "needs depth maps: give --network=depth:FILE.onnx or --maps=depth:FOLDER"),
        (["--condition=edge", "--of=image,mask"], "needs mask maps"),
        (["--condition=edge", "--maps=mask:FOLDER"], "no use for mask maps"),
        (["--condition=line", "--method=canny"], "are for --condition=edge, not line"),
        (["--condition=line", "--dilate=1"], "are for --condition=edge, not line"),
        (["--condition=edge", "--dilate=-1"], "must be at least 0 and 1"),
    ],
)
def test_options_that_do_not_go_together_are_one_clear_line(folder, options, message):
    with pytest.raises(SourceError, match=message):
        read(folder, *(option.replace("mask:FOLDER", f"mask:{folder}") for option in options))


def test_prepare_writes_records_under_the_conditions_name(folder, network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [f"--input={folder}", f"--network={network}", f"--size={SIZE}", "--splits=1,0,0"]
    assert prepare.main(["control", "--condition=depth", *options]) == 0
    assert "licence" in capsys.readouterr().out
    reader = RecordReader(tmp_path / "data/records/depth/train", "train")
    example = decode(reader.read(3))
    assert len(reader) == 10 and example.task == "depth"
    assert example.instruction.references[0].text == "depth map" and "box number 3" in example.instruction.text
    np.testing.assert_array_equal(example.target, fit_image(make_picture(3), SIZE))
