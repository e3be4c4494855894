"""The encoder of a T5X checkpoint, read without the t5x package: the form in which Google publishes T5 1.1 and flan-t5.

`checkpoint_<step>/checkpoint` is a msgpack tree whose leaves are arrays or tensorstore specs; the arrays of the latter
lie beside it, one zarr folder each (t5x/checkpoints.py of the t5x repository writes them). The paper's text encoder is
a frozen T5-XXL (section 3.3). Each device reads only its own part of each array.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax import partition
from imagen_jax.pretrained import WeightsError
from imagen_jax.types import Array

_AGAIN = "download the checkpoint again"
_RESIZE = "set text_encoder to the sizes of this checkpoint"


def is_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether `folder`, local or gs://, is a T5X checkpoint (checkpoint_<step>/)."""
    return (epath.Path(folder) / "checkpoint").is_file()


def load(folder: str | os.PathLike, abstract_params: Mapping, shardings: Mapping | None = None) -> dict:
    """Parameters of a T5Encoder from a T5X checkpoint folder; arguments and result as `pretrained.load_t5`.

    Raises WeightsError naming the array and the mend; all names, shapes and chunks are checked before any is read.
    """
    folder = epath.Path(folder)
    saved = _saved_leaves(folder)
    leaves = flatten_dict(abstract_params, sep="/")
    sources = {path: _find(folder, saved, path, leaf.shape) for path, leaf in leaves.items()}
    _check_all_used(folder, saved, sources)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = dict.fromkeys(leaves, here) if shardings is None else flatten_dict(shardings, sep="/")
    return unflatten_dict({path: _read(sources[path], leaf, places[path]) for path, leaf in leaves.items()}, sep="/")


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where one leaf lies; `layer` is its place on axis 1 of a scanned checkpoint's stacked array."""

    name: str
    array: Any  # np.ndarray or tensorstore.TensorStore
    layer: int | None

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        place = index if self.layer is None else (index[0], self.layer, *index[1:])
        part = self.array[place]
        if isinstance(part, np.ndarray):
            return part
        try:
            return part.read().result()
        except ValueError as error:  # a chunk that is cut off
            raise WeightsError(f"array {self.name}: {' '.join(str(error).split())[:120]}; {_AGAIN}") from None


def _saved_leaves(folder: epath.Path) -> dict[str, Any]:
    """'/'-joined path below the parameters -> array or tensorstore spec."""
    file = folder / "checkpoint"
    try:
        tree = serialization.msgpack_restore(file.read_bytes())["optimizer"]["target"]
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror}; give a T5X checkpoint_<step> folder") from None
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{file}: not a T5X checkpoint ({type(error).__name__}); {_AGAIN}") from None
    return flatten_dict(tree, sep="/", is_leaf=lambda _, node: "kvstore" in node)


def _find(folder: epath.Path, saved: Mapping[str, Any], path: str, shape: tuple[int, ...]) -> _Source:
    """The source of leaf `path`, in the plain or in the scanned layout; its shape and chunks are checked."""
    stacked = re.sub(r"^encoder/layers_(\d+)/", "encoder/encoder/", path)
    name = path if path in saved else stacked
    if name not in saved:
        raise WeightsError(f"{folder}: array {path} is missing; {_AGAIN}, or {_RESIZE}")
    layer = int(re.match(r"encoder/layers_(\d+)", path)[1]) if name != path else None
    array = _open(folder, name, saved[name])
    found = tuple(array.shape) if layer is None else (*array.shape[:1], *array.shape[2:])
    if found != tuple(shape) or (layer is not None and layer >= array.shape[1]):
        raise WeightsError(f"{folder}: array {name} has shape {tuple(array.shape)}, {path} asks for {shape}; {_RESIZE}")
    return _Source(name, array, layer)


def _check_all_used(folder: epath.Path, saved: Mapping[str, Any], sources: Mapping[str, _Source]) -> None:
    """No layer of the saved encoder may be left out silently."""
    used = {source.name for source in sources.values()}
    for name in saved:
        if name.startswith("encoder/") and name not in used:
            raise WeightsError(f"{folder}: array {name} has no place in the configured encoder; {_RESIZE}")
    layers = {source.array.shape[1] for source in sources.values() if source.layer is not None}
    wanted = len({source.layer for source in sources.values()} - {None})
    if layers and layers != {wanted}:
        raise WeightsError(f"{folder}: has {max(layers)} layers, text_encoder.layers is {wanted}; {_RESIZE}")


def _open(folder: epath.Path, name: str, leaf: Any) -> Any:
    if not isinstance(leaf, dict):
        return leaf
    kvstore = _kvstore(folder, leaf["kvstore"].get("path") or leaf.get("path", ""))
    try:
        array = tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result()
    except ValueError as error:
        raise WeightsError(f"{folder}: array {name} cannot be opened ({str(error)[:80]}); {_AGAIN}") from None
    _check_chunks(folder, name, array)
    return array


def _kvstore(folder: epath.Path, path: str) -> dict:
    """The array's folder, wherever the checkpoint was written first."""
    place = folder / path.rstrip("/").rpartition("/")[2]
    if str(place).startswith("gs://"):
        bucket, _, path = str(place).removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": path + "/"}
    return {"driver": "file", "path": str(place.resolve()) + "/"}


def _check_chunks(folder: epath.Path, name: str, array: tensorstore.TensorStore) -> None:
    """zarr reads a missing chunk as zeros: a download that was cut off would pass for weights."""
    held = {key.decode() for key in array.kvstore.list().result()}
    chunks = array.chunk_layout.read_chunk.shape
    grid = (range(-(-size // chunk)) for size, chunk in zip(array.shape, chunks, strict=True))
    for position in itertools.product(*grid):
        chunk = ".".join(map(str, position)) or "0"
        if chunk not in held:
            raise WeightsError(f"{folder}: chunk {chunk} of array {name} is missing; {_AGAIN}")


def _read(source: _Source, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> Array:
    return partition.make_array(leaf.shape, sharding, lambda index: source.read(index).astype(leaf.dtype, copy=False))
