"""DINO's vision transformer in JAX (Caron et al. 2021), ViT-S/16 and its sizes: subject fidelity in DreamBench.

Reads the user's own download: a Hugging Face folder such as facebook/dino-vits16 (config.json with model.safetensors or
pytorch_model.bin), or the original .pth, whose names and joint query-key-value weights are turned into the folder's.
For the published benchmarks of imagen_jax/benchmarks (paper section 4.1, subject-driven generation).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors

from data_pipelines.networks.clip import read_json
from data_pipelines.networks.torch_file import TorchFileError, read_state
from data_pipelines.networks.transformer import (
    Params,
    WeightsError,
    attend,
    check,
    embed_patches,
    layer_norm,
    linear,
    part,
)

_HEAD_WIDTH = 64  # of every published DINO: ViT-S has 6 heads, ViT-B 12
_FILES = ("model.safetensors", "pytorch_model.bin")
# Original names -> the folder's; a block's own names come after its number.
_ORIGINAL = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_ORIGINAL_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@dataclass(frozen=True)
class DinoConfig:
    """What config.json says of a vision transformer; defaults are ViT-S/16's."""

    hidden_size: int = 384
    intermediate_size: int = 1536
    num_attention_heads: int = 6
    num_hidden_layers: int = 12
    image_size: int = 224  # pixels
    patch_size: int = 16
    layer_norm_eps: float = 1e-6


def load(path: Path) -> tuple[dict[str, np.ndarray], DinoConfig]:
    """The float32 tensors by the folder's names, and the sizes, of a Hugging Face folder or an original .pth file.

    Raises WeightsError, one line with the file, for what is missing, unreadable or of another shape.
    """
    path = Path(path)
    if path.is_dir():
        config, tensors = _read_config(path), _read_folder(path)
    else:
        tensors = _rename(_read_file(path))
        config = _config_of(tensors, path)
    return check(tensors, _shapes(config)), config


def apply(params: Params, config: DinoConfig, images: jnp.ndarray) -> jnp.ndarray:
    """Embeddings [N, hidden_size], not normalised, of prepared images [N, image_size, image_size, 3]."""
    patches = part(params, "embeddings.patch_embeddings.projection")
    x = embed_patches(patches["weight"], images) + patches["bias"]
    first = jnp.broadcast_to(params["embeddings.cls_token"], (len(x), 1, config.hidden_size))
    x = jnp.concatenate([first, x], 1) + params["embeddings.position_embeddings"]
    for i in range(config.num_hidden_layers):
        x = _layer(part(params, f"encoder.layer.{i}"), config, x)
    return layer_norm(params, "layernorm", x, config.layer_norm_eps)[:, 0]


def _layer(layer: Params, config: DinoConfig, x: jnp.ndarray) -> jnp.ndarray:
    h = layer_norm(layer, "layernorm_before", x, config.layer_norm_eps)
    q, k, v = (linear(layer, f"attention.attention.{name}", h) for name in ("query", "key", "value"))
    x = x + linear(layer, "attention.output.dense", attend(q, k, v, config.num_attention_heads, None))
    h = linear(layer, "intermediate.dense", layer_norm(layer, "layernorm_after", x, config.layer_norm_eps))
    return x + linear(layer, "output.dense", jax.nn.gelu(h, approximate=False))


def _read_config(folder: Path) -> DinoConfig:
    found = read_json(folder, "config.json")
    if found.get("model_type") != "vit":
        raise WeightsError(f"{folder}/config.json: model_type is not 'vit': this is not a DINO folder")
    if found.get("hidden_act", "gelu") != "gelu":
        raise WeightsError(f"{folder}/config.json: hidden_act '{found['hidden_act']}' is not DINO's 'gelu'")
    return DinoConfig(**{field.name: found[field.name] for field in fields(DinoConfig) if field.name in found})


def _config_of(tensors: Mapping[str, np.ndarray], path: Path) -> DinoConfig:
    """The sizes that an original file's own tensors tell."""
    try:
        width, _, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
        side = int((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5) * patch
        mlp = tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path}: lacks DINO's tensors ({error}): give the backbone's .pth file") from error
    layers = len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")})
    return DinoConfig(width, mlp, max(1, width // _HEAD_WIDTH), layers, side, patch)


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise WeightsError(f"{folder}: holds neither {' nor '.join(_FILES)}: download the DINO folder again")
    return _read_file(path)


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        data = path.read_bytes()
        return dict(parse_safetensors(data)) if path.suffix == ".safetensors" else read_state(data)
    except (OSError, SafetensorError, TorchFileError) as error:
        raise WeightsError(f"{path}: unreadable ({error}): download DINO again") from error


def _rename(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Original names to the folder's; the joint weight [3 D, D] of query, key and value in three."""
    found = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            module, _, kind = rest.rpartition(".")
            layer = f"encoder.layer.{number}"
            if module == "attn.qkv":
                for key, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                    found[f"{layer}.attention.attention.{key}.{kind}"] = third
            elif module in _ORIGINAL_BLOCK:
                found[f"{layer}.{_ORIGINAL_BLOCK[module]}.{kind}"] = value
        elif name in _ORIGINAL:
            found[_ORIGINAL[name]] = value
        elif (module := name.rpartition(".")[0]) in _ORIGINAL:
            found[f"{_ORIGINAL[module]}.{name.rpartition('.')[2]}"] = value
    return found


def _shapes(config: DinoConfig) -> dict[str, tuple[int, ...]]:
    d, mlp, p = config.hidden_size, config.intermediate_size, config.patch_size
    sizes = {"embeddings.patch_embeddings.projection": (d, 3, p, p), "layernorm": (d,)}
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        sizes |= {f"{layer}.attention.attention.{name}": (d, d) for name in ("query", "key", "value")}
        sizes |= {f"{layer}.attention.output.dense": (d, d), f"{layer}.intermediate.dense": (mlp, d)}
        sizes |= {
            f"{layer}.output.dense": (d, mlp),
            f"{layer}.layernorm_before": (d,),
            f"{layer}.layernorm_after": (d,),
        }
    shapes = {f"{name}.weight": shape for name, shape in sizes.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in sizes.items()}
    shapes["embeddings.cls_token"] = (1, 1, d)
    shapes["embeddings.position_embeddings"] = (1, (config.image_size // p) ** 2 + 1, d)
    return shapes
