"""Schedules: variance preserving, falling, invertible, and equal to literal values of the published formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.schedules import BETA_END, BETA_START, Schedule, alpha_sigma, resolution_shift

SCHEDULES = [
    Schedule(),
    Schedule(logsnr_min=-12.0, logsnr_max=9.0, shift=-2.5),
    Schedule("linear"),
    Schedule("linear", logsnr_min=-10.05, logsnr_max=10.0, shift=1.0),
]
TIMES = np.linspace(0.0, 1.0, 257)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@pytest.mark.parametrize("logsnr", [-20.0, -7.3, 0.0, 7.3, 20.0])
def test_alpha_and_sigma_are_variance_preserving_and_precise_at_the_extremes(logsnr):
    alpha, sigma = alpha_sigma(jnp.float32(logsnr))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.log(np.float64(alpha) ** 2 / np.float64(sigma) ** 2), logsnr, atol=1e-5)


@each_schedule
def test_logsnr_falls_from_bound_to_bound(schedule):
    logsnr = schedule.logsnr(TIMES)
    assert (np.diff(logsnr) < 0).all()
    np.testing.assert_allclose(logsnr[0], schedule.logsnr_max + schedule.shift, atol=1e-9)
    np.testing.assert_allclose(logsnr[-1], schedule.logsnr_min + schedule.shift, atol=1e-9)


@each_schedule
def test_time_is_the_inverse_of_logsnr(schedule):
    np.testing.assert_allclose(schedule.t(schedule.logsnr(TIMES)), TIMES, atol=1e-12)
    times = jnp.asarray(TIMES, jnp.float32)
    np.testing.assert_allclose(schedule.t(schedule.logsnr(times)), times, atol=1e-5)


@each_schedule
def test_float32_on_the_device_agrees_with_float64_on_the_host(schedule):
    on_device = schedule.logsnr(jnp.asarray(TIMES, jnp.float32))
    assert on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, schedule.logsnr(TIMES), atol=1e-4)


def test_cosine_literals():
    schedule = Schedule("cosine", logsnr_min=-20.0, logsnr_max=20.0)
    # -2 log tan(a + (b - a) t), a = arctan(exp(-10)), b = arctan(exp(10)), by an independent float64 computation
    literals = {0.1: 3.684989986718, 0.25: 1.762618766561, 0.5: 0.0, 0.9: -3.684989986718}
    for t, logsnr in literals.items():
        np.testing.assert_allclose(schedule.logsnr(np.float64(t)), logsnr, atol=1e-9)
    alpha, _ = alpha_sigma(schedule.logsnr(jnp.float32(0.25)))
    np.testing.assert_allclose(alpha, np.cos(np.pi / 8), atol=3e-5)  # the unbounded curve: alpha = cos(pi t / 2)


def test_linear_is_the_limit_of_ddpm():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # DDPM's own 1000 steps
    schedule = Schedule("linear", logsnr_min=-10.05, logsnr_max=20.0)
    for step in (100, 500, 900):
        discrete = np.log(alpha_bar[step - 1] / (1 - alpha_bar[step - 1]))
        np.testing.assert_allclose(schedule.logsnr(np.float64(step / 1000)), discrete, atol=0.06)
    assert (BETA_START, BETA_END) == (0.1, 20.0)


def test_resolution_shift_is_twice_the_log_of_the_ratio():
    np.testing.assert_allclose(resolution_shift(256, 64), -2.772588722239781)
    shifted = Schedule(shift=resolution_shift(256, 64))
    np.testing.assert_allclose(shifted.logsnr(np.float64(0.5)), -2.772588722239781, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="cosin"), "schedule 'cosin' is unknown: use one of cosine, linear"),
        (dict(logsnr_min=5.0, logsnr_max=-5.0), "schedule: logsnr_min 5.0 must be below logsnr_max -5.0"),
    ],
)
def test_a_wrong_schedule_is_one_clear_line(arguments, message):
    with pytest.raises(ValueError) as error:
        Schedule(**arguments)
    assert str(error.value) == message
