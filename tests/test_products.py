"""Products for a CPU's tile unit: the same numbers as JAX's own from bfloat16 factors, in the one form it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from imagen_jax.nn import products
from imagen_jax.nn.products import Conv, Dense


def rounded(key, *shape):
    """Numbers that bfloat16 holds, so that both ways multiply the same factors and differ by the order of sums only."""
    return jax.random.normal(jax.random.key(key), shape).astype(jnp.bfloat16).astype(jnp.float32)


def value_and_gradients(f, *arguments):
    y, pull = jax.vjp(f, *arguments)
    return y, *pull(rounded(9, *y.shape))


def assert_near(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolutions_and_their_gradients(side, stride, size):
    x, w = rounded(0, 2, size, size, 5), rounded(1, side, side, 5, 6)

    def convolve(function):
        numbers = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=1)
        return value_and_gradients(lambda x, w: function(x, w, (stride, stride), "SAME", **numbers), x, w)

    theirs = convolve(lax.conv_general_dilated)
    with jax.default_matmul_precision("bfloat16"):
        assert_near(convolve(products.conv_general_dilated), theirs)


def test_padding_may_be_told_in_numbers():
    x, w = rounded(0, 2, 6, 9, 4), rounded(1, 3, 3, 4, 6)
    numbers = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def convolve(function):
        return value_and_gradients(lambda x, w: function(x, w, (2, 1), [(0, 1), (1, 1)], **numbers), x, w)

    theirs = convolve(lax.conv_general_dilated)
    with jax.default_matmul_precision("bfloat16"):
        assert_near(convolve(products.conv_general_dilated), theirs)


@pytest.mark.parametrize("rows", [3, 2 * products.SPAN + 5])
def test_dense_products_and_their_gradients(rows):
    x, w = rounded(0, 2, rows, 5), rounded(1, 5, 6)
    last = (((2,), (0,)), ((), ()))
    theirs = value_and_gradients(lambda x, w: lax.dot_general(x, w, last), x, w)
    with jax.default_matmul_precision("bfloat16"):
        assert_near(value_and_gradients(lambda x, w: products.dot_general(x, w, last, precision=None), x, w), theirs)


def loss_of(module):
    return jax.jit(jax.grad(lambda params, x: jnp.square(module.apply(params, x)).sum(), argnums=(0, 1)))


@pytest.mark.parametrize("module", [Conv(16, (3, 3)), Conv(16, (3, 3), strides=2), Dense(16)])
def test_every_product_of_a_gradient_is_rows_by_columns(module):
    x = rounded(0, 2, 8, 8, 8)
    params = module.init(jax.random.key(0), x)
    own = loss_of(module).lower(params, x).compile().as_text()
    with jax.default_matmul_precision("bfloat16"):
        tiled = loss_of(module).lower(params, x).compile().as_text()
    assert " convolution(" in own or "lhs_contracting_dims={0}" in own, "JAX's own gradient needs no help any more"
    assert "dot(" in tiled and " convolution(" not in tiled
    assert "lhs_contracting_dims={0}" not in tiled, "XLA folds a transposition into a product again"


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", None])
def test_under_any_other_setting_the_layers_are_flax_own(precision):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 8))
    with jax.default_matmul_precision(precision):
        for module, function in ((Conv(16, (3, 3)), "conv_general_dilated"), (Dense(16), "dot_general")):
            params = module.init(jax.random.key(1), x)
            np.testing.assert_array_equal(module.apply(params, x), module.clone(**{function: None}).apply(params, x))
