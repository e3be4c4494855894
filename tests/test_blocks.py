"""The blocks of a level as a loop over stacked parameters: the same model in another form."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax import model as model_lib
from tests import tiny

SIZES = dict(blocks=(2, 3))


def stacked(params: dict) -> dict:
    """The parameters of a model with its blocks written out, as one with model.scan holds them."""
    rows, others = {}, {}
    for path, leaf in flatten_dict(params, sep="/").items():
        if row := re.fullmatch(r"unet/((?:down|up)_\d+)_(\d+)/(.+)", path):
            rows.setdefault(f"unet/{row[1]}/block/{row[3]}", {})[int(row[2])] = leaf
        else:
            others[path] = leaf
    # UBlocks run from the last to the first: block i reads the output of DBlock i.
    order = {name: (sorted(leaves, reverse="/up_" in name)) for name, leaves in rows.items()}
    return unflatten_dict(others | {name: jnp.stack([rows[name][i] for i in order[name]]) for name in rows}, sep="/")


@functools.partial(jax.jit, static_argnums=0)
def loss(net, params, batch):
    cond = model_lib.encode(net, params, batch.text, batch.context)
    z = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    return jnp.square(model_lib.predict(net, params, z, jnp.zeros(2), cond)).mean()


@pytest.mark.parametrize("remat", ["none", "block"])
def test_a_loop_over_the_blocks_gives_what_the_blocks_give(remat):
    plain, params = tiny.model_and_params(**SIZES)
    looped = model_lib.make_model(tiny.config(scan=True, remat=remat, **SIZES))
    assert plain.unet.config != looped.unet.config
    batch, other = tiny.batch(), stacked(params)
    wanted, found = jax.value_and_grad(loss, 1)(plain, params, batch), jax.value_and_grad(loss, 1)(looped, other, batch)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), found[1], stacked(wanted[1]))


def test_a_loop_reads_finer_maps_as_the_blocks_do():
    finer = SIZES | dict(context_levels=(1, 2), context_in_place=(1,), self_levels=(1,))
    plain, params = tiny.model_and_params(**finer)
    looped, batch = model_lib.make_model(tiny.config(scan=True, **finer)), tiny.batch()
    np.testing.assert_allclose(loss(looped, stacked(params), batch), loss(plain, params, batch), rtol=1e-5)


def test_a_looped_model_starts_as_its_blocks_do():
    plain, looped = (model_lib.make_model(tiny.config(scan=scan, **SIZES)) for scan in (False, True))
    shapes = [jax.eval_shape(functools.partial(model_lib.init, net), jax.random.key(0)) for net in (plain, looped)]
    wanted, found = jax.eval_shape(stacked, shapes[0]), shapes[1]
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, wanted)
    first = tiny.init(looped)["unet"]["down_1"]["block"]["residual"]["conv_1"]["kernel"]
    assert not np.array_equal(first[0], first[1])
    spread = float(jnp.std(first) * np.sqrt(np.prod(first.shape[1:-1])))
    assert 0.9 < spread < 1.1, "the stack's leading axis is not one of the fan-in"
