"""Samplers on Gaussian data, where the optimal denoiser and the probability-flow solution are closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import guidance, samplers
from imagen_jax.schedules import Schedule, alpha_sigma
from imagen_jax.types import Cond

SHAPE = (2, 2, 1)
MEAN = 0.3
SCALE = np.array([0.25, 0.5, 1.0, 1.5]).reshape(SHAPE)  # data: x0 ~ N(MEAN, SCALE^2), pixel by pixel


def denoiser(z, logsnr, cond):
    """E[x0 | z] of the Gaussian data."""
    alpha, sigma = alpha_sigma(logsnr[:, None, None, None])
    gain = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2)
    return (MEAN + gain * (z - alpha * MEAN)).astype(jnp.float32)


def sample(method, steps, batch, schedule=Schedule(), z=None, denoiser=denoiser, indices=None):  # noqa: B008 (frozen)
    cond = Cond(text=jnp.zeros((batch, 1, 1)), text_mask=jnp.ones((batch, 1), bool))
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(batch) if indices is None else indices)
    draw = partial(samplers.sample, guidance.unguided(denoiser), method=method, steps=steps)
    return jax.jit(lambda keys, cond, z: draw(keys, cond, SHAPE, schedule, z=z))(keys, cond, z)


@pytest.mark.parametrize(
    ("method", "steps", "bias"),  # bias: of the deviation, by discretisation, at the smallest scale; measured
    [
        ("ddpm", 256, 0.03),
        ("ddim", 256, 0.01),
        (partial(samplers.ddim, eta=0.5), 256, 0.015),
        ("dpm_solver_2m", 128, 0.005),
        ("heun", 64, 0.005),
    ],
)
def test_samples_have_the_mean_and_variance_of_the_data(method, steps, bias):
    x0 = np.asarray(sample(method, steps, batch=20_000), np.float64)
    # standard errors of 20,000 samples: 0.7 % of SCALE for the mean, 0.5 % for the deviation; 4 of them are allowed
    np.testing.assert_allclose((x0.mean(0) - MEAN) / SCALE, 0.0, atol=0.03)
    np.testing.assert_allclose(x0.std(0) / SCALE, 1.0, atol=0.02 + bias)


def coefficients(logsnr):
    """alpha^2 and sigma^2 in float64."""
    return 1 / (1 + np.exp(-logsnr)), 1 / (1 + np.exp(logsnr))


def flow(z, start, end):
    """The exact probability flow of the Gaussian: the distance from the mean in standard deviations is kept."""
    (alpha2, sigma2), (alpha2_end, sigma2_end) = coefficients(start), coefficients(end)
    deviation, deviation_end = np.sqrt(alpha2 * SCALE**2 + sigma2), np.sqrt(alpha2_end * SCALE**2 + sigma2_end)
    return np.sqrt(alpha2_end) * MEAN + (z - np.sqrt(alpha2) * MEAN) / deviation * deviation_end


@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("dpm_solver_2m", 2), ("heun", 2)])
def test_deterministic_samplers_converge_at_their_order(method, order):
    schedule = Schedule(logsnr_min=-3.0, logsnr_max=3.0)  # well inside the range every step shrinks as 1 / steps
    z = np.random.default_rng(0).normal(size=(64, *SHAPE))
    errors = []
    for steps in (16, 32, 64):
        last = schedule.logsnr(np.float64(1 / steps))  # the sampler returns x0 of its last evaluation
        exact = denoiser(flow(z, schedule.logsnr_min, last), np.full(64, last), None)
        found = sample(method, steps, 64, schedule, z=jnp.asarray(z, jnp.float32))
        errors.append(float(jnp.sqrt(jnp.mean((found - exact) ** 2))))
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(slopes, order, atol=0.1)  # measured: 0.94 to 0.97; 1.97 to 1.98; 1.94 to 1.97


@pytest.mark.parametrize(("method", "error"), [("ddim", 0.04), ("dpm_solver_2m", 0.003), ("heun", 0.001)])
def test_deterministic_samplers_follow_the_flow_over_the_whole_range(method, error):
    schedule, z = Schedule(), np.random.default_rng(0).normal(size=(64, *SHAPE))
    exact = flow(z, schedule.logsnr_min, np.inf)
    found = sample(method, 256, 64, schedule, z=jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, exact, atol=error)


def a_step(now, next_, batch=1, **changes):
    z, x0, last_x0 = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    fields = dict(z=z, x0=x0, last_x0=last_x0, last=jnp.float32(-jnp.inf), now=jnp.float32(now))
    keys = samplers.sample_keys(jax.random.key(1), jnp.arange(batch))
    noise = partial(samplers.sample_noise, keys, 1, SHAPE)
    return samplers.Step(**fields | dict(next=jnp.float32(next_), denoise=None, noise=noise) | changes)


def test_ddpm_draws_from_the_posterior():
    now, next_, batch = -1.0, 0.5, 20_000
    step = a_step(now, next_, batch)
    z, x0 = np.float64(step.z), np.float64(step.x0)
    (alpha2, sigma2), (alpha2_next, sigma2_next) = coefficients(now), coefficients(next_)
    # Bayes: prior N(alpha_next x0, sigma_next^2), likelihood z ~ N(ratio z_next, sigma^2 - ratio^2 sigma_next^2)
    ratio = np.sqrt(alpha2 / alpha2_next)
    spread = sigma2 - ratio**2 * sigma2_next
    variance = 1 / (1 / sigma2_next + ratio**2 / spread)
    mean = variance * (np.sqrt(alpha2_next) * x0 / sigma2_next + ratio * z / spread)
    draws = np.float64(samplers.ddpm(step))
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * np.sqrt(variance / batch))
    np.testing.assert_allclose(draws.var(0), variance, rtol=5 * np.sqrt(2 / batch))


def test_the_first_multistep_is_ddim_and_a_later_one_is_not():
    first, later = a_step(-1.0, 0.5), a_step(-1.0, 0.5, last=jnp.float32(-2.0))
    np.testing.assert_allclose(samplers.dpm_solver_2m(first), samplers.ddim(first), atol=1e-5)
    assert np.abs(samplers.dpm_solver_2m(later) - samplers.ddim(later)).max() > 0.05


def test_ddim_keeps_x0_and_eps():
    step = a_step(-1.0, 0.5)
    (alpha2, sigma2), (alpha2_next, sigma2_next) = coefficients(-1.0), coefficients(0.5)
    eps = (np.float64(step.z) - np.sqrt(alpha2) * np.float64(step.x0)) / np.sqrt(sigma2)
    np.testing.assert_allclose(
        samplers.ddim(step), np.sqrt(alpha2_next) * step.x0 + np.sqrt(sigma2_next) * eps, atol=1e-5
    )


@pytest.mark.parametrize("method", samplers.METHODS)
def test_a_sample_depends_on_its_key_and_not_on_its_batch(method):
    together = sample(method, 6, batch=5)
    pair = sample(method, 6, batch=2, indices=jnp.array([4, 2]))
    np.testing.assert_allclose(pair, together[jnp.array([4, 2])], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_each_step_has_its_own_noise():
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(4000))
    first, second = (samplers.sample_noise(keys, i, SHAPE).reshape(-1) for i in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04  # 16,000 pairs: standard error 0.008


@pytest.mark.parametrize(("method", "evaluations"), [("ddpm", 1), ("ddim", 1), ("dpm_solver_2m", 1), ("heun", 2)])
def test_sampling_is_one_scan_whatever_the_steps(method, evaluations):
    traces = []

    def traced(z, logsnr, cond):
        traces.append((z.dtype, logsnr.shape))
        return denoiser(z, logsnr, cond)

    x0 = sample(method, 50, batch=3, denoiser=traced)
    assert traces == [(jnp.float32, (3,))] * evaluations
    assert x0.shape == (3, *SHAPE) and x0.dtype == jnp.float32


def test_the_denoiser_sees_the_levels_and_the_step_numbers_in_order():
    schedule, seen = Schedule(), []

    def watch(z, logsnr, cond, step):
        jax.debug.callback(lambda step, logsnr: seen.append((int(step), float(logsnr))), step, logsnr[0], ordered=True)
        return z * 0

    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(1))
    samplers.sample(watch, keys, Cond(text=None, text_mask=None), SHAPE, schedule, method="ddpm", steps=4)
    jax.effects_barrier()
    expected = schedule.logsnr(np.array([1.0, 0.75, 0.5, 0.25]))
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    np.testing.assert_allclose([logsnr for _, logsnr in seen], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        ("euler", 4, "sample.method 'euler' is unknown: use one of ddpm, ddim, dpm_solver_2m, heun"),
        ("ddpm", 0, "sample.steps is 0: at least 1 is needed"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(method, steps, message):
    with pytest.raises(ValueError) as error:
        sample(method, steps, batch=1)
    assert str(error.value) == message
