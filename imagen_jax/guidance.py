"""Guidance: turns a Denoiser into a StepDenoiser, which also reads the number of the sampling step.

Paper: section 3.3 (oscillating guidance), Imagen (2205.11487) section 2.2 and 2.3 (classifier-free
guidance, thresholding), Re-Imagen (2209.14491) section 3.3 (interleaved guidance). The papers write guidance on eps.
At fixed (z, logsnr) eps and v are affine in x0, and the weights of every rule here sum to 1, so guiding x0 is guiding
eps. A weight of 1 is the plain conditional model, 0 the unconditional one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.schedules import choose
from imagen_jax.types import Array, Cond, Denoiser

# (z [B, H, W, C], logsnr [B], cond, step [] int32 from 0 at pure noise) -> x0 [B, H, W, C]
StepDenoiser = Callable[[Array, Array, Cond, Array], Array]
OF_TWO_WEIGHTS = ("text_and_context", "interleaved")  # guidances that read context_guidance_weight, too


def unguided(denoiser: Denoiser) -> StepDenoiser:
    """The conditional model as it is: one evaluation a step."""
    return lambda z, logsnr, cond, step: _evaluate(denoiser, z, logsnr, cond)[0]


def classifier_free(denoiser: Denoiser, weight: float) -> StepDenoiser:
    """x0 = none + weight (full - none), with text and context dropped together (Imagen, equation 2)."""

    def denoise(z, logsnr, cond, step):
        full, none = _evaluate(denoiser, z, logsnr, cond, cond.drop(text=True, context=True))
        return none + weight * (full - none)

    return denoise


def text_and_context(denoiser: Denoiser, text_weight: float, context_weight: float) -> StepDenoiser:
    """A weight for the text and one for what the references add to it: three evaluations a step.

    x0 = none + text_weight (text - none) + context_weight (full - text), where `text` has its references dropped.
    """

    def denoise(z, logsnr, cond, step):
        dropped = cond.drop(context=True), cond.drop(text=True, context=True)
        full, text, none = _evaluate(denoiser, z, logsnr, cond, *dropped)
        return none + text_weight * (text - none) + context_weight * (full - text)

    return denoise


def oscillating(denoiser: Denoiser, weight: float) -> StepDenoiser:
    """The paper's: guided on even steps, the plain conditional model, at half the cost, on odd ones."""
    return _switch(lambda logsnr, step: step % 2 == 0, classifier_free(denoiser, weight), unguided(denoiser))


def interval(denoiser: Denoiser, weight: float, low: float, high: float) -> StepDenoiser:
    """Guided where low <= logsnr <= high, plain elsewhere (Kynkäänniemi et al., 2404.07724).

    The decision is one for the batch, since samplers keep a batch at one logsnr.
    """

    def inside(logsnr, step):
        return (low <= logsnr[0]) & (logsnr[0] <= high)

    return _switch(inside, classifier_free(denoiser, weight), unguided(denoiser))


def interleaved(
    denoiser: Denoiser, text_weight: float, context_weight: float, reference_probability: float, key: Array
) -> StepDenoiser:
    """Re-Imagen's: a reference step (against the references dropped) with the given probability, else a text step
    (against the text dropped). The kind of a step is a function of (key, step), the same for the whole batch."""

    def denoise(z, logsnr, cond, step):
        reference_step = jax.random.bernoulli(jax.random.fold_in(key, step), reference_probability)
        weight = jnp.where(reference_step, context_weight, text_weight)
        full, without = _evaluate(denoiser, z, logsnr, cond, cond.drop(text=~reference_step, context=reference_step))
        return without + weight * (full - without)

    return denoise


def dynamic_threshold(denoise: StepDenoiser, percentile: float = 99.5) -> StepDenoiser:
    """Clips each example's x0 to [-s, s] and divides by s, where s is the percentile of |x0|, at least 1
    (Imagen, section 2.3)."""

    def thresholded(z, logsnr, cond, step):
        x0 = denoise(z, logsnr, cond, step)
        s = jnp.percentile(jnp.abs(x0), percentile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        s = jnp.maximum(s, 1.0)
        return jnp.clip(x0, -s, s) / s

    return thresholded


def static_threshold(denoise: StepDenoiser) -> StepDenoiser:
    """Clips x0 to [-1, 1]."""
    return lambda *args: jnp.clip(denoise(*args), -1.0, 1.0)


def from_config(denoiser: Denoiser, sample: Any, name: str = "sample") -> StepDenoiser:
    """The StepDenoiser that the `sample` part of a config describes, or another part called `name`.

    Reads guidance, guidance_weight, context_guidance_weight, guidance_interval, reference_probability, threshold and
    threshold_percentile. Raises ValueError for an unknown guidance or threshold, or no interval of two.
    """
    weight, context_weight = sample.guidance_weight, sample.context_guidance_weight
    if len(sample.guidance_interval) != 2:
        raise ValueError(f"{name}.guidance_interval={sample.guidance_interval}: give two log-SNRs, such as (-5.0, 5.0)")
    guidances = {
        "none": lambda: unguided(denoiser),
        "constant": lambda: classifier_free(denoiser, weight),
        "oscillating": lambda: oscillating(denoiser, weight),
        "interval": lambda: interval(denoiser, weight, *sample.guidance_interval),
        "text_and_context": lambda: text_and_context(denoiser, weight, context_weight),
        "interleaved": lambda: interleaved(
            denoiser, weight, context_weight, sample.reference_probability, jax.random.key(0)
        ),
    }
    thresholds = {
        "none": lambda denoise: denoise,
        "static": static_threshold,
        "dynamic": lambda denoise: dynamic_threshold(denoise, sample.threshold_percentile),
    }
    denoise = choose(f"{name}.guidance", sample.guidance, guidances)()
    return choose(f"{name}.threshold", sample.threshold, thresholds)(denoise)


def _evaluate(denoiser: Denoiser, z: Array, logsnr: Array, *conds: Cond) -> list[Array]:
    """The x0 of each cond, in one call on a batch of n B. The n versions of an example stand side by side, so that a
    batch sharded over devices is not moved; in float32, as a weight of 25 would magnify the rounding of bfloat16."""
    n, batch = len(conds), z.shape[0]
    cond = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1).reshape(n * batch, *leaves[0].shape[1:]), *conds)
    x0 = denoiser(jnp.repeat(z, n, axis=0), jnp.repeat(logsnr, n, axis=0), cond)
    x0 = x0.astype(jnp.float32).reshape(batch, n, *z.shape[1:])
    return [x0[:, i] for i in range(n)]


def _switch(guide: Callable[[Array, Array], Array], on: StepDenoiser, off: StepDenoiser) -> StepDenoiser:
    """`on` where guide(logsnr, step) holds, else `off`; a real branch, so only the chosen one is paid for."""
    return lambda z, logsnr, cond, step: jax.lax.cond(guide(logsnr, step), on, off, z, logsnr, cond, step)
