"""The judge of depth: how far away a picture's model is at each place, learned from the furniture's true depth maps.

It stands in for MiDaS, by which the paper makes its depth conditions (section 3.2): one that follows a depth map has
it again when its depth is estimated.
"""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.pairs import STYLES
from data_pipelines.transforms import composite, sample_background, sample_geometry, transform
from imagen_jax.evaluation.judge_networks import Depth
from imagen_jax.evaluation.judge_training import Judge, Pool, in_batches, soften, to_float
from imagen_jax.evaluation.measure_pictures import depth_error

BLACK = (0, 0, 0)


class DepthJudge(Judge):
    """Pictures -> depth maps as the corpus draws them: near is bright, and where there is nothing 0."""

    name, steps, batch_size, rate = "depth", 400, 64, 2e-3

    def __init__(self, pool: Pool):
        self._pool, self.network = pool, Depth()
        self._maps = {(p.subject, p.style): i for i, p in enumerate(pool.pictures) if STYLES[p.style].depth}
        self._train, self._test = self._pairs("train"), self._pairs("test")

    def _pairs(self, split: str) -> list[tuple[int, int]]:
        """(view, its depth map)."""
        ids = self._pool.ids(split, lambda picture: STYLES[picture.style].view)
        keys = [(self._pool.pictures[i].subject, self._pool.pictures[i].style.replace("view", "depth")) for i in ids]
        return [(i, self._maps[key]) for i, key in zip(ids, keys, strict=True) if key in self._maps]

    def lacks(self) -> str:
        return "" if self._train and self._test else "the corpus has no views of models with their depth maps"

    def batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        rows = [self._train[i] for i in rng.integers(len(self._train), size=self.batch_size)]
        pairs = [self._draw(rng, *row) for row in rows]
        return {"images": np.stack([view for view, _ in pairs]), "maps": np.stack([depth for _, depth in pairs])}

    def _draw(self, rng: np.random.Generator, view: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Moved alike; a mirrored model is a model, whose depth is mirrored as well."""
        geometry = sample_geometry(rng, self._pool.images.shape[1], flippable=True)
        _, colour = sample_background(rng)
        picture = transform(composite(self._pool.images[view], colour), geometry, colour)
        return picture, transform(self._map(depth), geometry, BLACK)[..., 0]

    def _map(self, depth: int) -> np.ndarray:
        return composite(self._pool.images[depth], BLACK)

    def loss(self, params: dict, batch: dict, key: jax.Array) -> jax.Array:
        found = self.network.apply(params, soften(batch["images"], key))
        return jnp.abs(found - batch["maps"] / 255.0).mean()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] uint8 -> [N, S, S] float32 in 0..1."""
        return in_batches(self._find, pictures)

    def _run(self, params: dict, images: jax.Array) -> jax.Array:
        return self.network.apply(params, to_float(images))

    def measure(self) -> dict:
        """Its error on real test views; that of a flat map, which knows only where something is; of another's map."""
        views, maps = (np.array(ids) for ids in zip(*self._test, strict=True))
        found, wanted = self(self._pool.white(views)), np.stack([self._map(i) for i in maps])
        return {
            "pictures": len(views),
            "error": float(np.nanmean(depth_error(found, wanted))),
            "error_flat": float(np.nanmean(depth_error(np.zeros_like(found), wanted))),
            "error_shuffled": float(np.nanmean(depth_error(np.roll(found, 1, axis=0), wanted))),
        }

    def told(self, measured: dict) -> str:
        return (
            f"depth judge: errs by {measured['error']:.4f} on {measured['pictures']} real test views, where a flat map "
            f"errs by {measured['error_flat']:.4f} and another view's map by {measured['error_shuffled']:.4f}"
        )
