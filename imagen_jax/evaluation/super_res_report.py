"""What a super-resolution model adds: held-out pictures made small and enlarged again (Imagen, section 2.3).

The baseline is bicubic interpolation of the same small picture. PSNR and SSIM ask for the very pixels that were there,
which no model can know all of; the sharpness tells what interpolation leaves out.
"""

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax import cascade, grid, hosts, partition, samplers
from imagen_jax import model as model_lib
from imagen_jax.evaluation.measure_pictures import psnr, ssim
from imagen_jax.runs import Run

PICTURES, BATCH_SIZE = 64, 32  # held-out ones
MADE = ("model", "bicubic")


def super_res_report(run: Run, loader) -> dict:
    """Means over held-out pictures, enlarged as config.sample.super_res says.

    Returns:
      {"pictures": count, "enlarged": {measure: {"model", "bicubic"}}}; of `sharpness`, the mean step between
      neighbouring pixels over the real picture's own, 1 is best.
    """
    mesh = partition.mesh_of(run.params)
    ways = partition.batch_ways(mesh) if mesh else 1
    size = -(-BATCH_SIZE // ways) * ways  # what does not divide lies whole on every device: at 1024 px, too much
    parts = [_enlarged(run, loader.batch(start, size)) for start in range(0, PICTURES, size)]
    real, *made = (np.concatenate(pictures) for pictures in zip(*parts, strict=True))
    measures = {"psnr": psnr, "ssim": ssim, "sharpness": _sharpness}
    means = {
        name: {by: float(np.mean(measure(pictures, real))) for by, pictures in zip(MADE, made, strict=True)}
        for name, measure in measures.items()
    }
    return {"pictures": len(real), "enlarged": means}


def _enlarged(run: Run, batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The real pictures [B, S, S, 3], and their small versions enlarged by the model and by interpolation."""
    lowres = model_lib.shrink(model_lib.to_float(jnp.asarray(batch.image)), run.model.lowres_size)
    keys = samplers.sample_keys(jax.random.key(0), jnp.asarray(batch.index, jnp.int32))
    model = hosts.whole(cascade.enlarge(run, run.config.sample, batch.text, lowres, keys))
    bicubic = jax.image.resize(lowres, batch.image.shape, "cubic")
    return np.asarray(batch.image), grid.to_uint8(model), grid.to_uint8(bicubic)


def _sharpness(pictures: np.ndarray, real: np.ndarray) -> float:
    """The mean step between neighbouring pixels, over the real pictures' own."""
    return _steps(pictures) / _steps(real)


def _steps(pictures: np.ndarray) -> float:
    x = pictures.astype(np.float64)
    return float(np.abs(np.diff(x, axis=1)).mean() + np.abs(np.diff(x, axis=2)).mean())


def told(report: dict) -> str:
    """The report in a table for people."""
    head = f"{'held-out pictures, enlarged':<28}{'model':>12}{'bicubic':>12}"
    rows = report["enlarged"].items()
    return "\n".join([head, *(f"{name:<28}{row['model']:>12.3f}{row['bicubic']:>12.3f}" for name, row in rows)])
