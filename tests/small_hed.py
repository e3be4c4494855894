"""Random weights in the layout of the packaged HED, small enough for tests."""

import io

import h5py
import numpy as np

from data_pipelines.networks import hed

WIDTHS = (4, 6, 8, 8, 8)
BLOCKS = ("block1", "block2", "block3", "block4", "block5")
CONVOLUTIONS = (2, 2, 3, 3, 3)


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays by their place in a .weights.h5 file, scaled so that activations neither die nor grow."""
    rng = np.random.default_rng(seed)
    arrays, inputs = {}, 3

    def add(group: str, *shape: int) -> None:
        gain = np.sqrt(2 / np.prod(shape[:-1]))
        arrays[f"{group}/vars/0"] = (rng.normal(size=shape) * gain).astype(np.float32)
        arrays[f"{group}/vars/1"] = rng.normal(size=shape[-1:]).astype(np.float32)

    for block, width, count in zip(BLOCKS, WIDTHS, CONVOLUTIONS, strict=True):
        for name in ("conv2d", "conv2d_1", "conv2d_2")[:count]:
            add(f"{block}/layers/{name}", 3, 3, inputs, width)
            inputs = width
        add(f"dsn{block[-1]}", 1, 1, width, 1)
        arrays[f"dsn{block[-1]}/vars/0"] /= 40  # so that probabilities are not all 0 or 1
    add("fuse", 1, 1, 5, 1)
    return arrays


def to_h5(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as a .weights.h5 file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, array in arrays.items():
            file[path] = array
    return buffer.getvalue()


def params() -> hed.Params:
    """The weights as hed.load gives them."""
    return hed.load(to_h5(weights()), WIDTHS)
