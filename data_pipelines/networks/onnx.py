"""A user's own network in an ONNX file: depth (MiDaS, DPT) or salient object (U2-Net, BASNet), for control maps.

The paper takes depth from MiDaS and masks from BASNet (its section 4.1); no package ships their weights, but ONNX files
of them are common. What the file says of its input (name, layout, size) is read from it, so any of them fits.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float, UInt8
from PIL import Image

DYNAMIC_SIZE = 384  # where the file leaves the size open: what MiDaS was trained at, and a multiple of 32 as all need
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of R, G, B in 0..1
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What each family was trained with, by a word in its file's name; the first that fits ("dpt" is also called "midas").
NORMALISATIONS = {"dpt": HALF, "midas": IMAGENET, "u2net": IMAGENET, "basnet": IMAGENET}

Normalisation = tuple[Sequence[float], Sequence[float]]


class OnnxError(ValueError):
    """A network that cannot be used; one line with the file, what is wrong, and the mend."""


def open_session(model: str | os.PathLike | bytes, name: str = "") -> onnxruntime.InferenceSession:
    """An ONNX file, or its bytes under a `name` for messages, ready to run; on a GPU where onnxruntime has one."""
    name = name or str(model)
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise OnnxError(f"{name}: no such file; give the path of an .onnx file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own graph optimiser
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=providers
        )
    except Exception as error:  # onnxruntime's errors have no common class below this one
        raise OnnxError(f"{name}: not an ONNX network onnxruntime can run ({_brief(error)})") from error


def normalisation_of(path: str | os.PathLike) -> Normalisation:
    """The mean and standard deviation that the network of this file's name was trained with. Raises OnnxError."""
    for word, normalisation in NORMALISATIONS.items():
        if word in Path(path).name.lower().replace("-", "").replace("_", ""):
            return normalisation
    raise OnnxError(
        f"{path}: its name holds none of {', '.join(NORMALISATIONS)}, so how to normalise pictures is not known: "
        "give --mean and --std, such as --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 (ImageNet)"
    )


class OnnxNetwork:
    """Pictures to one map each: `network(images)`.

    Attributes:
      size: (height, width) that pictures are resized to for the network.
    """

    def __init__(self, path: str | os.PathLike, normalisation: Normalisation | None = None):
        """Opens the file. Raises OnnxError where it is missing, no ONNX network, or not one from pictures to maps."""
        self._name = str(path)
        self._session = open_session(path)
        self._mean, self._std = np.float32(normalisation or normalisation_of(path))
        self._input, shape = self._picture_input()
        self._one_by_one = shape[0] == 1
        self._channels_first = shape[1] == 3
        sides = shape[2:] if self._channels_first else shape[1:3]
        self.size = tuple(side if isinstance(side, int) else DYNAMIC_SIZE for side in sides)

    def __call__(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B H W"]:
        """The maps, each stretched to 0..1 (a constant one is 0). Raises OnnxError for an output that is no map."""
        x = np.stack([_resize(image, self.size) for image in images]).astype(np.float32) / 255
        x = (x - self._mean) / self._std
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2) if self._channels_first else x)
        runs = np.split(x, len(x)) if self._one_by_one else [x]
        maps = np.concatenate([self._run(run) for run in runs])
        return np.stack([_resize(_stretch(plane), images.shape[1:3]) for plane in maps])

    def _picture_input(self) -> tuple[str, list[int | str | None]]:
        """Name and shape of the one input; sizes left open are words or None."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            kinds = ", ".join(f"{given.name}: {given.type} {given.shape}" for given in inputs) or "nothing"
            raise OnnxError(f"{self._name}: takes {kinds}; it must take one float batch of pictures, of rank 4")
        name, shape = inputs[0].name, inputs[0].shape
        if isinstance(shape[0], int) and shape[0] != 1:
            raise OnnxError(f"{self._name}: takes batches of {shape[0]} only: export it with a batch of 1 or any")
        if 3 not in (shape[1], shape[3]):
            raise OnnxError(
                f"{self._name}: input {name} is {shape}: neither its second nor its last axis has 3 channels: "
                "it must take RGB pictures"
            )
        return name, shape

    def _run(self, x: np.ndarray) -> Float[np.ndarray, "b h w"]:
        try:
            y = self._session.run(None, {self._input: x})[0]  # of U2-Net's seven outputs the first is the fused one
        except Exception as error:
            raise OnnxError(f"{self._name}: fails on pictures of {self.size} ({_brief(error)})") from error
        found = y.shape
        if y.ndim == 4 and 1 in (y.shape[1], y.shape[3]):
            y = y[:, 0] if y.shape[1] == 1 else y[..., 0]
        if y.ndim != 3 or len(y) != len(x):
            raise OnnxError(
                f"{self._name}: its first output is {list(found)}; a map is [batch, height, width] or has one channel"
            )
        if not np.isfinite(y).all():
            raise OnnxError(f"{self._name}: gives values that are not finite: is it a half-precision export?")
        return y.astype(np.float32)


def _resize(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A picture [h, w, 3] uint8 or a plane [h, w] float32 to size = (height, width), bilinear with antialiasing."""
    height, width = size
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))


def _stretch(plane: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    low, high = plane.min(), plane.max()
    return (plane - low) / (high - low) if high > low else np.zeros_like(plane)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
