"""A larger model takes over a smaller one: it draws the same at first, and what is new can learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import growth, partition, pretrained, release, runs
from imagen_jax import model as model_lib
from imagen_jax.nn.layers import GroupNorm
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


def wider(params, **model):
    """(model, parameters) with `model` in place of tiny's sizes, from the parameters of tiny's."""
    config = tiny.config(**LEVELS, **model)
    net = model_lib.make_model(config)
    fresh = tiny.init(net)
    unets = growth.grow(fresh["unet"], params["unet"], config.model, tiny.config(**LEVELS).model)
    return net, pretrained.warm_start({**fresh, "unet": unets[0]}, {**params, "unet": unets[1]})[0]


def without_norms(monkeypatch):
    """Normalisations hand on x: they alone make a wider model another one."""
    monkeypatch.setattr(nn.LayerNorm, "__call__", lambda self, x: x)
    monkeypatch.setattr(
        GroupNorm,
        "__call__",
        lambda self, x, film=None: x if film is None else x * (1 + film[:, None, None, : x.shape[-1]]),
    )


@pytest.mark.parametrize(("channels", "upsample"), [((12, 16), "shuffle"), ((16, 16), "nearest"), ((8, 32), "shuffle")])
def test_a_wider_model_differs_by_its_normalisations_alone(channels, upsample, monkeypatch):
    net, params = tiny.model_and_params(**LEVELS, upsample=upsample)
    without_norms(monkeypatch)
    after = wider(params, channels=channels, upsample=upsample)
    assert after[1]["unet"]["up_0_0"]["residual"]["conv_1"]["kernel"].shape[-2:] == (2 * channels[1], channels[1])
    wanted = np.asarray(outputs(net, params, tiny.batch()))
    np.testing.assert_allclose(outputs(*after, tiny.batch()), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_every_new_channel_can_learn():
    _, params = tiny.model_and_params(**LEVELS)
    net, params = wider(params, channels=(16, 16))
    gradient = jax.jit(jax.grad(lambda params: jnp.square(outputs(net, params, tiny.batch())).sum()))(params)["unet"]
    for name, rows in (("down_0_0", slice(8, 16)), ("up_1_0", slice(24, 32))):
        read = gradient[name]["residual"]["shortcut"]["kernel"][0, 0, rows, :8]
        assert (jnp.abs(read).max(axis=1) > 0).all(), name
    assert (jnp.abs(gradient["out"]["kernel"][..., 8:, :]).max(axis=(0, 1, 3)) > 0).all()


def test_another_size_that_differs_is_told():
    params, before = tiny.model_and_params(context_levels=())[1], tiny.config(context_levels=()).model
    config = tiny.config(context_levels=(), channels=(16, 16), lowres_size=4)
    unets = growth.grow(tiny.init(model_lib.make_model(config))["unet"], params["unet"], config.model, before)
    with pytest.raises(pretrained.WeightsError, match=r"downsample_0/kernel: the model's shape is \(3, 3, 6, 16\)"):
        pretrained.warm_start(*unets)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(blocks=(1, 0), channels=(8, 16)),
        dict(blocks=(1, 1, 1), channels=(8, 16)),
        dict(blocks=(1, 1), channels=(4, 16)),
        dict(blocks=(1, 1), channels=(16, 32)),
        dict(blocks=(1, 1), channels=(16, 16), cond_channels=32),
    ],
)
def test_what_it_cannot_take_over_is_told(sizes):
    with pytest.raises(growth.GrowthError, match=r"^config\.model\..*: the run to take over has") as told:
        growth.grow({}, {}, {**tiny.config().model, **sizes}, tiny.config().model)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (("unett",), r".* holds no trained 'unett', only unet$"),
        (("unet", "text_encoder"), r".* holds no trained 'text_encoder', only unet$"),
        ((), r"nothing would be taken over from .*; name unet or text_encoder, or set --config\.init_from=''$"),
    ],
)
def test_parts_that_cannot_be_taken_over_are_told(parts, told, tmp_path):
    mesh, about = partition.make_mesh(MESH), {"config": config_json(tiny.config()), "next_example": 0}
    params = tiny.model_and_params()[1]
    release.write_release(tmp_path / "small", {"unet": params["unet"]}, about)
    config = tiny.config()
    config.init_parts = parts
    with pytest.raises(runs.RunError, match=r"^config\.init_parts: " + told):
        runs.take_over(config, params, tmp_path / "small", mesh)


def test_blocks_that_are_loops_cannot_grow(tmp_path):
    mesh, config = partition.make_mesh(MESH), tiny.config(scan=True, blocks=(2, 2))
    about = {"config": config_json(tiny.config(scan=True)), "next_example": 0}
    release.write_release(tmp_path / "small", tiny.model_and_params(scan=True)[1], about)
    with pytest.raises(
        runs.RunError, match=r"^config\.model\.blocks=\(2, 2\): .* has \(1, 1\), and .* cannot grow; set it to that$"
    ):
        runs.take_over(config, {}, tmp_path / "small", mesh)
