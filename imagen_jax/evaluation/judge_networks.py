"""Small convolutional networks that judge generated pictures: which style, which subject, how far away.

The paper's raters are people (section 4.3); these stand in for them where CLIP's weights cannot be had. The trunk works
at 32 px whatever the picture's size, so a judge of 128 px pictures costs hardly more than one of 32 px. There is no
normalisation inside: it would take away how light and how colourful a picture is, by which styles differ.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.nn.layers import upsample

TRUNK_SIZE = 32  # pixels, at least; a larger picture is folded to it by powers of two
COLOURS = 32
HE = nn.initializers.he_normal()


def convolve(x: jax.Array, features: int, side: int = 3, stride: int = 1) -> jax.Array:
    """A convolution and a ReLU, [B, H, W, C] -> [B, H / stride, W / stride, features]; call it inside a module.

    Written as one matrix product over shifted copies: XLA's gradient of a small kernel over a small map is many times
    as slow on a CPU.
    """
    _, height, width, _ = x.shape
    around = (side // 2, side // 2)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(side) for j in range(side)]
    return nn.relu(nn.Dense(features, kernel_init=HE)(jnp.concatenate(shifted, axis=-1)))


def fold(images: jax.Array) -> jax.Array:
    """[B, S, S, 3] -> [B, S / n, S / n, 3 n n]: squares of n pixels become channels, so that the side is 32 to 63."""
    batch, size, _, channels = images.shape
    n = 1
    while size % (2 * n) == 0 and size // (2 * n) >= TRUNK_SIZE:
        n *= 2
    x = images.reshape(batch, size // n, n, size // n, n, channels).swapaxes(2, 3)
    return x.reshape(batch, size // n, size // n, n * n * channels)


class Trunk(nn.Module):
    """Convolutions that halve the picture again and again."""

    widths: tuple[int, ...] = (32, 64, 128, 128)

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Pictures [B, S, S, 3] in -1..1 -> a map of each width; the first at about 32 px, each half the last."""
        maps = [convolve(fold(images), self.widths[0])]
        for width in self.widths[1:]:
            maps.append(convolve(maps[-1], width, stride=2))
        return maps


class Vector(nn.Module):
    """A picture as numbers: the logits of a classifier, or an embedding.

    It reads what there is of each map (strokes, textures), where things are in the last one, and the colours.
    """

    features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, S, S, 3] in -1..1 -> [B, features]."""
        maps = Trunk()(images)
        colours = convolve(convolve(fold(images), COLOURS, side=1), COLOURS, side=1)
        seen = [x.mean((1, 2)) for x in (colours, *maps)] + [x.max((1, 2)) for x in maps]
        seen.append(maps[-1].reshape(len(images), -1))
        return nn.Dense(self.features)(jnp.concatenate([nn.LayerNorm()(x) for x in seen], axis=-1))


class Depth(nn.Module):
    """A picture as its depth map: down and up again, with the maps of the way down beside (Ronneberger et al. 2015)."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, S, S, 3] in -1..1 -> [B, S, S] in 0..1, near is bright, and what is not there is 0."""
        *maps, x = Trunk()(images)
        for skip in reversed(maps):
            x = upsample(x)[:, : skip.shape[1], : skip.shape[2]]
            x = convolve(jnp.concatenate([x, skip], axis=-1), skip.shape[-1])
        plane = nn.Dense(1)(x)
        return nn.sigmoid(jax.image.resize(plane, (*images.shape[:3], 1), "bilinear"))[..., 0]
