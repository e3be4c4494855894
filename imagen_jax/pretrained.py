"""Weights from elsewhere: a published T5 1.1 encoder, and the warm start of one run from the weights of another.

The paper's text encoder is a frozen T5-XXL, and each training stage starts from the one before (section 3.3). Nothing
is read before every name, shape and byte range has been checked, so a failure leaves nothing half-loaded.
"""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open

from imagen_jax import partition
from imagen_jax.nn.t5 import T5Config
from imagen_jax.types import Array

_AGAIN = "download the folder again"
_RESIZE = "set text_encoder to the sizes of this folder's config.json"

# T5Config's fields -> the keys of config.json.
_SIZES = {
    "emb": "d_model",
    "heads": "num_heads",
    "mlp": "d_ff",
    "layers": "num_layers",
    "head_dim": "d_kv",
    "vocab_size": "vocab_size",
}
# The first published files lack these and mean the values that T5Config has by default.
_LATER_SIZES = {
    "buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "epsilon": "layer_norm_epsilon",
}

_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # one table; encoder-only exports keep either name
# Our leaf -> the Hugging Face tensor; under encoder/layers_i/ -> under encoder.block.i.
_TENSORS = {
    "encoder/relpos_bias/rel_embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
}
_LAYER_TENSORS = {
    "pre_attention_layer_norm/scale": "layer.0.layer_norm.weight",
    "attention/query/kernel": "layer.0.SelfAttention.q.weight",
    "attention/key/kernel": "layer.0.SelfAttention.k.weight",
    "attention/value/kernel": "layer.0.SelfAttention.v.weight",
    "attention/out/kernel": "layer.0.SelfAttention.o.weight",
    "pre_mlp_layer_norm/scale": "layer.1.layer_norm.weight",
    "mlp/wi_0/kernel": "layer.1.DenseReluDense.wi_0.weight",
    "mlp/wi_1/kernel": "layer.1.DenseReluDense.wi_1.weight",
    "mlp/wo/kernel": "layer.1.DenseReluDense.wo.weight",
}


class WeightsError(ValueError):
    """Weights that cannot be taken over; the message is one line with the mend."""


# T5 from a Hugging Face folder


def t5_config(folder: str | os.PathLike) -> T5Config:
    """The encoder's sizes from `folder`/config.json. Raises WeightsError when it is not a T5 1.1."""
    file = Path(folder) / "config.json"
    raw = _read_json(file)
    kind = raw.get("model_type"), raw.get("feed_forward_proj")
    if kind != ("t5", "gated-gelu"):
        raise WeightsError(
            f"{file}: not a T5 1.1 (model_type, feed_forward_proj are {kind}, not ('t5', 'gated-gelu')); "
            "use a t5 v1.1 or flan-t5 folder"
        )
    if missing := [key for key in _SIZES.values() if key not in raw]:
        raise WeightsError(f"{file}: {', '.join(missing)} missing; {_AGAIN}")
    return T5Config(**{field: raw[key] for field, key in (_SIZES | _LATER_SIZES).items() if key in raw})


def load_t5(folder: str | os.PathLike, abstract_params: Mapping, shardings: Mapping | None = None) -> dict:
    """Parameters of a T5Encoder from `folder`, in Hugging Face form: model.safetensors, whole or sharded.

    `abstract_params` (arrays or ShapeDtypeStructs) gives names, shapes and dtypes; `shardings`, a tree of the same
    form, places each leaf, and every device reads only its own part (default: everything on the first device). A full
    encoder-decoder folder will do: its decoder is not read. Raises WeightsError naming the tensor and the mend.
    """
    files = _tensor_files(Path(folder))
    leaves = flatten_dict(abstract_params, sep="/")
    tensors = _match(Path(folder), files, leaves)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = dict.fromkeys(leaves, here) if shardings is None else flatten_dict(shardings, sep="/")
    return unflatten_dict({path: _read(tensors[path], leaf, places[path]) for path, leaf in leaves.items()}, sep="/")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Where one leaf lies; `transposed` when the file holds its transpose."""

    name: str
    file: Path
    transposed: bool


def _tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor in `folder`."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        files = dict.fromkeys(_header(whole), whole)
    elif index.exists():
        files = {name: folder / file for name, file in _read_json(index).get("weight_map", {}).items()}
    else:
        raise WeightsError(
            f"{folder}: no model.safetensors and no model.safetensors.index.json; give a Hugging Face T5 folder "
            "(if it has pytorch_model.bin only, load it with transformers and save_pretrained it again)"
        )
    return files


def _match(folder: Path, files: dict[str, Path], leaves: Mapping) -> dict[str, _Tensor]:
    """The tensor of each leaf; checks that none is missing, left over, cut off or of another shape."""
    embedding = next((name for name in _EMBEDDINGS if name in files), _EMBEDDINGS[0])
    names = {path: _tensor_name(path, embedding) for path in leaves}
    for name in names.values():
        if name not in files:
            raise WeightsError(f"{folder}: tensor {name} is missing; {_AGAIN}, or {_RESIZE}")
    for name in files:
        if name.startswith("encoder.block.") and name not in names.values():
            raise WeightsError(f"{folder}: tensor {name} has no place in the configured encoder; {_RESIZE}")
    for name in names.values():
        if not files[name].exists():
            raise WeightsError(f"{files[name]}: no such file, and tensor {name} should be in it; {_AGAIN}")
    headers = {file: _header(file) for file in {files[name] for name in names.values()}}
    return {path: _check(names[path], files[names[path]], headers, path, leaf.shape) for path, leaf in leaves.items()}


def _check(name: str, file: Path, headers: Mapping, path: str, shape: tuple[int, ...]) -> _Tensor:
    if name not in headers[file]:
        raise WeightsError(f"{file}: tensor {name} is missing, though the index lists it here; {_AGAIN}")
    transposed = path.endswith(("/kernel", "/rel_embedding"))
    wanted = shape[::-1] if transposed else shape
    if (found := tuple(headers[file][name]["shape"])) != wanted:
        raise WeightsError(f"{file}: tensor {name} has shape {found}, the config asks for {wanted}; {_RESIZE}")
    return _Tensor(name, file, transposed)


def _tensor_name(path: str, embedding: str) -> str:
    """'encoder/layers_3/attention/query/kernel' -> 'encoder.block.3.layer.0.SelfAttention.q.weight'."""
    if path == "token_embedder/embedding":
        return embedding
    if layer := re.fullmatch(r"encoder/layers_(\d+)/(.+)", path):
        return f"encoder.block.{layer[1]}.{_LAYER_TENSORS[layer[2]]}"
    return _TENSORS[path]


def _header(file: Path) -> dict[str, dict]:
    """The header {name: {dtype, shape, data_offsets}} of a safetensors file, after checking that its data is whole.

    The layout is 8 bytes of length, the header in JSON, the data. safe_open checks as much, but names no tensor.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(length, size))
    try:
        header = json.loads(text)
    except ValueError:
        raise WeightsError(f"{file}: no safetensors header (cut off, or a Git LFS pointer); {_AGAIN}") from None
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        if 8 + length + tensor["data_offsets"][1] > size:
            raise WeightsError(f"{file}: cut off before the end of tensor {name}; {_AGAIN}")
    return header


def _read(tensor: _Tensor, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> Array:
    def part(index: tuple[slice, ...]):
        # Opened for each part: an open file keeps in memory what was read of it.
        with safe_open(tensor.file, framework="numpy") as source:
            rows = source.get_slice(tensor.name)
            piece = rows[index[::-1]].T if tensor.transposed else rows[index]
            return piece.astype(leaf.dtype, copy=False)

    return partition.make_array(leaf.shape, sharding, part)


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror}; give a Hugging Face T5 folder") from None
    except ValueError as error:
        raise WeightsError(f"{file}: not JSON ({error}); {_AGAIN}") from None


# Warm start from another run


@dataclasses.dataclass(frozen=True)
class Report:
    """What a warm start did: '/'-joined leaf paths, and the number of parameters of each."""

    loaded: tuple[str, ...]  # taken over
    new: tuple[str, ...]  # only in the model: as initialised
    unused: tuple[str, ...]  # only in the loaded weights: left out
    sizes: Mapping[str, int]

    def summary(self, groups: int = 4) -> str:
        """A line for each of the three classes: leaves, parameters, and the `groups` largest groups of modules."""
        return "\n".join(self._line(kind, getattr(self, kind), groups) for kind in ("loaded", "new", "unused"))

    def _line(self, kind: str, paths: tuple[str, ...], groups: int) -> str:
        sizes = Counter()
        for path in paths:
            sizes[_group(path)] += self.sizes[path]
        names = [f"{name} {size:,}" for name, size in sizes.most_common(groups)]
        if len(sizes) > groups:
            names.append(f"{len(sizes) - groups} more groups")
        line = f"{kind:<6} {len(paths):>5} leaves, {sizes.total():,} parameters"
        return f"{line}: {'; '.join(names)}" if names else line


def _group(path: str) -> str:
    """Module of a leaf, three levels deep, numbered siblings as one: 'encoder/layers_*/mlp'."""
    module = path.split("/")[:-1][:3] or [path]
    return re.sub(r"(?<=_)\d+", "*", "/".join(module))


def warm_start(params: Mapping, loaded: Mapping) -> tuple[dict, Report]:
    """Take over every leaf of `loaded` that `params` has too, by path, with the dtype and sharding of `params`' leaf.

    `params` may hold arrays or ShapeDtypeStructs; leaves that `loaded` lacks are returned as they are. Raises
    WeightsError when a leaf is in both with different shapes.
    """
    into, source = flatten_dict(params, sep="/"), flatten_dict(loaded, sep="/")
    for path, leaf in into.items():
        if path in source and leaf.shape != source[path].shape:
            raise WeightsError(
                f"{path}: the model's shape is {leaf.shape}, the loaded one {source[path].shape}; "
                "give both runs the same model sizes, or start without init_from"
            )
    merged = {path: _like(leaf, source[path]) if path in source else leaf for path, leaf in into.items()}
    report = Report(
        loaded=tuple(path for path in into if path in source),
        new=tuple(path for path in into if path not in source),
        unused=tuple(path for path in source if path not in into),
        sizes={path: leaf.size for path, leaf in (source | into).items()},
    )
    return unflatten_dict(merged, sep="/"), report


def _like(leaf: Array | jax.ShapeDtypeStruct, value: Array) -> Array:
    return jax.device_put(value.astype(leaf.dtype), getattr(leaf, "sharding", None))
