"""Muon: every kernel's momentum as the nearest orthogonal matrix (Jordan et al. 2024), brought to one size.

As optax.contrib has it, whose state this keeps. Here equal kernels go through one loop, which compiles sooner, and the
products are on the smaller side and in a CPU's tiles (nn/products.py), which runs in a third of the time there.
"""

import math
from collections import defaultdict

import jax
import jax.numpy as jnp
import optax

from imagen_jax.nn import products

BETA = 0.95
RMS = 0.2  # of an update, that of Adam in practice (2502.16982): so one learning rate serves all
STEPS = 5  # of Newton and Schulz


def scale_by_muon() -> optax.GradientTransformation:
    """Gradients of kernels -> orthogonal updates of root mean square RMS; any other array is taken for a kernel too."""
    plain = optax.contrib.scale_by_muon(beta=BETA)

    def update(gradients, state, params=None):
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, BETA, 1)
        ahead = optax.tree.bias_correction(mu, BETA, optax.safe_increment(count))  # Nesterov's
        now = optax.tree.bias_correction(gradients, BETA, count)
        momentum = jax.tree.map(lambda m, g: BETA * m + (1 - BETA) * g, ahead, now)
        return _of_all(momentum, state.ns_coeffs), state._replace(count=count, mu=mu)

    return optax.GradientTransformation(plain.init, update)


def orthogonalize(matrix: jax.Array, coefficients: jax.Array) -> jax.Array:
    """[M, N] -> its U V^T, but for singular values of 0.7 to 1.2: five iterations of a polynomial of degree 5.

    coefficients: [3] of x, x x^T x and x x^T x x^T x.
    """
    a, b, c = coefficients

    def iterate(_, x):
        gram = products.gram(x)
        return a * x + products.matmul(x, b * gram + c * products.matmul(gram, gram))

    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    x = jax.lax.fori_loop(0, STEPS, iterate, tall / (jnp.linalg.norm(tall) + 1e-8))
    return x if tall is matrix else x.T


def _of_all(kernels, coefficients: jax.Array):
    """Every kernel of a tree, those that are equal matrices one after another in a loop."""
    leaves, tree = jax.tree.flatten(kernels)
    alike = defaultdict(list)
    for number, kernel in enumerate(leaves):
        alike[matrix_shape(kernel)].append(number)
    for shape, numbers in alike.items():
        matrices = [leaves[number].reshape(-1, *shape) for number in numbers]
        found = jax.lax.map(lambda matrix: orthogonalize(matrix, coefficients), jnp.concatenate(matrices))
        ends = [sum(map(len, matrices[: i + 1])) for i in range(len(matrices) - 1)]
        for number, part in zip(numbers, jnp.split(found * RMS * max(shape) ** 0.5, ends), strict=True):
            leaves[number] = part.reshape(leaves[number].shape)
    return tree.unflatten(leaves)


def matrix_shape(kernel: jax.Array) -> tuple[int, int]:
    """The rows and columns of a kernel: dense [.., in, out], convolution [.., h, w, in, out].

    Blocks that are stacked (model.scan) have one axis before these, and each of them is a matrix of its own.
    """
    rows = kernel.shape[-2:-1] if kernel.ndim < 4 else kernel.shape[-4:-1]
    return math.prod(rows), kernel.shape[-1]
