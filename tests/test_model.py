"""The encode / denoise contract, condition dropout, and sampling with the real network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import common
from imagen_jax import cascade, samplers
from imagen_jax import model as model_lib
from imagen_jax.runs import Run
from imagen_jax.schedules import Schedule
from tests import tiny


def sampling(**changes) -> ConfigDict:
    config = tiny.config().sample
    config.update(steps=3, **changes)
    return config


def base_run() -> Run:
    return Run(tiny.config(), *tiny.model_and_params())


def test_encoding_once_equals_encoding_at_every_step_bit_for_bit():
    net, params = tiny.model_and_params()
    batch = tiny.batch()
    encode = jax.jit(functools.partial(model_lib.encode, net))
    denoise = jax.jit(lambda z, logsnr, cond: model_lib.denoiser(net, params)(z, logsnr, cond))
    once = encode(params, batch.text, batch.context)

    def walk(cond_at_step):
        z = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
        for level in (-3.0, 0.0, 3.0):
            z = denoise(z, jnp.full(2, level), cond_at_step())
        return z

    np.testing.assert_array_equal(walk(lambda: once), walk(lambda: encode(params, batch.text, batch.context)))


def test_the_sampling_loop_encodes_the_instruction_outside_of_its_scan():
    run, batch = base_run(), tiny.batch()
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(2))
    arguments = run.params, batch.text, batch.context, keys, None

    def scanned(jaxpr) -> int:
        """Matrix products inside the scan: those of one denoising step, none of the two encoders."""
        scan = next(eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
        return str(scan.params["jaxpr"]).count("dot_general") + str(scan.params["jaxpr"]).count("conv_general")

    cond = jax.eval_shape(functools.partial(model_lib.encode, run.model), run.params, batch.text, batch.context)
    step = jax.make_jaxpr(model_lib.denoiser(run.model, run.params))(jnp.zeros((2, 8, 8, 3)), jnp.zeros(2), cond)
    expected = str(step).count("dot_general") + str(step).count("conv_general")
    settings = sampling(guidance="none", threshold="none")
    sample = jax.make_jaxpr(functools.partial(cascade.sample_once, run.model, Schedule(), settings))(*arguments)
    assert scanned(sample.jaxpr) == expected > 10


def test_a_sample_does_not_depend_on_batch_size_or_device_count():
    run, batch = base_run(), tiny.batch(size=8)
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(8))
    all_eight = cascade.sample_base(run, sampling(), batch.text, batch.context, keys)
    one = jax.tree.map(lambda x: x[5:6], (batch.text, batch.context, keys))
    np.testing.assert_allclose(cascade.sample_base(run, sampling(), *one)[0], all_eight[5], atol=2e-4)

    from imagen_jax import partition

    mesh = partition.make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    split = jax.device_put((batch.text, batch.context, keys), partition.batch_sharding(mesh))
    spread = cascade.sample_base(run, sampling(), *split)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, all_eight, atol=2e-4)


def test_the_cascade_hands_its_picture_on():
    net, params = tiny.model_and_params(image_size=16, lowres_size=8, context_levels=())
    config = tiny.config(image_size=16, lowres_size=8, context_levels=())
    sample = sampling()
    sample.super_res.steps = 2
    batch = tiny.batch()
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(2))
    pictures = cascade.generate(base_run(), Run(config, net, params), sample, batch.text, batch.context, keys)
    assert pictures["base"].shape == (2, 8, 8, 3) and pictures["super_res"].shape == (2, 16, 16, 3)
    other = cascade.enlarge(Run(config, net, params), sample, batch.text, -pictures["base"], keys)
    assert float(jnp.abs(other - pictures["super_res"]).max()) > 0.01


def test_super_resolution_with_a_gap_starts_as_interpolation():
    config = tiny.config(image_size=16, lowres_size=8, context_levels=(), lowres_gap=0.02)
    config.sample.super_res.update(steps=200, aug_level=0.0, threshold="none")
    net = model_lib.make_model(config)
    lowres = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1.0)
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(2))
    enlarged = cascade.enlarge(Run(config, net, tiny.init(net)), config.sample, tiny.batch().text, lowres, keys)
    off = enlarged - jax.image.resize(lowres, enlarged.shape, "cubic")
    # What is drawn round it has the variance of the gap, the less of it the fewer the steps.
    assert 0.015 < float(off.var()) < 0.021 and abs(float(off.mean())) < 0.02


def test_a_cascade_that_does_not_fit_is_refused():
    import pytest

    config = tiny.config(image_size=64, lowres_size=32)
    with pytest.raises(cascade.CascadeError, match=r"enlarges 32 px .* makes 8 px"):
        cascade.check_fit(base_run(), Run(config, None, None))
    with pytest.raises(cascade.CascadeError, match="is a super-resolution run"):
        cascade.check_fit(Run(config, None, None), None)


def test_paper_configs_follow_the_paper():
    from experiments import edit, stage1, stage2, super_res

    for experiment, steps in ((stage1, 500_000), (stage2, 400_000)):
        config = experiment.get_config("paper")
        assert (config.train.steps, config.train.batch_size, config.optim.ema_decay) == (steps, 512, 0.9999)
        assert (config.optim.name, config.optim.learning_rate, config.optim.warmup_steps) == ("adafactor", 1e-4, 10_000)
        assert (config.sample.steps, config.sample.guidance, config.sample.guidance_weight) == (
            256,
            "oscillating",
            25.0,
        )
    assert super_res.get_config("paper").optim.name == "adam"
    edit_config = edit.get_config("paper")
    assert edit_config.optim.warmup_steps * 4 == edit_config.train.steps == 10_000, "the rate gets where it should"
    # Its text encoder is frozen and its UNet is new: there is nothing that it could take over.
    assert super_res.get_config("paper").init_from == "" and super_res.get_config("small").init_from
    assert all(abs(sum(mixture.values()) - 1) < 1e-9 for mixture in stage2.MIXTURES.values())
    assert set(common.SCALE) == set(common.BASE) == set(common.SUPER_RES) == set(common.TEXT_ENCODERS)


def test_arms_leave_out_what_their_names_say():
    import pytest

    from experiments import ablation

    assert not ablation.get_config("no_instructions,small").data.instructions
    mixture = ablation.get_config("no_edit").data.mixture
    assert "edit" not in mixture and abs(sum(mixture.values()) - 1) < 1e-9 and len(mixture) == 7
    with pytest.raises(ValueError, match=r"^experiments/ablation\.py:no_instructions,paper: its data sets have their"):
        ablation.get_config("no_instructions,paper")
