"""The training step: what is trained, on what noise, and the same on every mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from experiments import pretrain, stage2
from experiments import super_res as enlarging
from imagen_jax import model as model_lib
from imagen_jax import partition, runs
from imagen_jax import train as train_lib
from imagen_jax.checkpoint import Checkpointer
from imagen_jax.optim import make_optimizer
from imagen_jax.train import compile_step
from imagen_jax.train_step import Objective, add_lowres, crop, draw, init_state, losses, train_step
from tests import tiny


def objective(config, crop_size: int = 0, **settings) -> Objective:
    drop = config.diffusion.drop_all, config.diffusion.drop_context
    return Objective(runs.make_schedule(config), *drop, crop_size, **settings)


def step_function(config, net, tx=None, **settings):
    tx = tx or make_optimizer(config.optim, config.train.steps)
    return tx, jax.jit(functools.partial(train_step, net, objective(config, **settings), tx, 0.9, 0))


def test_a_frozen_text_encoder_stays_outside_the_state():
    config, batch = tiny.config(), tiny.batch()
    net, params = tiny.model_and_params()
    tx, step = step_function(config, net)
    frozen = {"text_encoder": params["text_encoder"]}
    state, _ = step(init_state({"unet": params["unet"]}, tx), frozen, batch)
    assert set(state.params) == set(state.ema) == {"unet"}
    together, _ = step(init_state(params, tx), {}, batch)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), together.params["text_encoder"], params["text_encoder"])
    assert any(jax.tree.leaves(moved)), "unfrozen, the text encoder is trained"


def test_products_of_bfloat16_factors_take_nearly_the_same_step():
    config, batch = tiny.config(), tiny.batch()
    net, params = tiny.model_and_params()
    tx, step = step_function(config, net)
    _, exact = step(init_state(params, tx), {}, batch)
    with jax.default_matmul_precision("bfloat16"):
        _, near = step(init_state(params, tx), {}, batch)
    assert float(jnp.abs(near["loss"] - exact["loss"]).max()) > 0, "the setting reaches the model"
    np.testing.assert_allclose(near["loss"], exact["loss"], rtol=0.03)
    np.testing.assert_allclose(near["grad_norm"], exact["grad_norm"], rtol=0.05)


def test_each_step_has_its_own_noise_and_the_same_step_the_same():
    config, batch = tiny.config(), tiny.batch()
    net, params = tiny.model_and_params()
    tx, step = step_function(config, net)
    state = init_state(params, tx)
    (_, first), (_, again) = step(state, {}, batch), step(state, {}, batch)
    _, later = step(state.replace(step=jnp.int32(7)), {}, batch)
    np.testing.assert_array_equal(first["loss"], again["loss"])
    assert float(jnp.abs(first["logsnr"] - later["logsnr"]).min()) > 0


def test_training_on_one_batch_lowers_its_loss_and_follows_with_the_ema():
    config = tiny.config()
    config.optim.update(learning_rate=3e-3, warmup_steps=1)
    net = model_lib.make_model(config)
    tx, step = step_function(config, net)
    state, batch = init_state(tiny.init(net), tx), tiny.batch(size=8)
    batch = batch.replace(image=np.full_like(batch.image, 255))  # noise could not be learned
    history = []
    for _ in range(60):
        state, values = step(state, {}, batch)
        history.append(float(values["loss"].mean()))
    assert np.mean(history[-10:]) < 0.8 * np.mean(history[:10])
    distance = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, state.ema)
    assert 0 < max(jax.tree.leaves(distance)) < 0.5


def test_condition_dropout_has_the_papers_rates():
    config = tiny.config()
    draws = draw(model_lib.make_model(config), objective(config), 20_000, jax.random.key(0))
    assert abs(float(draws.no_text.mean()) - 0.1) < 0.01
    assert abs(float(draws.no_context.mean()) - 0.19) < 0.01  # 1 - 0.9 * 0.9
    assert not bool((draws.no_text & ~draws.no_context).any())


def test_noisy_copies_of_an_example_are_as_many_examples():
    config, batch = tiny.config(), tiny.batch(size=4)
    net, params = tiny.model_and_params()
    shared = objective(config, noises=3)
    draws = draw(net, shared, 4, jax.random.key(0))
    assert draws.eps.shape[0] == 12 and not bool((draws.eps[0] == draws.eps[1]).any())
    times = shared.schedule.t(draws.logsnr).reshape(4, 3)
    gaps = jnp.diff(jnp.sort(times, axis=1), axis=1)
    np.testing.assert_allclose(gaps, 1 / 3, atol=1e-3)  # a third of the circle lies between an example's noise levels

    def gradient(objective, batch):
        return jax.jit(jax.grad(lambda params: losses(net, objective, params, batch, draws).mean()))(params)

    repeated = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), batch)
    expected = gradient(objective(config), repeated)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), gradient(shared, batch), expected)


def test_the_copies_of_an_example_count_for_its_task():
    config, net = tiny.config(), tiny.model_and_params()[0]
    config.train.noises = 3
    tx, params = make_optimizer(config.optim, config.train.steps), tiny.init(net)
    batch = tiny.batch(size=4).replace(task=np.array([1, 0, 0, 0], np.int32))
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    shared = train_lib.make_objective(config)
    each = jax.jit(functools.partial(losses, net, shared))(params, batch, draw(net, shared, 4, key))
    step = compile_step(config, net, tx, ("a", "b"), partition.make_mesh({}, jax.devices()[:1]))
    _, values = step(init_state(params, tx), {}, batch)
    for task, own in (("a", each[3:]), ("b", each[:3])):
        total, count = values[f"loss/task_{task}"]
        assert int(count) == len(own) and float(total) == pytest.approx(float(own.sum()), rel=1e-4)


@pytest.mark.parametrize("noises", [1, 2])
def test_four_micro_batches_of_two_are_one_batch_of_eight(noises):
    config, batch = tiny.config(), tiny.batch(size=8)
    net, params = tiny.model_and_params()
    results = []
    for accumulate in (1, 4):  # SGD: Adam's first step would be a full one on a gradient of mere rounding
        tx, step = step_function(config, net, optax.sgd(0.01), accumulate=accumulate, noises=noises)
        state, values = step(init_state(params, tx), {}, batch)
        results.append((values["loss"], values["grad_norm"], state.params))
    assert float(jnp.ptp(results[0][0])) > 0  # a mixed-up order of the losses would show
    whole, parts = results
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), parts, whole)


def test_micro_batches_need_no_references():
    config, batch = tiny.config(context_levels=()), tiny.batch(size=8, slots=0)
    net, params = tiny.model_and_params(context_levels=())
    tx, step = step_function(config, net, optax.sgd(0.01), accumulate=4)
    _, values = step(init_state(params, tx), {}, batch)
    assert values["loss"].shape == (8,) and bool(jnp.isfinite(values["loss"]).all())


MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)]


def test_one_loss_on_five_mesh_shapes():
    config, batch = tiny.config(), tiny.batch(size=8)
    config.train.noises = 2
    config.optim.name = "adafactor"  # the paper's: its factored state is sharded too
    net, params = tiny.model_and_params(channels=(8,), blocks=(1,), text_levels=(1,), context_levels=(1,))
    tx = make_optimizer(config.optim, config.train.steps)
    means = []
    for sizes in MESHES:
        devices = jax.devices()[: int(np.prod(sizes))]
        mesh = partition.make_mesh(dict(zip(partition.AXES, sizes, strict=True)), devices)
        state = init_state(jax.tree.map(jnp.array, params), tx)  # a step takes its state away
        step = compile_step(config, net, tx, tuple(config.data.mixture), mesh)
        state = jax.device_put(state, partition.shardings(state, mesh, config.sharding))
        spread = max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state))
        assert spread == len(devices)
        placed = partition.shard_batch(batch, mesh)
        losses = []
        for _ in range(5):
            state, values = step(state, {}, placed)
            losses.append(float(values["loss"]))
        means.append(losses)
    np.testing.assert_allclose(means, np.broadcast_to(means[0], np.shape(means)), rtol=1e-5)


def test_the_precision_of_products_is_that_of_the_step_alone():
    net, params = tiny.model_and_params(channels=(8,), blocks=(1,), text_levels=(1,), context_levels=(1,))
    mesh, found = partition.make_mesh({}, jax.devices()[:1]), {}
    for precision in ("", "bfloat16"):
        config = tiny.config()
        config.train.matmul_precision = precision
        tx = make_optimizer(config.optim, config.train.steps)
        step = compile_step(config, net, tx, tuple(config.data.mixture), mesh)
        _, values = step(init_state(jax.tree.map(jnp.array, params), tx), {}, tiny.batch(size=8))
        found[precision] = float(values["loss"])
        assert not jax.config.jax_default_matmul_precision
    assert found["bfloat16"] == pytest.approx(found[""], rel=0.05) and found["bfloat16"] != found[""]


def test_every_large_leaf_of_the_paper_model_is_sharded():
    config = stage2.get_config("paper")
    net, tx = model_lib.make_model(config), make_optimizer(config.optim, config.train.steps)

    def whole(key):
        params = model_lib.init(net, key)
        return init_state({"unet": params["unet"]}, tx), params["text_encoder"]

    abstract = jax.eval_shape(whole, jax.random.key(0))
    mesh = AbstractMesh((1, 64, 1), partition.AXES)
    placed = partition.shardings(abstract, mesh, config.sharding)
    for leaf, sharding in zip(jax.tree.leaves(abstract), jax.tree.leaves(placed), strict=True):
        if leaf.size * leaf.dtype.itemsize > 2**20:
            assert np.prod(sharding.shard_shape(leaf.shape)) == leaf.size / 64, (leaf, sharding)


@pytest.fixture
def super_res():
    return tiny.model_and_params(image_size=16, lowres_size=8, context_levels=())


def test_super_resolution_crops_both_pictures_alike(super_res):
    rows, columns = jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing="ij")
    lowres = jnp.stack([rows, columns, rows], -1)[None].repeat(4, 0)
    x0 = lowres.repeat(2, 1).repeat(2, 2)
    config = tiny.config(image_size=16, lowres_size=8, context_levels=())
    draws = draw(super_res[0], objective(config, crop_size=8), 64, jax.random.key(0))
    assert draws.corners.min() == 0 and draws.corners.max() == 4  # every window, none beyond the border
    big, small = crop(x0, lowres, draws.corners[:4], 8)
    assert big.shape == (4, 8, 8, 3) and small.shape == (4, 4, 4, 3)
    np.testing.assert_array_equal(big[:, ::2, ::2], small)
    assert len({tuple(corner) for corner in np.asarray(small[:, 0, 0, :2]).tolist()}) > 1


def test_super_resolution_trains_on_augmented_pictures(super_res):
    net, params = super_res
    config, batch = tiny.config(), tiny.batch(size=64, side=16)
    x0 = model_lib.to_float(jnp.asarray(batch.image))
    empty = model_lib.Cond(text=None, text_mask=jnp.ones((64, 1), bool))
    bounded = dataclasses.replace(objective(config), max_aug_level=0.3)
    assert 0.2 < float(draw(net, bounded, 64, jax.random.key(0)).aug_level.max()) < 0.3
    draws = draw(net, objective(config), 64, jax.random.key(0))
    same, cond = add_lowres(net, objective(config), x0, empty, draws)
    np.testing.assert_array_equal(same, x0)
    assert cond.lowres.shape == (64, 8, 8, 3)
    schedule = runs.make_schedule(config)
    level = schedule.t(cond.lowres_logsnr)
    assert float(level.min()) < 0.1 and float(level.max()) > 0.9  # uniform in [0, 1]
    cleanest = int(cond.lowres_logsnr.argmax())
    clean = model_lib.shrink(x0, 8)
    assert float(jnp.abs(cond.lowres - clean)[cleanest].mean()) < float(jnp.abs(cond.lowres - clean).mean()) / 3
    cropped = objective(config, crop_size=8)
    value = jax.jit(functools.partial(losses, net, cropped))(params, batch, draw(net, cropped, 64, jax.random.key(0)))
    assert value.shape == (64,) and bool(jnp.isfinite(value).all())


UNTRAINABLE = [
    (stage2, "data.max_references", 0, "config.data.max_references=0 must be at least 1"),
    (stage2, "train.crop_size", 16, "config.train.crop_size=16 is for super-resolution"),
    (enlarging, "model.lowres_size", 24, "image_size=64 must be a multiple of config.model.lowres_size=24"),
    (enlarging, "train.crop_size", 12, "config.train.crop_size=12 must be a multiple of 8"),
    (enlarging, "train.crop_size", 128, "at most config.model.image_size=64"),
    (stage2, "text_encoder.vocab_size", 32000, "the tokenizer has 32100 ids"),
    (stage2, "sample.method", "ddmp", "config.sample.method 'ddmp' is unknown: use one of ddpm, ddim"),
    (stage2, "sample.steps", 0, "config.sample.steps is 0: at least 1"),
    (enlarging, "sample.super_res.guidance", "strong", "config.sample.super_res.guidance 'strong' is unknown"),
    (stage2, "sample.guidance_interval", (-5.0,), "config.sample.guidance_interval=(-5.0,): give two log-SNRs"),
    (stage2, "diffusion.prediction", "vv", "diffusion.prediction 'vv' is unknown: use one of v, eps, x0"),
    (stage2, "diffusion.logsnr_min", 20.0, "logsnr_min 20.0 must be below logsnr_max 15.0"),
    (stage2, "model.remat", "all", "model.remat 'all' is unknown: use one of none, block"),
    (stage2, "model.upsample", "bilinear", "model.upsample 'bilinear' is unknown: use one of nearest, shuffle"),
    (stage2, "train.batch_size", 0, "config.train.batch_size=0 must be at least 1"),
    (stage2, "text_encoder.weights", "t5/xl", "config.text_encoder.weights=t5/xl is for a frozen encoder"),
    (enlarging, "sample.super_res.aug_level", 10.0, "config.sample.super_res.aug_level=10.0: must be from 0 to 1"),
    (enlarging, "sample.super_res.threshold", "high", "config.sample.super_res.threshold 'high' is unknown"),
]


@pytest.mark.parametrize(("experiment", "key", "value", "told"), UNTRAINABLE)
def test_what_would_fail_only_later_is_told_before_training(experiment, key, value, told, tmp_path):
    config = experiment.get_config()
    config.train.crop_size = 32 if experiment is enlarging else 0
    train_lib.check(config, tmp_path / "run")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError) as error:
        train_lib.check(config, tmp_path / "run")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_micro_batches_divide_over_the_devices():
    train = ConfigDict(dict(batch_size=64, accumulate=4))
    train_lib.check_batch(train, 16)
    with pytest.raises(
        train_lib.TrainError, match=r"devices in config\.train\.accumulate=4 parts; choose a multiple of 96$"
    ):
        train_lib.check_batch(train, 24)


def test_a_model_without_references_needs_no_slots_and_a_sampler_that_is_not_used_is_not_asked(tmp_path):
    config = pretrain.get_config()
    config.sample.super_res.method = "ddmp"
    train_lib.check(config, tmp_path / "run")
    assert config.data.max_references == 0


def test_a_run_does_not_go_on_with_another_batch_size(tmp_path):
    config, mesh = tiny.config(), partition.make_mesh(dict(data=1, fsdp=-1, tensor=1))
    net, params = tiny.model_and_params()
    tx, checkpointer = make_optimizer(config.optim, config.train.steps), Checkpointer(tmp_path / "checkpoints", keep=1)
    trainer = train_lib.Trainer(config, tmp_path, mesh, net, tx, {}, None, None, checkpointer)
    train_lib.save(trainer, init_state(params, tx).replace(step=jnp.int32(3)), 3, train_lib.metrics.Accumulator())
    checkpointer.wait()
    assert int(train_lib.start(trainer)[0].step) == 3
    config.train.batch_size = 64
    with pytest.raises(train_lib.TrainError, match=r"batch_size=64: .* was trained with 32, .*; set it to that"):
        train_lib.start(trainer)
    checkpointer.close()
