"""Style transfer: small networks of the packaged layout in closed form, the pairing, and the packaged networks."""

import argparse
import json
import zipfile

import numpy as np
import onnx_writer
import pytest
from PIL import Image
from test_wikiart import write_parquet

from data_pipelines import packages
from data_pipelines.corpus import FIXTURE
from data_pipelines.networks import style
from data_pipelines.networks.onnx import OnnxError
from data_pipelines.sources import style_transfer
from data_pipelines.sources.item import Item, Skip, SourceError

TINTS = {"Realism": (200, 40, 40), "Color_Field_Painting": (40, 200, 40), "Cubism": (40, 40, 200)}


def predict_network():
    """A style picture to its mean colour, as the first three numbers of the code."""
    nodes = [
        ("ReduceMean", ["style"], ["mean"], {"axes": [1, 2], "keepdims": 1}),
        ("MatMul", ["mean", "widen"], ["code"], {}),
    ]
    shapes = {"style": [1, 256, 256, 3]}, {"code": [1, 1, 1, 100]}
    return onnx_writer.model(*shapes, nodes, {"widen": np.eye(3, 100, dtype=np.float32)})


def transform_network():
    """The mean of the content and the colour in the code."""
    nodes = [
        ("MatMul", ["code", "narrow"], ["colour"], {}),
        ("Add", ["content", "colour"], ["sum"], {}),
        ("Mul", ["sum", "half"], ["drawn"], {}),
    ]
    shapes = {"content": [1, 384, 384, 3], "code": [1, 1, 1, 100]}, {"drawn": [1, 384, 384, 3]}
    constants = {"narrow": np.eye(100, 3, dtype=np.float32), "half": np.float32([0.5])}
    return onnx_writer.model(*shapes, nodes, constants)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A wheel with the small networks under the names of the packaged ones."""
    path = tmp_path_factory.mktemp("wheel") / "small.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(style.PREDICT, predict_network())
        wheel.writestr(style.TRANSFORM, transform_network())
    return path


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 90)], -1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (80, 20)])
def test_the_content_keeps_its_size_and_place(archive, height, width):
    network, content = style.load(archive), gradient(height, width)
    tint = np.full((30, 50, 3), (200, 40, 120), np.uint8)
    np.testing.assert_allclose(network.style_code(tint)[:3], np.array([200, 40, 120]) / 255, atol=2e-3)
    drawn = network.stylize(content, tint)
    assert drawn.shape == content.shape and drawn.dtype == np.uint8
    assert np.abs(drawn - (content / 2 + tint[0, 0] / 2)).max() < 4


def test_what_is_no_network_is_one_clear_line():
    with pytest.raises(OnnxError, match=r"arbitrary_predict\.onnx: not an ONNX network"):
        style.StyleTransfer(b"none", transform_network())


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contents")
    for i in range(20):
        Image.fromarray(np.full((40, 40, 3), 12 * i, np.uint8)).save(folder / f"{i}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"grey {i}"}) for i in range(20)]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """STYLE/*.jpg: twelve pictures of one colour a style, and one that is broken."""
    folder = tmp_path_factory.mktemp("styles")
    for name, tint in TINTS.items():
        (folder / name).mkdir()
        for i in range(12):
            Image.fromarray(np.full((24, 24, 3), tint, np.uint8)).save(folder / name / f"{name}_{i}.png")
    (folder / "Cubism" / "broken.jpg").write_bytes(b"broken")
    return folder


def read(archive, monkeypatch, contents, styles, *options, splits=(0.5, 0.25, 0.25), seed=0):
    parser = argparse.ArgumentParser()
    style_transfer.add_arguments(parser)
    parser.set_defaults(size=32, splits=splits, seed=seed)
    monkeypatch.setattr(packages, "fetch", lambda package, cache: archive)
    found = list(style_transfer.items(parser.parse_args([f"--input={contents}", f"--styles={styles}", *options])))
    return [each for each in found if isinstance(each, Item)], [each for each in found if isinstance(each, Skip)]


def test_an_item_is_style_then_content_then_their_drawing(archive, monkeypatch, contents, styles):
    found, skipped = read(archive, monkeypatch, contents, styles)
    assert [skip.reason for skip in skipped] == ["broken image"] and len(found) == 20
    for item in found:
        (name, shown), (text, content) = item.references
        tint = TINTS[name.removesuffix(" style").replace(" ", "_")]
        assert (item.task, text, item.caption) == ("style_transfer", "content image", "")
        assert shown.shape == content.shape == (32, 32, 3) and np.abs(shown[0, 0] - np.array(tint)).max() <= 1
        assert np.abs(item.target[9, 9] - (content[9, 9] / 2 + np.array(tint) / 2)).max() < 2
        assert item.group == f"{content[9, 9, 0] // 12}.png"  # whatever its captions are


def test_no_style_picture_is_in_two_splits(archive, monkeypatch, contents, styles):
    found, _ = read(archive, monkeypatch, contents, styles, "--per_content=2")
    splits = {}
    for item in found:
        splits.setdefault(item.key.partition(" as ")[2], set()).add(item.split)
    assert all(len(seen) == 1 for seen in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}
    assert len({item.key for item in found}) == len(found) == 40


def test_pairing_depends_on_the_seed_alone(archive, monkeypatch, contents, styles):
    keys = [[item.key for item in read(archive, monkeypatch, contents, styles, seed=seed)[0]] for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_only_so_many_styles_are_kept_and_a_split_without_any_is_a_skip(archive, monkeypatch, contents, styles):
    found, skipped = read(archive, monkeypatch, contents, styles, "--max_styles=1")
    shown = {item.key.partition(" as ")[2] for item in found}
    assert len(shown) == 1 and found
    reasons = {skip.reason for skip in skipped} - {"broken image"}
    assert reasons and all(reason.startswith("no style picture in ") for reason in reasons)


def test_styles_come_from_wikiart_from_a_corpus_and_from_captioned_pictures(contents, styles, tmp_path):
    write_parquet(tmp_path / "data/train-00000.parquet", [(2, 1, 0), (1, 0, 1)])
    for spec, count, names in (
        (tmp_path, 2, {"Realism", "Post-Impressionism"}),
        (styles, 37, {"Realism", "Color Field Painting", "Cubism"}),
        (contents, 20, {None}),
        (FIXTURE, None, {"fluent_3d", "fluent_flat", "fluent_hc", "noto", "noto_blob"}),
    ):
        found = list(style_transfer.read_styles(str(spec)))
        assert len(found) == count or count is None
        assert names <= {each.meta.get("style") for each in found}, spec


def test_styles_that_cannot_be_read_are_one_clear_line(archive, monkeypatch, contents, tmp_path):
    with pytest.raises(SourceError, match="none: no such file or folder"):
        read(archive, monkeypatch, contents, tmp_path / "none")
    (tmp_path / "Cubism").mkdir()
    (tmp_path / "Cubism" / "a.jpg").write_bytes(b"broken")
    with pytest.raises(SourceError, match="no style picture that can be read"):
        read(archive, monkeypatch, contents, tmp_path)
    with pytest.raises(SourceError, match="must be 1 or more"):
        read(archive, monkeypatch, contents, tmp_path, "--per_content=0")


@pytest.mark.skipif(not packages.cached(packages.STYLE_TRANSFER), reason="the packaged networks are not in data/cache")
def test_the_packaged_networks_take_the_colours_of_the_style_and_the_shapes_of_the_content():
    network = style.load(packages.cached(packages.STYLE_TRANSFER))
    rng = np.random.default_rng(0)
    waves = np.sin(np.mgrid[:128, :128].sum(0) / 6)[..., None] * (0, 20, 60) + (10, 60, 190)
    blue = np.clip(waves + rng.normal(size=(128, 128, 1)) * 10, 0, 255).astype(np.uint8)
    content = np.full((96, 96, 3), 230, np.uint8)
    content[24:72, 24:72] = (200, 60, 20)
    drawn = network.stylize(content, blue).astype(float)
    assert network.style_code(blue).shape == (100,)
    assert drawn[..., 2].mean() > drawn[..., 0].mean() + 40  # blue, which the content is not
    inside, outside = drawn[32:64, 32:64].mean((0, 1)), drawn[:16].mean((0, 1))
    assert np.abs(inside - outside).max() > 20  # the square is still there
