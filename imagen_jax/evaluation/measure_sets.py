"""Distances between two sets of pictures by their features: Frechet (Heusel et al. 2017) and kernel (Binkowski et al.
2018).

The features are EfficientNet-Lite0's, not Inception's: the numbers compare with each other and with no published FID.
"""

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "N D"]


class SetError(ValueError):
    """Sets that are too small to be compared."""


def frechet(a: Features, b: Features) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets; small sets overstate it, so compare equal sizes.

    tr((A B)^1/2) is the nuclear norm of the product of the centred sets, so no D x D matrix is rooted. Raises SetError
    for sets of fewer than two.
    """
    _check(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = a - a.mean(0), b - b.mean(0)
    spread = np.square(x).sum() / (len(a) - 1) + np.square(y).sum() / (len(b) - 1)
    shared = np.linalg.norm(x @ y.T, "nuc") / np.sqrt((len(a) - 1) * (len(b) - 1))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + spread - 2 * shared)


def kid(a: Features, b: Features) -> float:
    """Squared maximum mean discrepancy under the kernel (x y / D + 1)^3, unbiased: about 0, and below it as often as
    above, for sets of one distribution. Raises SetError for sets of fewer than two.
    """
    _check(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(_off_diagonal(_kernel(a, a)) + _off_diagonal(_kernel(b, b)) - 2 * _kernel(a, b).mean())


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _off_diagonal(kernel: np.ndarray) -> float:
    """Mean over pairs of two different ones."""
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if min(len(a), len(b)) < 2:
        raise SetError(f"sets of {len(a)} and {len(b)} pictures: a distance between sets needs two or more in each")
