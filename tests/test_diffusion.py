"""The diffusion process: noising, conversions between predictions, loss weights, time sampling, augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import diffusion
from imagen_jax.schedules import Schedule, alpha_sigma

LEVELS = jnp.array([-20.0, -5.0, -1.0, 0.0, 2.0, 20.0])


@pytest.fixture
def pictures():
    """x0, eps, logsnr: one picture a level."""
    x0_key, eps_key = jax.random.split(jax.random.key(0))
    shape = (len(LEVELS), 8, 8, 3)
    return jax.random.uniform(x0_key, shape, minval=-1.0), jax.random.normal(eps_key, shape), LEVELS


def test_noised_data_have_mean_alpha_x0_and_variance_sigma_squared():
    eps = jax.random.normal(jax.random.key(1), (3, 64, 64, 3))
    logsnr = jnp.log(jnp.array([9.0, 1.0, 0.25]))  # snr = alpha^2 / sigma^2
    z = diffusion.add_noise(jnp.full(eps.shape, 0.5), eps, logsnr)
    variance = np.array([0.1, 0.5, 0.8])  # sigma^2 = 1 / (1 + snr)
    # 12288 pixels: the standard error of the mean is below 0.009, that of the variance below 1.3 %
    np.testing.assert_allclose(z.mean((1, 2, 3)), 0.5 * np.sqrt(1 - variance), atol=0.03)
    np.testing.assert_allclose(z.var((1, 2, 3)), variance, rtol=0.05)


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_conversions_round_trip(pictures, prediction):
    x0, eps, logsnr = pictures
    z = diffusion.add_noise(x0, eps, logsnr)
    output = {"v": diffusion.velocity(x0, eps, logsnr), "eps": eps, "x0": x0}[prediction]
    alpha, sigma = (np.asarray(c)[:, None, None, None] for c in alpha_sigma(logsnr))
    found_x0, found_eps = diffusion.x0_and_eps(output, z, logsnr, prediction)
    # float32 rounding of z (1e-6), magnified only where the prediction leaves its partner ill-conditioned
    x0_tolerance = 1e-6 / alpha if prediction == "eps" else 1e-6
    eps_tolerance = 1e-6 / sigma if prediction == "x0" else 1e-6
    assert (np.abs(found_x0 - x0) <= x0_tolerance).all()
    assert (np.abs(found_eps - eps) <= eps_tolerance).all()


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_loss_is_zero_for_the_perfect_prediction_and_only_for_it(pictures, prediction):
    x0, eps, logsnr = pictures
    perfect = {"v": diffusion.velocity(x0, eps, logsnr), "eps": eps, "x0": x0}
    for name, output in perfect.items():
        loss = diffusion.loss(output, x0, eps, logsnr, prediction)
        assert loss.shape == logsnr.shape
        assert (loss == 0).all() if name == prediction else (loss > 0.01).any()


def test_loss_weights_the_error_of_x0_by_snr(pictures):
    x0, eps, logsnr = (a[1:-1] for a in pictures)  # the extremes lose eps to rounding
    wrong_x0 = x0 + 0.3
    _, wrong_eps = diffusion.x0_and_eps(wrong_x0, diffusion.add_noise(x0, eps, logsnr), logsnr, "x0")
    wrong_v = diffusion.velocity(wrong_x0, wrong_eps, logsnr)
    snr = np.exp(logsnr)
    np.testing.assert_allclose(diffusion.loss(wrong_x0, x0, eps, logsnr, "x0"), 0.09 * np.ones(4), rtol=1e-4)
    np.testing.assert_allclose(diffusion.loss(wrong_eps, x0, eps, logsnr, "eps"), 0.09 * snr, rtol=1e-4)
    np.testing.assert_allclose(diffusion.loss(wrong_v, x0, eps, logsnr, "v"), 0.09 * (1 + snr), rtol=1e-4)


@pytest.mark.parametrize("logsnr", [-3.0, 0.0, 4.0])
def test_the_estimate_of_a_gaussian_is_its_posterior_mean(logsnr):
    keys, shape, mean, variance = jax.random.split(jax.random.key(0)), (1, 128, 128, 3), 0.4, 0.05
    x0, eps = mean + variance**0.5 * jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    z = diffusion.add_noise(x0, eps, level := jnp.array([logsnr]))
    found_x0, found_eps, off = diffusion.gaussian_estimate(z, level, jnp.full(shape, mean), variance)
    alpha, sigma = (float(c[0]) for c in alpha_sigma(level))
    np.testing.assert_allclose(alpha * found_x0 + sigma * found_eps, z, atol=1e-5)
    posterior = variance * sigma**2 / (alpha**2 * variance + sigma**2)
    # 49152 pixels: a variance is known to 0.7 %
    np.testing.assert_allclose(jnp.square(found_x0 - x0).mean(), posterior, rtol=0.03)
    np.testing.assert_allclose(off.var(), 1.0, rtol=0.03)


def test_loss_belongs_to_its_example(pictures):
    x0, eps, logsnr = pictures
    output = diffusion.velocity(x0, eps, logsnr).at[2].add(1.0)
    np.testing.assert_allclose(diffusion.loss(output, x0, eps, logsnr), [0, 0, 1, 0, 0, 0], atol=1e-6)


def test_an_unknown_prediction_is_one_clear_line(pictures):
    x0, eps, logsnr = pictures
    with pytest.raises(ValueError, match=r"^prediction 'score' is unknown: use one of v, eps, x0$"):
        diffusion.loss(x0, x0, eps, logsnr, "score")


def test_stratified_times_cover_the_unit_interval_and_stay_uniform():
    schedule = Schedule()
    keys = jax.random.split(jax.random.key(0), 500)
    times = jax.vmap(lambda key: schedule.t(diffusion.sample_logsnr(key, 16, schedule)))(keys)
    np.testing.assert_allclose(np.diff(np.sort(times, axis=1), axis=1), 1 / 16, atol=1e-5)
    counts, _ = np.histogram(times[:, 3], bins=5, range=(0.0, 1.0))  # one position of the batch, over 500 batches
    assert (np.abs(counts - 100) < 40).all()  # a bin's standard deviation is 9


def test_augmentation_level_zero_is_clean_and_a_half_has_half_the_variance():
    schedule = Schedule(logsnr_min=-20.0, logsnr_max=20.0)
    lowres = jnp.full((2, 64, 64, 3), 0.5)
    eps = jax.random.normal(jax.random.key(0), lowres.shape)
    augmented, logsnr = diffusion.augment_lowres(lowres, eps, jnp.array([0.0, 0.5]), schedule)
    np.testing.assert_allclose(logsnr, [20.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(augmented[0], lowres[0], atol=5 * 4.6e-5)  # sigma at logsnr 20 is 4.54e-5
    np.testing.assert_allclose(augmented[1].mean(), 0.5 * np.sqrt(0.5), atol=0.03)
    np.testing.assert_allclose(augmented[1].var(), 0.5, rtol=0.05)
