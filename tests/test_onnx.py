"""Networks from ONNX files: closed forms through small ones, and one clear line for each that does not fit."""

import numpy as np
import onnx_writer
import pytest
from PIL import Image

from data_pipelines.networks import onnx
from data_pipelines.networks.onnx import OnnxError, OnnxNetwork

RED = np.float32([1, 0, 0]).reshape(1, 3, 1, 1)


def write(path, shape, nodes, outputs=None, **constants):
    path.write_bytes(onnx_writer.model({"x": shape}, outputs or {"y": ["b", "h", "w"]}, nodes, constants))
    return path


def red_channel(path, shape=("b", 3, "h", "w")):
    """[b, 3, h, w] -> its first channel [b, 1, h, w], as a 1x1 convolution."""
    return write(path, list(shape), [("Conv", ["x", "k"], ["y"], {})], {"y": ["b", 1, "h", "w"]}, k=RED)


def pictures(count=2, height=24, width=32):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 6, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(picture).resize((width, height))) for picture in small])


def stretched(planes):
    low, high = planes.min((1, 2), keepdims=True), planes.max((1, 2), keepdims=True)
    return (planes - low) / (high - low)


def test_a_fixed_size_network_gives_maps_of_the_pictures_size(tmp_path):
    images = pictures()
    found = OnnxNetwork(red_channel(tmp_path / "midas.onnx", (1, 3, 24, 32)))(images)
    np.testing.assert_allclose(found, stretched(images[..., 0].astype(float)), atol=1e-5)
    network = OnnxNetwork(red_channel(tmp_path / "midas.onnx", (1, 3, 48, 64)))
    assert network.size == (48, 64)
    np.testing.assert_allclose(network(images), found, atol=0.1)  # up and down again: nearly the same


def test_sizes_left_open_are_those_of_midas(tmp_path):
    network = OnnxNetwork(red_channel(tmp_path / "midas.onnx"))
    assert network.size == (onnx.DYNAMIC_SIZE, onnx.DYNAMIC_SIZE)
    assert network(pictures()).shape == (2, 24, 32)


def test_channels_last_and_maps_of_rank_three(tmp_path):
    path = tmp_path / "u2netp.onnx"
    write(path, ["b", 24, 32, 3], [("ReduceMean", ["x"], ["y"], {"axes": [3], "keepdims": 0})])
    images = pictures()
    normalised = (images / 255 - np.array(onnx.IMAGENET[0])) / np.array(onnx.IMAGENET[1])
    np.testing.assert_allclose(OnnxNetwork(path)(images), stretched(normalised.mean(-1)), atol=1e-5)


def test_the_normalisation_reaches_the_network(tmp_path):
    """|x| is smallest where the picture equals the mean, whatever the stretch."""
    nodes = [("Abs", ["x"], ["a"], {}), ("Conv", ["a", "k"], ["y"], {})]
    path = write(tmp_path / "mine.onnx", [1, 3, 1, 5], nodes, {"y": [1, 1, 1, 5]}, k=RED)
    images = np.zeros((1, 1, 5, 3), np.uint8)
    images[..., 0] = (0, 51, 102, 153, 255)
    found = OnnxNetwork(path, ((0.4, 0, 0), (0.2, 1, 1)))(images)
    np.testing.assert_allclose(found[0, 0], [2 / 3, 1 / 3, 0, 1 / 3, 1], atol=1e-6)


def test_the_first_of_several_outputs_counts(tmp_path):
    nodes = [("Conv", ["x", "k"], ["y"], {}), ("Neg", ["y"], ["z"], {})]
    outputs = {"y": ["b", 1, "h", "w"], "z": ["b", 1, "h", "w"]}
    path = write(tmp_path / "u2net.onnx", [1, 3, 24, 32], nodes, outputs, k=RED)
    images = pictures()
    np.testing.assert_allclose(OnnxNetwork(path)(images), stretched(images[..., 0].astype(float)), atol=1e-5)


def test_a_constant_map_is_zero(tmp_path):
    network = OnnxNetwork(red_channel(tmp_path / "midas.onnx", (1, 3, 8, 8)))
    assert not network(np.full((1, 8, 8, 3), 77, np.uint8)).any()


def test_names_tell_the_normalisation():
    assert onnx.normalisation_of("weights/dpt_large_midas.onnx") == onnx.HALF
    assert onnx.normalisation_of("MiDaS-v21-small.onnx") == onnx.IMAGENET
    assert onnx.normalisation_of("U-2-Net.onnx") == onnx.IMAGENET
    with pytest.raises(OnnxError, match=r"depth\.onnx: its name holds none of dpt, midas.*--mean"):
        onnx.normalisation_of("depth.onnx")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_is_no_network_is_one_clear_line(tmp_path, content):
    with pytest.raises(OnnxError, match=r"none\.onnx: no such file"):
        OnnxNetwork(tmp_path / "none.onnx")
    (tmp_path / "midas.onnx").write_bytes(content)
    with pytest.raises(OnnxError, match=r"midas\.onnx: not an ONNX network") as caught:
        OnnxNetwork(tmp_path / "midas.onnx")
    assert "\n" not in str(caught.value)


def test_inputs_that_are_no_pictures_are_refused(tmp_path):
    path = tmp_path / "midas.onnx"
    with pytest.raises(OnnxError, match=r"input x is \[1, 4, 8, 8\].*3 channels"):
        OnnxNetwork(write(path, [1, 4, 8, 8], [("Neg", ["x"], ["y"], {})], {"y": [1, 4, 8, 8]}))
    with pytest.raises(OnnxError, match="of rank 4"):
        OnnxNetwork(write(path, [3, 8, 8], [("Neg", ["x"], ["y"], {})]))
    with pytest.raises(OnnxError, match="batches of 4 only"):
        OnnxNetwork(red_channel(path, (4, 3, 8, 8)))
    two = onnx_writer.model({"x": [1, 3, 8, 8], "z": [1]}, {"y": [1, 3, 8, 8]}, [("Add", ["x", "z"], ["y"], {})])
    path.write_bytes(two)
    with pytest.raises(OnnxError, match=r"takes x: .*, z: .*one float batch"):
        OnnxNetwork(path)


def test_outputs_that_are_no_maps_are_refused(tmp_path):
    path = write(tmp_path / "midas.onnx", [1, 3, 8, 8], [("Neg", ["x"], ["y"], {})], {"y": [1, 3, 8, 8]})
    with pytest.raises(OnnxError, match=r"its first output is \[1, 3, 8, 8\]"):
        OnnxNetwork(path)(pictures())
    pooled = [("ReduceMean", ["x"], ["y"], {"axes": [1, 2, 3], "keepdims": 0})]
    with pytest.raises(OnnxError, match=r"its first output is \[1\]"):
        OnnxNetwork(write(path, [1, 3, 8, 8], pooled, {"y": [1]}))(pictures())
    roots = [("Conv", ["x", "k"], ["c"], {}), ("Sqrt", ["c"], ["y"], {})]
    with pytest.raises(OnnxError, match="not finite"):
        OnnxNetwork(write(path, [1, 3, 8, 8], roots, {"y": [1, 1, 8, 8]}, k=RED))(pictures())
