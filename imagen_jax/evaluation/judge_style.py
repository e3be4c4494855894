"""The judge of style: which of the corpus's styles a picture is drawn in (paper section 4.1, style rows of Table 1).

The held-out style is one of its classes: the judge must know what the generator never saw. It learns it from those
pictures whose root is a training root, so no picture that it is measured on shows a subject that it learned from.
"""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.corpus import Picture
from data_pipelines.pairs import STYLES
from imagen_jax.evaluation.judge_networks import Vector
from imagen_jax.evaluation.judge_training import Judge, Pool, in_batches, soften, to_float

MODEL = "model"  # the one class of all views of furniture: a side is no style of drawing
SMOOTHING = 0.05


def class_of(style: str) -> str:
    """The judge's word for a style key."""
    return MODEL if STYLES[style].view else style


class StyleJudge(Judge):
    """Pictures -> style keys, black drawings included; `model` for any view of a model."""

    name, steps, batch_size, rate = "style", 3000, 64, 2e-3

    def __init__(self, pool: Pool):
        self._pool = pool
        self._members = defaultdict(lambda: defaultdict(list))  # class -> root -> pictures
        for i in pool.ids("train", _is_drawn):
            self._members[class_of(pool.pictures[i].style)][pool.pictures[i].root].append(i)
        self.classes = sorted(self._members)
        self.network = Vector(len(self.classes))

    def lacks(self) -> str:
        if len(self.classes) < 2:
            return "the corpus has no two styles in its training split"
        return "" if self._tests() else "the corpus has no test pictures of its training styles to measure it by"

    def _tests(self) -> list[int]:
        ids = self._pool.ids("test", _is_drawn)
        return [i for i in ids if class_of(self._pool.pictures[i].style) in self._members]

    def batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Classes alike often, and in a class roots alike often: skin tones must not fill the batch."""
        labels = rng.integers(len(self.classes), size=self.batch_size)
        ids = []
        for label in labels:
            roots = self._members[self.classes[label]]
            ids.append(_pick(rng, _pick(rng, list(roots.values()))))
        return {"images": self._pool.augmented(rng, ids), "labels": labels}

    def loss(self, params: dict, batch: dict, key: jax.Array) -> jax.Array:
        logits = self.network.apply(params, soften(batch["images"], key))
        labels = optax.smooth_labels(jax.nn.one_hot(batch["labels"], len(self.classes)), SMOOTHING)
        return optax.softmax_cross_entropy(logits, labels).mean()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] uint8 -> [N] class names."""
        found = in_batches(self._find, pictures)
        return np.array(self.classes)[found]

    def _run(self, params: dict, images: jax.Array) -> jax.Array:
        return jnp.argmax(self.network.apply(params, to_float(images)), axis=-1)

    def measure(self) -> dict:
        """How often it is right about the real test pictures, and for each class."""
        ids = self._tests()
        wanted = np.array([class_of(self._pool.pictures[i].style) for i in ids])
        right = self(self._pool.white(ids)) == wanted
        each = {name: float(right[wanted == name].mean()) for name in self.classes if (wanted == name).any()}
        return {"pictures": len(ids), "accuracy": float(np.mean(list(each.values()))), "by_class": each}

    def told(self, measured: dict) -> str:
        each = measured["by_class"]
        shown = [right for name, right in each.items() if name in STYLES and not STYLES[name].drawing]
        found = ", ".join(f"{name} {right:.1%}" for name, right in sorted(each.items(), key=lambda item: item[1]))
        return (
            f"style judge: right about {measured['accuracy']:.1%} of {measured['pictures']} real test pictures, the "
            f"mean of {len(each)} styles, and {np.mean(shown):.1%} in colour, as suites ask for: {found}"
        )


def _is_drawn(picture: Picture) -> bool:
    return not STYLES[picture.style].depth


def _pick(rng: np.random.Generator, items: list):
    return items[rng.integers(len(items))]
