"""HED in JAX against a plain numpy and scipy run of the same weights: small random ones, and the packaged ones."""

import io

import h5py
import jax
import numpy as np
import pytest
import small_hed
from scipy import ndimage
from small_hed import BLOCKS, CONVOLUTIONS, to_h5

from data_pipelines import packages
from data_pipelines.networks import hed


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[h, w, C] with zeros around -> [h, w, D]."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))  # [h, w, C, y, x]
    return np.einsum("hwcyx,yxcd->hwd", windows, kernel, optimize=True) + bias


def pool(x: np.ndarray) -> np.ndarray:
    height, width, channels = x.shape
    padded = np.pad(x, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=-np.inf)
    return padded.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).max((1, 3))


def reference(arrays: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """One picture [H, W, 3] through the whole network, in float64."""
    arrays = {path: np.asarray(array, np.float64) for path, array in arrays.items()}

    def layer(group: str, x: np.ndarray) -> np.ndarray:
        return convolve(x, arrays[f"{group}/vars/0"], arrays[f"{group}/vars/1"])

    x = image[..., ::-1] - np.array([104.00699, 116.66877, 122.67892])
    sides = []
    for block, count in zip(BLOCKS, CONVOLUTIONS, strict=True):
        x = x if block == "block1" else pool(x)
        for name in ("conv2d", "conv2d_1", "conv2d_2")[:count]:
            x = np.maximum(layer(f"{block}/layers/{name}", x), 0)
        side = layer(f"dsn{block[-1]}", x)[..., 0]
        factors = np.array(image.shape[:2]) / side.shape
        sides.append(ndimage.zoom(side, factors, order=1, mode="nearest", grid_mode=True))
    return 1 / (1 + np.exp(-layer("fuse", np.stack(sides, -1))[..., 0]))


def pictures(count: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=(count, height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    return np.clip(128 + 400 * smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 27)])
def test_equals_numpy_on_small_weights(height, width):
    images = pictures(2, height, width)
    expected = np.stack([reference(small_hed.weights(), image) for image in images])
    assert expected.std() > 0.01  # not a constant that anything would equal
    found = hed.edges(small_hed.params(), images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.skipif(not packages.cached(packages.HED), reason="the packaged HED weights are not in data/cache")
def test_equals_numpy_on_the_packaged_weights():
    weights = packages.open_member(packages.cached(packages.HED), hed.MEMBER)
    with h5py.File(io.BytesIO(weights)) as file:
        arrays = {}
        file.visititems(lambda path, node: arrays.update({path: node[()]}) if isinstance(node, h5py.Dataset) else None)
    assert sum(array.size for array in arrays.values()) == 14_716_171
    image = pictures(1, 40, 52)
    found = hed.edges(hed.load(weights), image)
    np.testing.assert_allclose(found[0], reference(arrays, image[0]), atol=1e-4)
    square = np.full((1, 64, 64, 3), 255, np.uint8)
    square[:, 16:48, 16:48] = (200, 30, 30)
    found = np.asarray(hed.edges(hed.load(weights), square)[0])
    assert found[15:17, 24:40].max(0).min() > 0.5 and found[28:36, 28:36].max() < 0.3  # the border, not the inside


def test_features_halve_at_each_block():
    params = small_hed.params()
    found = jax.jit(hed.features)(params, pictures(2, 37, 32))
    assert {name: x.shape for name, x in found.items()} == {
        "block1": (2, 37, 32, 4),
        "block2": (2, 19, 16, 6),
        "block3": (2, 10, 8, 8),
        "block4": (2, 5, 4, 8),
        "block5": (2, 3, 2, 8),
    }
    assert all((x >= 0).all() and x.any() for x in found.values())


def test_reads_a_file_as_its_bytes(tmp_path):
    path = tmp_path / "small.weights.h5"
    path.write_bytes(to_h5(small_hed.weights()))
    jax.tree.map(
        np.testing.assert_array_equal, hed.load(path, small_hed.WIDTHS), hed.load(path.read_bytes(), small_hed.WIDTHS)
    )


def test_foreign_files_are_one_clear_line(tmp_path):
    with pytest.raises(hed.HedError, match=r"none\.h5: no such file"):
        hed.load(tmp_path / "none.h5")
    with pytest.raises(hed.HedError, match="not a readable HDF5 file"):
        hed.load(b"PK no h5")
    arrays = small_hed.weights()
    with pytest.raises(hed.HedError, match=r"block1/layers/conv2d/vars holds .*\(3, 3, 3, 4\).*\(3, 3, 3, 64\)"):
        hed.load(to_h5(arrays))
    del arrays["fuse/vars/1"]
    with pytest.raises(hed.HedError, match="fuse/vars holds"):
        hed.load(to_h5(arrays), small_hed.WIDTHS)
