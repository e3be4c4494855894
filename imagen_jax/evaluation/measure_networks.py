"""Networks trained elsewhere, where the user has their weights: VGG16 inside HED, EfficientNet-Lite0, a local CLIP.

Nothing is fetched here. What is not in the cache is left out of the measures, and `missing` says how to have it. The
paper's automatic measures are CLIP's; the other two are ours, under their own names.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import packages
from data_pipelines.images import fit_image
from imagen_jax.evaluation.judge_training import in_batches

BATCH = 16  # pictures at once
EPSILON = 1e-6
_NOT_OPENED = "not opened: see open_networks"

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Embed = Callable[[Sequence], np.ndarray]


@dataclass(frozen=True)
class Networks:
    """What is at hand; None what is not.

    Attributes:
      vgg: two batches of pictures [N, S, S, 3] uint8 -> perceptual distances [N].
      efficientnet: pictures -> features [N, 1280].
      clip_image, clip_text: pictures, texts -> vectors [N, D] of length 1.
      missing: name of a field that is None -> why, and how to have it.
    """

    vgg: Distance | None = None
    efficientnet: Embed | None = None
    clip_image: Embed | None = None
    clip_text: Embed | None = None
    missing: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(("vgg", "efficientnet", "clip_image", "clip_text"), _NOT_OPENED)
    )


def open_networks(cache: Path = packages.CACHE, clip_folder: Path | str = "") -> Networks:
    """All networks whose weights are at hand: packages in `cache`, CLIP in `clip_folder` ('' none).

    Raises the networks' own errors for weights that are there and damaged: FetchError, HedError, TorchFileError,
    EmbedError, WeightsError.
    """
    openers = {
        "vgg": _of_package(packages.HED, cache, _open_vgg),
        "efficientnet": _of_package(packages.EFFICIENTNET, cache, _open_efficientnet),
        "clip_image": _of_clip("clip_image", clip_folder),
        "clip_text": _of_clip("clip_text", clip_folder),
    }
    opened = {name: open_it() for name, open_it in openers.items()}
    missing = {name: found for name, found in opened.items() if isinstance(found, str)}
    return Networks(**{name: found for name, found in opened.items() if name not in missing}, missing=missing)


def _of_package(package: packages.Package, cache: Path, opener: Callable[[Path], Callable]) -> Callable:
    def open_it() -> Callable | str:
        archive = packages.cached(package, cache)
        mend = f"`python -m data_pipelines.packages {package.name} --cache={cache}` fetches it"
        return opener(archive) if archive else f"{package.name} is not in {cache}: {mend}"

    return open_it


def _of_clip(name: str, folder: Path | str) -> Callable:
    def open_it() -> Callable | str:
        if not folder:
            return "no local CLIP folder was given"
        from data_pipelines.retrieval.embed import open_embedder

        return open_embedder(name, folder=folder)

    return open_it


def _open_vgg(archive: Path) -> Distance | str:
    try:
        from data_pipelines.networks import hed
    except ImportError as error:  # h5py comes with [data]
        return f"{error.name} is not installed: pip install -e .[data]"
    return vgg_distance(hed.load(packages.open_member(archive, hed.MEMBER)))


def vgg_distance(params: dict) -> Distance:
    """The distance of two pictures in VGG16's features, of length 1 at each place (Zhang et al. 2018, unweighted).

    The mean over the blocks of the mean squared distance of places, in 0..4. It is not LPIPS, whose weights are learned
    from people; and these features were trained on for edges.

    Args:
      params: what networks.hed.load gives.
    """
    from data_pipelines.networks import hed

    @jax.jit
    def run(params: dict, pairs: jax.Array) -> jax.Array:
        one, other = (hed.features(params, pairs[..., channels]) for channels in (slice(3), slice(3, None)))
        gaps = [jnp.square(_unit(one[block]) - _unit(other[block])).sum(-1).mean((1, 2)) for block in one]
        return jnp.stack(gaps).mean(0)

    run = functools.partial(run, params)
    return lambda pictures, targets: in_batches(run, np.concatenate([pictures, targets], axis=-1), BATCH)


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON)


def _open_efficientnet(archive: Path) -> Embed:
    from data_pipelines.networks import efficientnet

    return features_of(efficientnet.load(archive))


def features_of(params: dict) -> Embed:
    """EfficientNet-Lite0's pooled features [N, 1280] of pictures of any size, enlarged to 224 px.

    Args:
      params: what networks.efficientnet.load gives.
    """
    from data_pipelines.networks import efficientnet

    run = functools.partial(jax.jit(efficientnet.apply), jax.device_put(params))

    def embed(pictures: np.ndarray) -> np.ndarray:
        return in_batches(lambda part: run(np.stack([fit_image(p, efficientnet.SIZE) for p in part])), pictures, BATCH)

    return embed
