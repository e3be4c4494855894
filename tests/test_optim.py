"""The optimizer's update rule against a plain numpy one, its state's size, the warm-up and the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from experiments import common
from imagen_jax import muon, optim

STEPS = 1_000_000  # of a run that has no decay


def make_config(**changes) -> ConfigDict:
    config = ConfigDict({"name": "adafactor", "learning_rate": 1e-2, "warmup_steps": 0, "decay_share": 0.0})
    config.update({"beta1": 0.9, "beta2": 0.999, "eps": 1e-30, "clip_norm": 0.0} | changes)
    return config


def run(config, params, gradients):
    tx = optim.make_optimizer(config, STEPS)
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def adafactor_by_hand(param, gradients, config, factored):
    """The rule of the paper's optimizer in float64: bias-corrected moments, clipped update, momentum, rate."""
    row = col = full = momentum = 0.0
    b1, b2 = config.beta1, config.beta2
    for t, g in enumerate(gradients, start=1):
        g = np.asarray(g, np.float64)
        row, col = (b2 * m + (1 - b2) * (g**2).mean(a) for m, a in ((row, 1), (col, 0))) if factored else (0, 0)
        full = b2 * full + (1 - b2) * g**2
        correction = 1 - b2**t
        second = np.outer(row, col) / row.mean() / correction if factored else full / correction
        update = g / np.sqrt(second)
        update /= max(1.0, np.sqrt((update**2).mean()))
        momentum = b1 * momentum + (1 - b1) * update
        param = param - config.learning_rate * momentum
    return param


@pytest.mark.parametrize("shape, factored", [((4, 3), False), ((128, 256), True)])
def test_adafactor_follows_the_rule_by_hand(shape, factored):
    rng = np.random.default_rng(0)
    param = rng.normal(size=shape).astype(np.float32)
    gradients = [rng.normal(size=shape).astype(np.float32) * 10.0**k for k in (-3, 0, 1, -1)]
    config = make_config()
    found, _ = run(config, {"kernel": jnp.asarray(param)}, [{"kernel": jnp.asarray(g)} for g in gradients])
    expected = adafactor_by_hand(param, gradients, config, factored)
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_first_step_is_the_sign_of_the_gradient_times_rate_and_momentum():
    found, _ = run(make_config(), {"b": jnp.zeros(2)}, [{"b": jnp.array([3.0, -0.5])}])
    np.testing.assert_allclose(found["b"], [-1e-3, 1e-3], rtol=1e-6)  # rate 1e-2 x (1 - beta1) x sign


def test_adam_follows_its_first_steps():
    config = make_config(name="adam", eps=1e-8)
    found, _ = run(config, {"b": jnp.zeros(1)}, [{"b": jnp.array([2.0])}, {"b": jnp.array([-1.0])}])
    first, second = (0.9 * 0.2 - 0.1) / 0.19, np.sqrt((0.999 * 4e-3 + 1e-3) / (1 - 0.999**2))
    np.testing.assert_allclose(found["b"], [-1e-2 - 1e-2 * first / second], rtol=1e-5)


def test_eps_of_the_experiments_is_the_rule_s_own():
    assert common.defaults("any").optim.eps == 0.0
    for name, own in (("adam", 1e-8), ("adafactor", 1e-30), ("muon", 1e-30)):
        gradient = {"b": jnp.full(2, 1e-9)}  # between the two
        found, expected = (run(make_config(name=name, eps=eps), {"b": jnp.zeros(2)}, [gradient])[0] for eps in (0, own))
        np.testing.assert_array_equal(found["b"], expected["b"])


def test_decay_is_bias_corrected():
    decay = [float(optim.bias_corrected_decay(t, 0.9)) for t in (0, 1, 2, 1000)]
    np.testing.assert_allclose(decay, [0.0, 0.9 * 0.1 / 0.19, 0.9 * 0.19 / 0.271, 0.9], rtol=1e-5)


def test_matrices_keep_a_row_and_a_column_only():
    params = {"kernel": jnp.zeros((512, 512)), "conv": jnp.zeros((3, 3, 256, 512)), "bias": jnp.zeros(512)}
    state = jax.eval_shape(optim.make_optimizer(make_config(), STEPS).init, params)
    moments = next(s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "v_row")) if hasattr(s, "v_row"))
    shapes = {name: (moments.v_row[name].shape, moments.v_col[name].shape, moments.v[name].shape) for name in params}
    assert shapes["kernel"] == ((512,), (512,), (1,))
    assert shapes["conv"] == ((3, 3, 256), (3, 3, 512), (1,))
    assert shapes["bias"] == ((1,), (1,), (512,))


@pytest.mark.parametrize("name, eps", [("adafactor", 1e-30), ("adam", 1e-8)])
def test_converges_on_a_badly_scaled_quadratic(name, eps):
    scale, target = jnp.array([1.0, 100.0, 1e-2]), jnp.array([1.0, -2.0, 0.5])
    config = make_config(name=name, eps=eps, beta2=0.99)
    tx = optim.make_optimizer(config, STEPS)

    @jax.jit
    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: jnp.sum(scale * (p - target) ** 2))(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (jnp.zeros(3), tx.init(jnp.zeros(3))), length=1500)
    np.testing.assert_allclose(params, target, atol=2e-2)


def test_parameters_without_gradient_stay_and_are_finite():
    params = {"kernel": jnp.ones((128, 128)), "bias": jnp.ones(4)}
    found, _ = run(make_config(), params, [jax.tree.map(jnp.zeros_like, params)] * 2)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_clip_norm_bounds_what_adam_sees():
    config = make_config(name="adam", eps=1.0, clip_norm=1.0, beta1=0.0)
    found, _ = run(config, {"b": jnp.zeros(2)}, [{"b": jnp.array([30.0, 40.0])}])
    np.testing.assert_allclose(found["b"], [-1e-2 * 0.6 / 1.6, -1e-2 * 0.8 / 1.8], rtol=1e-5)


def test_warm_up_is_linear_then_constant():
    config = make_config(learning_rate=1e-4, warmup_steps=4)
    rates = [float(optim.learning_rate(config, step, STEPS)) for step in (0, 1, 3, 4, 900_000)]
    np.testing.assert_allclose(rates, [0.25e-4, 0.5e-4, 1e-4, 1e-4, 1e-4], rtol=1e-6)
    assert float(optim.learning_rate(make_config(), 0, STEPS)) == pytest.approx(1e-2)


def test_the_last_steps_fall_evenly_to_zero():
    config = make_config(learning_rate=1.0, decay_share=0.4)
    rates = [float(optim.learning_rate(config, step, 10)) for step in (0, 6, 7, 8, 9, 10, 11)]
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0], rtol=1e-6)
    short = make_config(learning_rate=1.0, warmup_steps=2, decay_share=1.0)  # both in one short run: the lower one
    np.testing.assert_allclose([float(optim.learning_rate(short, step, 2)) for step in (0, 1)], [0.5, 0.5])


@pytest.mark.parametrize(
    "shape, matrix",
    [((24, 40), (24, 40)), ((3, 3, 8, 16), (72, 16)), ((2, 24, 40), (24, 40)), ((2, 3, 3, 8, 16), (72, 16))],
    ids=["dense", "convolution", "stacked dense", "stacked convolution"],
)
def test_muon_makes_each_kernel_s_update_orthogonal_and_of_one_size(shape, matrix):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    config = make_config(name="muon", learning_rate=1.0)
    found, _ = run(config, {"kernel": jnp.zeros(shape)}, [{"kernel": jnp.asarray(gradient)}])
    for update, raw in zip(*(np.reshape(x, (-1, *matrix)) for x in (found["kernel"], gradient)), strict=True):
        u, _, vt = np.linalg.svd(raw, full_matrices=False)
        descent = -update / (0.2 * np.sqrt(max(matrix)))
        singular = np.linalg.svd(descent, compute_uv=False)
        assert (singular > 0.6).all() and (singular < 1.3).all()  # as near to 1 as five iterations come
        assert (descent * (u @ vt)).sum() / np.linalg.norm(descent) / np.linalg.norm(u @ vt) > 0.97


@pytest.mark.parametrize("precision, least, most", [("float32", 0.0, 1e-5), ("bfloat16", 1e-4, 0.05)])
def test_muon_is_the_rule_of_optax(precision, least, most):
    """Wide, tall and convolution kernels as optax makes them, whatever the size of the gradients."""
    shapes = {"wide": (24, 40), "tall": (40, 24), "convolution": (3, 3, 8, 16)}
    rng = np.random.default_rng(0)
    numbers = {name: MuonDimensionNumbers(tuple(range(len(shape) - 1)), (-1,)) for name, shape in shapes.items()}
    theirs = optax.chain(scale_by_muon(beta=muon.BETA, weight_dimension_numbers=numbers), optax.identity())
    ours = muon.scale_by_muon()
    state = expected_state = ours.init({name: jnp.zeros(shape) for name, shape in shapes.items()})
    with jax.default_matmul_precision(precision):
        for size in (1.0, 100.0, 0.01):
            gradients = {name: jnp.asarray(size * rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
            updates, state = jax.jit(ours.update)(gradients, state)
            expected, expected_state = jax.jit(theirs.update)(gradients, expected_state)
            for name, update in updates.items():
                rows, columns = muon.matrix_shape(update)
                wanted = expected[name] * muon.RMS * max(rows, columns) ** 0.5
                assert least <= float(jnp.linalg.norm(update - wanted) / jnp.linalg.norm(wanted)) < most
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)


def test_muon_leaves_the_output_and_all_that_is_no_kernel_to_adafactor():
    rng = np.random.default_rng(0)
    shapes = {"unet": {"out": {"kernel": (3, 3, 4, 12), "bias": (12,)}}, "text_encoder": {"embedding": (130, 140)}}
    shapes |= {"null": (2, 4, 8), "scale": (9,)}
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params, first, second = (jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple)) for _ in range(3))
    by_muon, by_adafactor = (run(make_config(name=name), params, [first, second])[0] for name in ("muon", "adafactor"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), by_muon, by_adafactor)


def test_warm_up_scales_the_update():
    gradient = [{"b": jnp.ones(1)}]
    slow, _ = run(make_config(warmup_steps=10), {"b": jnp.zeros(1)}, gradient)
    fast, _ = run(make_config(), {"b": jnp.zeros(1)}, gradient)
    np.testing.assert_allclose(10 * slow["b"], fast["b"], rtol=1e-5)


def test_ema_starts_short_and_ends_at_its_decay():
    ema, params = {"w": jnp.array([1.0])}, {"w": jnp.array([11.0], jnp.bfloat16)}
    np.testing.assert_allclose(optim.ema_update(ema, params, 0, 0.9999)["w"], [10.0], rtol=1e-6)  # decay 1/10
    np.testing.assert_allclose(optim.ema_update(ema, params, 90, 0.9999)["w"], [1.9], rtol=1e-6)  # decay 91/100
    late = optim.ema_update(ema, params, 10_000_000, 0.5)["w"]
    np.testing.assert_allclose(late, [6.0], rtol=1e-6)
    assert late.dtype == jnp.float32


def test_unknown_name_is_one_line():
    with pytest.raises(optim.OptimError, match=r"^optim.name='sgd' is unknown; choose one of adafactor, adam, muon$"):
        optim.make_optimizer(make_config(name="sgd"), STEPS)


def test_a_decay_share_that_is_none_is_one_line():
    with pytest.raises(
        optim.OptimError, match=r"^optim.decay_share=1.5 is no share of the steps: choose one from 0 to 1$"
    ):
        optim.make_optimizer(make_config(decay_share=1.5), STEPS)
