"""Reads a state dict of either of torch's file formats without torch and without trusting the file.

Layouts, as torch/serialization.py writes them. The older (`_legacy_save`): five pickles (magic number, protocol
version, system info, the object, the storage keys), then for each key an int64 count and the raw numbers. The newer
(`_save`): a zip archive whose one folder holds data.pkl and, for each storage key, data/KEY with the raw numbers. A
pickle may name any function, so only the handful that a state dict needs is let through. The embedders of retrieval
(paper section 3) and DINO's published weights come in these forms.
"""

import io
import pickle
import zipfile
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
    """A file that is not a plain state dict in one of torch's formats."""


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
        state, storages = (_read_archive if zipfile.is_zipfile(file) else _read_older)(file)
        return {name: _view(tensor, storages[tensor.storage[0]]) for name, tensor in state.items()}
    except TorchFileError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise TorchFileError(f"not a readable torch state dict ({type(error).__name__}: {error})") from error


def _read_older(file: io.BytesIO) -> tuple[dict, dict[str, np.ndarray]]:
    file.seek(0)
    if _Unpickler(file).load() != _MAGIC:
        raise TorchFileError("not a torch file of the older format: save it with safetensors instead")
    _, _, state, keys = (_Unpickler(file).load() for _ in range(4))
    dtypes = dict(tensor.storage for tensor in state.values())
    return state, {key: _read_storage(file, dtypes[key]) for key in keys}


def _read_archive(file: io.BytesIO) -> tuple[dict, dict[str, np.ndarray]]:
    with zipfile.ZipFile(file) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise TorchFileError("a torch file of a big-endian machine: save it with safetensors instead")
        state = _Unpickler(io.BytesIO(archive.read(f"{folder}/data.pkl"))).load()
        dtypes = dict(tensor.storage for tensor in state.values())
        return state, {key: np.frombuffer(archive.read(f"{folder}/data/{key}"), dtype) for key, dtype in dtypes.items()}


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
        kind, dtype, key, _, _, *view = pid  # the newer format has no views
        if kind != "storage" or any(view):
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
