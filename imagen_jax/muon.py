"""Muon: every kernel's momentum as the nearest orthogonal matrix (Jordan et al. 2024), brought to one size.

As optax.contrib has it, and with its state, so that older checkpoints train on. Here kernels are upright in all
products, which run in a CPU's tiles where it has them (nn/products.py): WORKSPACE.md has what that gave.
"""

import math

import jax
import jax.numpy as jnp
import optax

from imagen_jax.nn import products

BETA = 0.95
RMS = 0.2  # of an update, that of Adam in practice (2502.16982): so one learning rate serves all
STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's iteration


def scale_by_muon() -> optax.GradientTransformation:
    """Gradients of kernels -> orthogonal updates of root mean square RMS; any other array is taken for a kernel too."""
    plain = optax.contrib.scale_by_muon(beta=BETA)

    def update(gradients, state, params=None):
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, BETA, 1)
        ahead = optax.tree.bias_correction(mu, BETA, optax.safe_increment(count))  # Nesterov's
        now = optax.tree.bias_correction(gradients, BETA, count)
        momentum = jax.tree.map(lambda m, g: BETA * m + (1 - BETA) * g, ahead, now)
        return jax.tree.map(_orthogonal, momentum), state._replace(count=count, mu=mu)

    of_one_size = optax.stateless(lambda updates, _: jax.tree.map(_to_one_size, updates))
    return optax.chain(optax.GradientTransformation(plain.init, update), of_one_size)


def orthogonalize(matrix: jax.Array) -> jax.Array:
    """[M, N] -> its U V^T, but for singular values of 0.7 to 1.2: five iterations of a polynomial of degree 5."""
    a, b, c = COEFFICIENTS
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    x = tall / (jnp.linalg.norm(tall) + 1e-8)
    for _ in range(STEPS):  # no loop in the program, which took longer (WORKSPACE.md)
        gram = products.gram(x)
        x = a * x + products.matmul(x, b * gram + c * products.matmul(gram, gram))
    return x if tall is matrix else x.T


def _orthogonal(kernel: jax.Array) -> jax.Array:
    matrices = kernel.reshape(-1, *matrix_shape(kernel))
    found = orthogonalize(matrices[0]) if len(matrices) == 1 else jax.lax.map(orthogonalize, matrices)
    return found.reshape(kernel.shape)


def _to_one_size(update: jax.Array) -> jax.Array:
    return update * RMS * max(matrix_shape(update)) ** 0.5


def matrix_shape(kernel: jax.Array) -> tuple[int, int]:
    """The rows and columns of a kernel: dense [.., in, out], convolution [.., h, w, in, out].

    Blocks that are stacked (model.scan) have one axis before these, and each of them is a matrix of its own.
    """
    rows = kernel.shape[-2:-1] if kernel.ndim < 4 else kernel.shape[-4:-1]
    return math.prod(rows), kernel.shape[-1]
