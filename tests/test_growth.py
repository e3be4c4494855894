"""A model with more blocks takes over one with fewer: it draws the same at first, and what is new can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import growth, partition, release, runs
from imagen_jax import model as model_lib
from imagen_jax.train import config_json
from tests import tiny

MESH = dict(data=1, fsdp=-1, tensor=1)
LEVELS = dict(context_levels=(1, 2), context_in_place=(1,))


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """(model, parameters) before, the same after, and what the run says of it."""
    folder, mesh = tmp_path_factory.mktemp("growth") / "small", partition.make_mesh(MESH)
    release.write_release(
        folder, tiny.model_and_params(**LEVELS)[1], {"config": config_json(tiny.config(**LEVELS)), "next_example": 0}
    )
    before = runs.open_run(folder, mesh)
    config = tiny.config(**LEVELS, blocks=(2, 2), self_levels=(2,))
    net = model_lib.make_model(config)
    params, told = runs.take_over(config, runs.init_params(config, net, mesh), folder, mesh)
    return (before.model, before.params), (net, params), told


def outputs(net, params, batch):
    cond = model_lib.encode(net, params, batch.text, batch.context)
    return model_lib.predict(net, params, model_lib.to_float(batch.image), jnp.zeros(len(batch.image)), cond)


def test_a_grown_model_starts_equal(grown):
    before, after, told = grown
    assert "loaded" in told and "unused     0" in told
    np.testing.assert_allclose(outputs(*after, tiny.batch()), outputs(*before, tiny.batch()), rtol=2e-4, atol=2e-4)


def test_every_new_block_can_learn(grown):
    _, (net, params), _ = grown
    gradient = jax.jit(jax.grad(lambda params: jnp.square(outputs(net, params, tiny.batch())).sum()))(params)["unet"]
    for name in ("down_0_1", "down_1_1", "up_1_0", "up_0_0"):
        for part in (gradient[name]["residual"]["conv_2"], gradient[name]["context_attention"]["out"]):
            assert float(jnp.abs(part["kernel"]).max()) > 0, name
    assert float(jnp.abs(gradient["down_1_0"]["self_attention"]["out"]["kernel"]).max()) > 0


@pytest.mark.parametrize("blocks", [(1, 0), (1, 1, 1)])
def test_a_model_cannot_shrink(blocks):
    with pytest.raises(growth.GrowthError, match="fewer") as told:
        growth.grow({}, {}, blocks, (1, 1))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("parts", [("unett",), ("unet", "text_encoder")])
def test_a_part_that_the_run_does_not_hold_is_told(parts, tmp_path):
    mesh, about = partition.make_mesh(MESH), {"config": config_json(tiny.config()), "next_example": 0}
    params = tiny.model_and_params()[1]
    release.write_release(tmp_path / "small", {"unet": params["unet"]}, about)
    config = tiny.config()
    config.init_parts = parts
    with pytest.raises(runs.RunError, match=rf"^config\.init_parts: .* holds no trained '{parts[-1]}', only unet$"):
        runs.take_over(config, params, tmp_path / "small", mesh)


def test_blocks_that_are_loops_cannot_grow(tmp_path):
    mesh, config = partition.make_mesh(MESH), tiny.config(scan=True, blocks=(2, 2))
    about = {"config": config_json(tiny.config(scan=True)), "next_example": 0}
    release.write_release(tmp_path / "small", tiny.model_and_params(scan=True)[1], about)
    with pytest.raises(
        runs.RunError, match=r"^config\.model\.blocks=\(2, 2\): .* has \(1, 1\), and .* cannot grow; set it to that$"
    ):
        runs.take_over(config, {}, tmp_path / "small", mesh)
