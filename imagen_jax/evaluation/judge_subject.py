"""The judge of subjects: an embedding in which two designs of one subject lie near each other, for new subjects too.

It stands in for CLIP-I and DINO of the subject-driven papers (their section on metrics): no weights of
those can be had. Learned from training roots, it is measured on test roots, by the search in which it is used.
"""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imagen_jax.evaluation.judge_gallery import ROOTS, Gallery, is_coloured, look_of
from imagen_jax.evaluation.judge_networks import Vector
from imagen_jax.evaluation.judge_training import Judge, Pool, in_batches, soften, to_float

FEATURES = 128
TEMPERATURE = 0.1


class SubjectJudge(Judge):
    """Pictures -> vectors of length 1, by a supervised contrastive loss over designs (Khosla et al. 2020)."""

    name, steps, batch_size, rate = "subject", 1500, 64, 2e-3

    def __init__(self, pool: Pool):
        self._pool, self.network = pool, Vector(FEATURES)
        subjects = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))  # root -> subject -> look -> pictures
        for i in pool.ids("train", is_coloured):
            picture = pool.pictures[i]
            subjects[picture.root][picture.subject][look_of(picture.style)].append(i)
        several = [[list(s.values()) for s in root.values() if len(s) > 1] for root in subjects.values()]
        self._roots = [root for root in several if root]

    def lacks(self) -> str:
        if len(self._roots) < 2:
            return "the corpus has no two training subjects in several designs"
        tests = self._pool.ids("test", is_coloured)
        return "" if tests else "the corpus has no test pictures to be found among"

    def batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Two designs of a subject of each of `batch_size` roots, the first designs before the second ones."""
        pairs = [self._pair(rng, self._roots[r]) for r in self._draw_roots(rng)]
        return {"images": self._pool.augmented(rng, [one for one, _ in pairs] + [other for _, other in pairs])}

    def _draw_roots(self, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(len(self._roots), min(self.batch_size, len(self._roots)), replace=False)

    @staticmethod
    def _pair(rng: np.random.Generator, subjects: list[list[list[int]]]) -> tuple[int, int]:
        looks = subjects[rng.integers(len(subjects))]
        one, other = (looks[look] for look in rng.choice(len(looks), 2, replace=False))
        return one[rng.integers(len(one))], other[rng.integers(len(other))]

    def loss(self, params: dict, batch: dict, key: jax.Array) -> jax.Array:
        z = self._embed(params, soften(batch["images"], key))
        count = len(z)
        logits = z @ z.T / TEMPERATURE - 1e9 * jnp.eye(count)
        partner = (jnp.arange(count) + count // 2) % count
        return optax.softmax_cross_entropy_with_integer_labels(logits, partner).mean()

    def _embed(self, params: dict, x: jax.Array) -> jax.Array:
        z = self.network.apply(params, x)
        return z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-6)

    def _run(self, params: dict, images: jax.Array) -> jax.Array:
        """A picture and its mirror image together, which costs little and finds more."""
        x = to_float(images)
        z = self._embed(params, x) + self._embed(params, x[:, :, ::-1])
        return z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-6)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] uint8 -> [N, FEATURES] float32."""
        return in_batches(self._find, pictures)

    def measure(self) -> dict:
        """Recall@1 of real test pictures in other designs: the ceiling of any generated one."""
        gallery = Gallery(self._pool, self)
        recall, searched = gallery.recall()
        return {"pictures": searched, "roots": len(set(gallery.roots)), "recall": recall}

    def told(self, measured: dict) -> str:
        return (
            f"subject judge: finds {measured['recall']:.1%} of {measured['pictures']} real test pictures at once in "
            f"other designs, among {min(measured['roots'], ROOTS)} of {measured['roots']} roots"
        )
