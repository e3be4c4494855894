"""CLIP in JAX (Radford et al. 2021), both towers, from a local Hugging Face folder: what the paper clusters its stage-1
neighbours by (section 3).

The folder is the user's own download: config.json, model.safetensors (whole, or in parts with an index),
preprocessor_config.json, and tokenizer.json or vocab.json + merges.txt. Sizes and activation are read from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipelines.networks.transformer import (
    Params,
    WeightsError,
    attend,
    check,
    embed_patches,
    layer_norm,
    linear,
    normalize,
    part,
)


@dataclass(frozen=True)
class Tower:
    """The transformer of one side; defaults as in the published format, which leaves out what equals them."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int = 12
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"


@dataclass(frozen=True)
class TextTower(Tower):
    """The side of the texts."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


@dataclass(frozen=True)
class ImageTower(Tower):
    """The side of the pictures."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    image_size: int = 224  # pixels
    patch_size: int = 32


@dataclass(frozen=True)
class ClipConfig:
    """What config.json says of a CLIP."""

    text: TextTower = TextTower()
    image: ImageTower = ImageTower()
    projection_dim: int = 512


_ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def read_config(folder: Path) -> ClipConfig:
    """The sizes of the model in `folder`. Raises WeightsError, one line with the file."""
    found = read_json(folder, "config.json")
    if not {"text_config", "vision_config"} <= found.keys():
        raise WeightsError(f"{folder}/config.json: no text_config and vision_config: this is not a CLIP folder")
    text, image = _tower(TextTower, found["text_config"]), _tower(ImageTower, found["vision_config"])
    for tower in (text, image):
        if tower.hidden_act not in _ACTIVATIONS:
            raise WeightsError(f"{folder}/config.json: hidden_act '{tower.hidden_act}' is none of {[*_ACTIVATIONS]}")
    return ClipConfig(text, image, found.get("projection_dim", ClipConfig.projection_dim))


def _tower(kind: type, found: Mapping) -> Tower:
    return kind(**{field.name: found[field.name] for field in fields(kind) if field.name in found})


def read_json(folder: Path, name: str) -> dict:
    """One of the folder's JSON files. Raises WeightsError, one line with the file."""
    try:
        return json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}/{name}: unreadable ({error}): download the folder again") from error


def load(folder: Path, config: ClipConfig) -> dict[str, np.ndarray]:
    """The float32 tensors of both towers. Raises WeightsError for a missing file, tensor or wrong shape."""
    shapes = _shapes(config)
    index = Path(folder) / "model.safetensors.index.json"
    names = set(read_json(folder, index.name)["weight_map"].values()) if index.exists() else {"model.safetensors"}
    tensors = {}
    for name in sorted(names):
        try:
            with safe_open(Path(folder) / name, "numpy") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys() if key in shapes}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{folder}/{name}: unreadable ({error}): download the CLIP folder again") from error
    return check(tensors, shapes)


def _shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    text, image, out = config.text, config.image, config.projection_dim
    d, p = image.hidden_size, image.patch_size
    return {
        "text_model.embeddings.token_embedding.weight": (text.vocab_size, text.hidden_size),
        "text_model.embeddings.position_embedding.weight": (text.max_position_embeddings, text.hidden_size),
        **_affine("text_model.final_layer_norm", text.hidden_size),
        "text_projection.weight": (out, text.hidden_size),
        "vision_model.embeddings.class_embedding": (d,),
        "vision_model.embeddings.patch_embedding.weight": (d, 3, p, p),
        "vision_model.embeddings.position_embedding.weight": ((image.image_size // p) ** 2 + 1, d),
        **_affine("vision_model.pre_layrnorm", d),  # the published spelling
        **_affine("vision_model.post_layernorm", d),
        "visual_projection.weight": (out, d),
        **_tower_shapes("text_model", text),
        **_tower_shapes("vision_model", image),
    }


def _tower_shapes(model: str, tower: Tower) -> dict[str, tuple[int, ...]]:
    d, mlp, shapes = tower.hidden_size, tower.intermediate_size, {}
    for i in range(tower.num_hidden_layers):
        layer = f"{model}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{layer}.self_attn.{name}", d, d)
        shapes |= _affine(f"{layer}.mlp.fc1", mlp, d) | _affine(f"{layer}.mlp.fc2", d, mlp)
        shapes |= _affine(f"{layer}.layer_norm1", d) | _affine(f"{layer}.layer_norm2", d)
    return shapes


def _affine(name: str, out: int, *inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *inputs), f"{name}.bias": (out,)}


def embed_texts(params: Params, config: ClipConfig, tokens: jnp.ndarray) -> jnp.ndarray:
    """Embeddings [N, projection_dim] of length 1 of tokens [N, L] int, each row ended and padded by the end token."""
    model, tower = part(params, "text_model"), config.text
    length = tokens.shape[1]
    x = jnp.take(model["embeddings.token_embedding.weight"], tokens, axis=0)
    x = x + model["embeddings.position_embedding.weight"][:length]
    # Causal, so nothing before the end token sees the padding after it.
    x = _encode(part(model, "encoder.layers"), tower, x, jnp.tril(jnp.ones((length, length), bool)))
    x = layer_norm(model, "final_layer_norm", x, tower.layer_norm_eps)
    # The first published configs name token 2 and mean the highest of the vocabulary.
    end = jnp.argmax(tokens if tower.eos_token_id == 2 else tokens == tower.eos_token_id, axis=1)
    return normalize(linear(params, "text_projection", x[jnp.arange(len(x)), end]))


def embed_images(params: Params, config: ClipConfig, images: jnp.ndarray) -> jnp.ndarray:
    """Embeddings [N, projection_dim] of length 1 of normalised images [N, image_size, image_size, 3]."""
    model, tower = part(params, "vision_model"), config.image
    x = embed_patches(model["embeddings.patch_embedding.weight"], images)
    first = jnp.broadcast_to(model["embeddings.class_embedding"], (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([first, x], 1) + model["embeddings.position_embedding.weight"]
    x = layer_norm(model, "pre_layrnorm", x, tower.layer_norm_eps)
    x = _encode(part(model, "encoder.layers"), tower, x, None)[:, 0]
    return normalize(linear(params, "visual_projection", layer_norm(model, "post_layernorm", x, tower.layer_norm_eps)))


def _encode(layers: Params, tower: Tower, x: jnp.ndarray, mask: jnp.ndarray | None) -> jnp.ndarray:
    for i in range(tower.num_hidden_layers):
        layer = part(layers, str(i))
        h = layer_norm(layer, "layer_norm1", x, tower.layer_norm_eps)
        q, k, v = (linear(layer, f"self_attn.{name}_proj", h) for name in "qkv")
        x = x + linear(layer, "self_attn.out_proj", attend(q, k, v, tower.num_attention_heads, mask))
        h = linear(layer, "mlp.fc1", layer_norm(layer, "layer_norm2", x, tower.layer_norm_eps))
        x = x + linear(layer, "mlp.fc2", _ACTIVATIONS[tower.hidden_act](h))
    return x
