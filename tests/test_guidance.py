"""Guidance: every rule against its formula, on a denoiser that is nonlinear in z and sees text and context."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import diffusion, guidance
from imagen_jax.types import Cond

BATCH = 3
LOGSNR = jnp.full((BATCH,), 0.7)
Z = jax.random.normal(jax.random.key(0), (BATCH, 4, 4, 3))
COND = Cond(
    text=jax.random.normal(jax.random.key(1), (BATCH, 5, 2)),  # differs between examples
    text_mask=jnp.ones((BATCH, 5), bool),
    context=jax.random.normal(jax.random.key(2), (BATCH, 2, 6, 2)),
    context_mask=jnp.ones((BATCH, 2), bool),
)
FULL, TEXT, CONTEXT = COND, COND.drop(context=True), COND.drop(text=True)
NONE = COND.drop(text=True, context=True)


def denoiser(z, logsnr, cond):
    text = jnp.where(cond.text_mask, cond.text.mean(-1), 0.3).mean(-1)
    context = jnp.where(cond.context_mask, cond.context.mean((-2, -1)), -0.2).mean(-1)
    shift = text + 2 * context + 0.1 * logsnr
    return jnp.tanh(z + shift[:, None, None, None])


def x0_of(cond):
    return denoiser(Z, LOGSNR, cond)


def run(step_denoiser, step=0, logsnr=LOGSNR):
    return step_denoiser(Z, logsnr, COND, jnp.int32(step))


def assert_close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-5)


def assert_differ(a, b):
    assert float(jnp.abs(a - b).max()) > 1e-2


def test_weight_one_is_conditional_and_zero_unconditional():
    assert_differ(x0_of(FULL), x0_of(NONE))
    assert_close(run(guidance.unguided(denoiser)), x0_of(FULL))
    assert_close(run(guidance.classifier_free(denoiser, 1.0)), x0_of(FULL))
    assert_close(run(guidance.classifier_free(denoiser, 0.0)), x0_of(NONE))


def test_guiding_x0_is_guiding_eps():
    weight, z = 7.0, Z
    (_, eps_full), (_, eps_none) = (diffusion.x0_and_eps(x0_of(c), z, LOGSNR, "x0") for c in (FULL, NONE))
    eps = weight * eps_full + (1 - weight) * eps_none  # Imagen, equation 2
    x0, _ = diffusion.x0_and_eps(eps, z, LOGSNR, "eps")
    assert_close(run(guidance.classifier_free(denoiser, weight)), x0)


def test_text_and_context_have_their_own_weights():
    def guided(text_weight, context_weight):
        return run(guidance.text_and_context(denoiser, text_weight, context_weight))

    assert_close(guided(0.0, 0.0), x0_of(NONE))
    assert_close(guided(1.0, 0.0), x0_of(TEXT))
    assert_close(guided(1.0, 1.0), x0_of(FULL))
    assert_close(guided(4.0, 4.0), run(guidance.classifier_free(denoiser, 4.0)))
    assert_differ(guided(4.0, 1.0), guided(1.0, 4.0))


def test_oscillating_guides_even_steps_only():
    oscillating = guidance.oscillating(denoiser, 25.0)
    for step in (0, 2, 254):
        assert_close(run(oscillating, step), run(guidance.classifier_free(denoiser, 25.0)))
    for step in (1, 3, 255):
        assert_close(run(oscillating, step), x0_of(FULL))


def test_interval_guides_inside_only():
    limited = guidance.interval(denoiser, 5.0, -1.0, 2.0)
    for level, guide in ((-1.1, False), (-0.9, True), (1.9, True), (2.1, False)):
        logsnr = jnp.full((BATCH,), level)
        expected = guidance.classifier_free(denoiser, 5.0 if guide else 1.0)
        assert_close(run(limited, logsnr=logsnr), run(expected, logsnr=logsnr))


def count_evaluations(step_denoiser, steps):
    """Pictures sent through the denoiser at each step, as executed (not as traced)."""
    rows = []

    def counting(z, logsnr, cond):
        jax.debug.callback(lambda: rows.append(z.shape[0]))
        return denoiser(z, logsnr, cond)

    denoise = jax.jit(step_denoiser(counting))
    for step in steps:
        jax.block_until_ready(denoise(Z, LOGSNR, COND, jnp.int32(step)))
        jax.effects_barrier()
    return rows


def test_an_unguided_step_costs_one_evaluation():
    assert count_evaluations(guidance.unguided, [0, 1]) == [BATCH, BATCH]
    assert count_evaluations(lambda d: guidance.classifier_free(d, 5.0), [0, 1]) == [2 * BATCH, 2 * BATCH]
    assert count_evaluations(lambda d: guidance.oscillating(d, 5.0), [0, 1, 2]) == [2 * BATCH, BATCH, 2 * BATCH]
    assert count_evaluations(lambda d: guidance.interval(d, 5.0, 3.0, 4.0), [0]) == [BATCH]
    assert count_evaluations(lambda d: guidance.text_and_context(d, 5.0, 2.0), [0]) == [3 * BATCH]


def test_interleaved_takes_reference_steps_with_the_given_probability():
    weights = dict(text_weight=3.0, context_weight=6.0)
    reference_step = 6.0 * x0_of(FULL) - 5.0 * x0_of(TEXT)  # Re-Imagen's w e(x, c, r) - (w - 1) e(x, c, none)
    text_step = 3.0 * x0_of(FULL) - 2.0 * x0_of(CONTEXT)
    interleaved = guidance.interleaved(denoiser, **weights, reference_probability=0.25, key=jax.random.key(3))
    every = jax.jit(jax.vmap(lambda step: run(interleaved, step)))(jnp.arange(800))
    is_reference = np.array(jnp.abs(every - reference_step).max((1, 2, 3, 4)) < 1e-4)
    is_text = np.array(jnp.abs(every - text_step).max((1, 2, 3, 4)) < 1e-4)
    assert (is_reference ^ is_text).all()
    assert abs(is_reference.mean() - 0.25) < 0.06  # standard error 0.015
    assert_close(run(interleaved, 5), every[5])


def threshold(wrapper, x0):
    denoise = wrapper(lambda z, logsnr, cond, step: z)
    return denoise(jnp.asarray(x0)[:, :, None, None], None, None, None)[:, :, 0, 0]


def test_dynamic_threshold_divides_by_the_percentile_of_each_example():
    x0 = [[0.0, -1.0, 2.0, -3.0, 4.0], [0.0, -0.2, 0.4, -0.6, 0.8]]
    found = threshold(lambda d: guidance.dynamic_threshold(d, percentile=75.0), x0)  # s = 3 and max(1, 0.6)
    np.testing.assert_allclose(found[0], [0.0, -1 / 3, 2 / 3, -1.0, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(found[1], np.float32(x0[1]))


def test_static_threshold_clips():
    np.testing.assert_array_equal(threshold(guidance.static_threshold, [[-2.0, 0.5, 1.5]]), [[-1.0, 0.5, 1.0]])


def test_guidance_weighs_in_float32_whatever_the_network():
    def coarse(z, logsnr, cond):
        return denoiser(z, logsnr, cond).astype(jnp.bfloat16)

    assert run(guidance.oscillating(coarse, 25.0)).dtype == jnp.float32


CONFIG = dict(
    guidance="none",
    guidance_weight=3.0,
    context_guidance_weight=2.0,
    guidance_interval=(0.0, 1.0),
    reference_probability=1.0,
    threshold="none",
    threshold_percentile=80.0,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", guidance.unguided(denoiser)),
        ("constant", guidance.classifier_free(denoiser, 3.0)),
        ("oscillating", guidance.oscillating(denoiser, 3.0)),
        ("interval", guidance.interval(denoiser, 3.0, 0.0, 1.0)),
        ("text_and_context", guidance.text_and_context(denoiser, 3.0, 2.0)),
        ("interleaved", guidance.interleaved(denoiser, 3.0, 2.0, 1.0, jax.random.key(0))),
    ],
)
def test_from_config_names_every_rule(name, expected):
    built = guidance.from_config(denoiser, SimpleNamespace(**CONFIG | dict(guidance=name)))
    assert_close(run(built, 0), run(expected, 0))
    assert_close(run(built, 1), run(expected, 1))


def test_from_config_thresholds():
    for name, wrapper in (("static", guidance.static_threshold), ("dynamic", guidance.dynamic_threshold)):
        config = SimpleNamespace(**CONFIG | dict(guidance="constant", guidance_weight=9.0, threshold=name))
        arguments = (config.threshold_percentile,) if name == "dynamic" else ()
        expected = wrapper(guidance.classifier_free(denoiser, 9.0), *arguments)
        assert_close(run(guidance.from_config(denoiser, config)), run(expected))
        assert_differ(run(expected), run(guidance.classifier_free(denoiser, 9.0)))


@pytest.mark.parametrize("key", ["guidance", "threshold"])
def test_an_unknown_name_is_one_clear_line(key):
    with pytest.raises(ValueError, match=rf"^sample\.{key} 'strong' is unknown: use one of none, [a-z_, ]+$"):
        guidance.from_config(denoiser, SimpleNamespace(**CONFIG | {key: "strong"}))
