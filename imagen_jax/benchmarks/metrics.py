"""The automatic measures that the published benchmarks share: CLIP-I, CLIP-T, CLIPScore, DINO, L1 and L2.

Rules, and the public code that states them:
* DINO: ViT-S/16, picture to 256 pixels on its shorter side (bicubic), centre 224, ImageNet's normalisation, the class
  token (evaluation/image_eval.py of MagicBrush; customconcept101/evaluate.py of Custom Diffusion). DreamBooth (Ruiz et
  al. 2023, section 4) names the same network and compares every generated picture with every real one of its subject.
* CLIP: ViT-B/32 there; the preprocessing of the folder given. CLIP-I compares pictures, CLIP-T a picture and its
  prompt, both as cosines. CLIPScore is 2.5 x max(cosine, 0) (Hessel et al. 2021): Custom Diffusion's "text alignment".
* L1, L2: the generated picture resized to the target's size (bicubic), values in 0..1, mean over pixels and channels of
  the absolute and of the squared difference (MagicBrush). Smaller is better; for all the others, larger.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data_pipelines.networks import dino
from data_pipelines.retrieval.embed import embed_images, open_embedder

Encoder = Callable[[Sequence], Float[np.ndarray, "N D"]]  # N pictures [h, w, 3] uint8, or N texts
CLIP_SCORE_WEIGHT = 2.5
_IMAGENET = (np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225)))  # mean, deviation
_MARGIN = 256 / 224  # of DINO's crop


def open_clip(folder: Path) -> tuple[Encoder, Encoder]:
    """CLIP's pictures and texts as vectors, from a local Hugging Face folder. Raises EmbedError, WeightsError."""
    return open_embedder("clip_image", folder=folder), open_embedder("clip_text", folder=folder)


def open_dino(path: Path) -> Encoder:
    """DINO's pictures as vectors, from a local Hugging Face folder or the original .pth. Raises WeightsError."""
    params, config = dino.load(path)
    run = functools.partial(jax.jit(dino.apply, static_argnums=1), jax.device_put(params), config)
    prepare = functools.partial(prepare_dino, size=config.image_size)
    return functools.partial(embed_images, prepare, run, config.hidden_size)


def prepare_dino(picture: UInt8[np.ndarray, "h w 3"], size: int = 224) -> Float[np.ndarray, "S S 3"]:
    """The centre `size` of the picture at 256/224 of it on the shorter side, normalised, as torchvision does it."""
    height, width = picture.shape[:2]
    scale = round(size * _MARGIN) / min(height, width)
    image = Image.fromarray(np.ascontiguousarray(picture))
    image = image.resize((int(width * scale + 1e-6), int(height * scale + 1e-6)), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    square = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    mean, deviation = _IMAGENET
    return (square - mean) / deviation


def similarity(one: Float[np.ndarray, "N D"], other: Float[np.ndarray, "M D"]) -> float:
    """The mean cosine of all N x M pairs."""
    return float((_unit(one) @ _unit(other).T).mean())


def clip_score(cosine: float) -> float:
    """CLIPScore of the cosine of a picture and its text."""
    return CLIP_SCORE_WEIGHT * max(cosine, 0.0)


def distances(picture: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "H W 3"]) -> tuple[float, float]:
    """L1 and L2 of a picture, resized to its target's size, to that target."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    resized = image.resize(target.shape[1::-1], Image.Resampling.BICUBIC)
    difference = (np.asarray(resized, np.float32) - target) / 255
    return float(np.abs(difference).mean()), float(np.square(difference).mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
