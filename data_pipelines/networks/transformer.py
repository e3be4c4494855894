"""The parts that MiniLM, CLIP and DINO share: layers, self-attention (Vaswani et al. 2017), patches of pictures.

Pure functions over the tensors of a Hugging Face checkpoint, for the embeddings of stage 1 (paper section 3).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, jnp.ndarray]  # by the checkpoint's own names


class WeightsError(ValueError):
    """Weights that lack a tensor, or have it in another shape: one line with its name."""


def part(params: Params, prefix: str) -> dict[str, jnp.ndarray]:
    """The tensors under `prefix.`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): value for name, value in params.items() if name.startswith(f"{prefix}.")}


def check(params: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors named in `shapes`, as float32. Raises WeightsError for the first that is missing or misshapen."""
    for name, shape in shapes.items():
        if name not in params:
            raise WeightsError(f"the weights lack the tensor {name}: is this the right model?")
        if params[name].shape != shape:
            raise WeightsError(f"{name} has the shape {params[name].shape}, config.json asks for {shape}")
    return {name: np.asarray(params[name], np.float32) for name in shapes}


def linear(params: Params, name: str, x: jnp.ndarray) -> jnp.ndarray:
    """x [..., I] -> [..., O]; the checkpoint keeps the weight as [O, I], and a bias where there is one."""
    y = jnp.matmul(x, params[f"{name}.weight"].T, precision=jax.lax.Precision.HIGHEST)
    return y + params[f"{name}.bias"] if f"{name}.bias" in params else y


def layer_norm(params: Params, name: str, x: jnp.ndarray, epsilon: float) -> jnp.ndarray:
    """Normalised over the last axis, in float32."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * params[f"{name}.weight"] + params[f"{name}.bias"]


def embed_patches(kernel: jnp.ndarray, images: jnp.ndarray) -> jnp.ndarray:
    """Images [N, S, S, 3] as squares of side P, each a vector: [N, (S / P)^2, D]; the kernel is [D, 3, P, P]."""
    x = jax.lax.conv_general_dilated(
        images,
        kernel,
        kernel.shape[2:],
        "VALID",
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return x.reshape(len(x), -1, x.shape[-1])


def attend(q: jnp.ndarray, k: jnp.ndarray, v: jnp.ndarray, heads: int, mask: jnp.ndarray | None) -> jnp.ndarray:
    """Self-attention of [B, L, D] over `heads`; mask, broadcast to [B, heads, L, L], is True where it may look."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=jax.lax.Precision.HIGHEST) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=jax.lax.Precision.HIGHEST)
    return mixed.reshape(*mixed.shape[:2], -1)


def normalize(x: jnp.ndarray) -> jnp.ndarray:
    """Vectors [..., D] scaled to length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
