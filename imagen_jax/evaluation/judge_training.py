"""How a judge learns: training pictures, moved and softened, one AdamW run of minutes on a CPU.

Generated pictures are softer and noisier than drawings, and they come on coloured grounds: a judge that saw only clean
ones would judge those flaws and not what is shown. So it trains on pictures blurred and noised a little.
"""

import abc
import functools
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from data_pipelines.corpus import Corpus, Picture
from data_pipelines.loader import prefetch
from data_pipelines.pairs import STYLES
from data_pipelines.transforms import WHITE, composite, may_flip, sample_background, sample_geometry, transform

BATCH = 128  # pictures judged at once, always: nothing is compiled twice, and no answer depends on its neighbours
BLUR = 0.7  # at most, of the way to a Gaussian of 0.7 pixels
NOISE = 0.03  # at most, of pixels in -1..1
WARM_UP = 0.05  # of the steps
WEIGHT_DECAY = 0.02


class Pool:
    """The pictures of a corpus as judges see them: augmented for training, plain on white to be judged."""

    def __init__(self, corpus: Corpus):
        self.images, self.pictures = corpus.images, corpus.pictures
        self.split = root_splits(corpus.pictures)
        self._flippable = [may_flip(picture.name) and not STYLES[picture.style].view for picture in corpus.pictures]

    def ids(self, split: str, keep: Callable[[Picture], bool]) -> list[int]:
        """Numbers of the pictures whose root is in `split` and that `keep` accepts."""
        return [i for i, p in enumerate(self.pictures) if self.split[p.root] == split and keep(p)]

    def white(self, ids: Sequence[int]) -> np.ndarray:
        """[N, S, S, 3] uint8."""
        return composite(self.images[np.asarray(ids, int)], WHITE[1])

    def augmented(self, rng: np.random.Generator, ids: Sequence[int], flip: bool = True) -> np.ndarray:
        """[N, S, S, 3] uint8: mirrored, scaled, shifted, on some ground, each in its own way."""
        return np.stack([self._augmented(rng, i, flip) for i in ids])

    def _augmented(self, rng: np.random.Generator, i: int, flip: bool) -> np.ndarray:
        geometry = sample_geometry(rng, self.images.shape[1], flip and self._flippable[i])
        _, colour = sample_background(rng)
        return transform(composite(self.images[i], colour), geometry, colour)


class Judge(abc.ABC):
    """One network, what it learns from, and how good it is at it.

    Attributes:
      name: 'style', 'subject' or 'depth'; steps, batch_size and rate are those of its training.
    """

    name: str
    steps: int
    batch_size: int
    rate: float
    network: nn.Module

    @abc.abstractmethod
    def lacks(self) -> str:
        """Why this corpus cannot train it, or ''."""

    @abc.abstractmethod
    def batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One batch of training pictures and what is to be learned of them."""

    @abc.abstractmethod
    def loss(self, params: dict, batch: dict, key: jax.Array) -> jax.Array:
        """Scalar."""

    @abc.abstractmethod
    def measure(self) -> dict:
        """How good it is on real test pictures, as JSON holds it."""

    @abc.abstractmethod
    def told(self, measured: dict) -> str:
        """What measure() gave, in one line for people."""

    @abc.abstractmethod
    def _run(self, params: dict, images: jax.Array) -> jax.Array:
        """The answer for BATCH pictures."""

    def use(self, params: dict) -> None:
        """Judge by these parameters from now on."""
        self._find = functools.partial(jax.jit(self._run), params)

    def train(self, size: int, seed: int, steps: int) -> dict:
        """Parameters for pictures of `size` pixels, a function of the corpus and the arguments alone."""
        params = jax.jit(self.network.init)(jax.random.key(seed), jnp.zeros((1, size, size, 3)))
        options = dict(steps=steps, rate=self.rate, seed=seed, title=f"{self.name} judge")
        return fit(params, self.loss, self.batch, **options)


def root_splits(pictures: Sequence[Picture]) -> dict[str, str]:
    """Root -> split. Pictures of a held-out style are 'test' whatever their root, so its other pictures decide."""
    split: dict[str, str] = {}
    for picture in pictures:
        if split.get(picture.root, "test") == "test":
            split[picture.root] = picture.split
    return split


def to_float(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def soften(images: jax.Array, key: jax.Array) -> jax.Array:
    """uint8 [B, S, S, 3] -> float32 -1..1; half of them blurred, half of them noisy, each by an amount of its own."""
    x, keys = to_float(images), jax.random.split(key, 3)
    blur, noise = jnp.maximum(jax.random.uniform(keys[0], (2, len(x), 1, 1, 1), minval=-1.0), 0.0)
    for axis in (1, 2):  # (1, 2, 1) / 4 is a Gaussian of 0.7 pixels
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], "edge")
        sides = jax.lax.slice_in_dim(padded, 0, x.shape[axis], axis=axis)
        sides += jax.lax.slice_in_dim(padded, 2, x.shape[axis] + 2, axis=axis)
        x = x + BLUR * blur * (sides / 4 - x / 2)
    return x + NOISE * noise * jax.random.normal(keys[1], x.shape)


def fit(
    params: dict,
    loss: Callable[[dict, dict, jax.Array], jax.Array],
    batch: Callable[[np.random.Generator], dict[str, np.ndarray]],
    *,
    steps: int,
    rate: float,
    seed: int,
    title: str,
) -> dict:
    """The parameters after `steps` steps of AdamW, the rate warmed up and then following a cosine down to 0.

    Args:
      loss: (params, batch, key) -> scalar, pure.
      batch: random numbers -> arrays; it runs in a thread, ahead.
    """
    warm_up = max(1, round(WARM_UP * steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, max(steps, warm_up + 1))
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)

    @jax.jit
    def step(params, state, arrays, key):
        value, gradient = jax.value_and_grad(loss)(params, arrays, key)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    key = jax.random.key(seed)
    with tqdm(_batches(batch, seed, steps), title, steps, unit="step", mininterval=2, delay=1) as progress:
        for i, arrays in enumerate(progress):
            params, state, value = step(params, state, arrays, jax.random.fold_in(key, i))
            if i % 50 == 0:
                progress.set_postfix(loss=f"{float(value):.3f}", refresh=False)
    return params


def _batches(batch: Callable, seed: int, steps: int) -> Iterator[dict]:
    rng = np.random.Generator(np.random.Philox(seed))
    return prefetch(batch(rng) for _ in range(steps))


def in_batches(run: Callable[[np.ndarray], jax.Array], images: np.ndarray, size: int = BATCH) -> np.ndarray:
    """`run` over pictures [N, S, S, 3], `size` at a time, the last batch filled up; for none it is run as well."""
    parts = []
    for start in range(0, max(len(images), 1), size):
        part = images[start : start + size]
        filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(np.asarray(run(filled))[: len(part)])
    return np.concatenate(parts)
