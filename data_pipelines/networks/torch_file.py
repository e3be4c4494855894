"""Reads a state dict of torch's older file format without torch and without trusting the file.

Layout, as torch/serialization.py (`_legacy_save`) writes it: five pickles (magic number, protocol version, system info,
the object, the storage keys), then for each key an int64 count and the raw numbers. A pickle may name any function, so
only the handful that a state dict needs is let through. The embedders of retrieval (paper section 3) come in this form.
"""

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class TorchFileError(ValueError):
    """A file that is not a plain state dict in torch's older format."""


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose numbers come later in the file."""

    storage: tuple[str, np.dtype]  # key, type
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in items


def read_state(data: bytes) -> dict[str, np.ndarray]:
    """Name -> array of every tensor. Raises TorchFileError, one line, for anything but a plain state dict."""
    file = io.BytesIO(data)
    try:
        if _Unpickler(file).load() != _MAGIC:
            raise TorchFileError("not a torch file of the older format: save it with safetensors instead")
        _, _, state, keys = (_Unpickler(file).load() for _ in range(4))
        dtypes = dict(tensor.storage for tensor in state.values())
        storages = {key: _read_storage(file, dtypes[key]) for key in keys}
        return {name: _view(tensor, storages[tensor.storage[0]]) for name, tensor in state.items()}
    except TorchFileError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise TorchFileError(f"not a readable torch state dict ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise TorchFileError(f"the torch file asks for {module}.{name}, which a state dict has no use for: not loaded")

    def persistent_load(self, pid) -> tuple[str, np.dtype]:
        kind, dtype, key, _, _, view = pid
        if kind != "storage" or view is not None:
            raise TorchFileError(f"the torch file refers to a '{kind}' or a view of one, not to a plain storage")
        return key, dtype


def _rebuild(storage, offset, shape, strides, *_) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _read_storage(file: io.BytesIO, dtype: np.dtype) -> np.ndarray:
    (count,) = np.frombuffer(file.read(8), "<i8")
    return np.frombuffer(file.read(int(count) * dtype.itemsize), dtype, count)


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or last >= storage.size:
        raise TorchFileError("a tensor of the torch file reaches beyond its storage: the file is damaged")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
