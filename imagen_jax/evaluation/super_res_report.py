"""What a super-resolution model adds: held-out pictures made small and enlarged again (Imagen, section 2.3).

The baseline is bicubic interpolation of the same small picture. PSNR and SSIM ask for the very pixels that were there,
which no model can know all of; the sharpness tells what interpolation leaves out.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.instruction import layout_of
from data_pipelines.loader import make_loader
from imagen_jax import cascade, grid, hosts, partition, samplers
from imagen_jax import model as model_lib
from imagen_jax.evaluation.measure_pictures import psnr, ssim
from imagen_jax.runs import Run
from imagen_jax.workdir import write_json

PICTURES, BATCH_SIZE, SHOWN = 64, 32, 8  # held-out ones
TASK = "text_to_image"  # super-resolution reads no references
MADE = ("model", "bicubic")


def evaluate(run: Run, config: ConfigDict, folder: Path, command: str) -> dict:
    """--mode=eval of a super-resolution run: report.json, and enlarged.png to look at, in `folder`; returns the report.

    Args:
      config: its sections `eval` (count, batch_size, seed) and `sample.super_res`; the run's own says which corpus.

    Raises ValueError, one line, for a sampler, count, corpus or tokenizer that will not do.
    """
    settings, sample = config.eval, config.sample.super_res
    cascade.check_sampler(sample, "config.sample.super_res")
    if not settings.count:
        raise ValueError("config.eval.count=0: super-resolution has no losses to report; set how many to enlarge")
    if settings.suites:
        raise ValueError(f"config.eval.suites={settings.suites}: they are of base models; leave it out")
    run.config.sample, data = config.sample, run.config.data
    data.loader, data.mixture = "memory", ConfigDict({TASK: 1.0})
    loader = make_loader(data, layout_of(run.config), "test", settings.seed)
    report = {"run": run.config.name, "step": run.step, "command": command, "corpus": data.corpus}
    report |= {"image_size": run.model.image_size, "seed": settings.seed}
    report |= {"sample": {k: sample[k] for k in ("method", "steps", "guidance", "threshold", "aug_level")}}
    pictures = enlarge(run, loader, settings.count, settings.batch_size)
    report |= means(*pictures)
    title = f"{run.config.name}, step {run.step}, held-out subjects, not selected"
    picture = grid.save_png(grid.draw(_rows(run, loader, *pictures), title), folder / "enlarged.png")
    print(f"{told(report)}\npicture: {picture}\nreport:  {write_json(folder / 'report.json', report)}")
    return report


def super_res_report(run: Run, loader) -> dict:
    """`means` of PICTURES held-out pictures, enlarged as run.config.sample.super_res says."""
    return means(*enlarge(run, loader, PICTURES, BATCH_SIZE))


def enlarge(run: Run, loader, count: int, batch_size: int) -> list[np.ndarray]:
    """The first `count` held-out pictures, and what each of MADE makes of them small: [N, S, S, 3] uint8 all."""
    mesh = partition.mesh_of(run.params)
    ways = partition.batch_ways(mesh) if mesh else 1
    size = -(-batch_size // ways) * ways  # what does not divide lies whole on every device: at 1024 px, too much
    parts = [_enlarged(run, loader.batch(start, size)) for start in range(0, count, size)]
    return [np.concatenate(pictures)[:count] for pictures in zip(*parts, strict=True)]


def means(real: np.ndarray, *made: np.ndarray) -> dict:
    """How near the pictures of each of MADE are to the real ones.

    Returns:
      {"pictures": count, "enlarged": {measure: {"model", "bicubic"}}}; of `sharpness`, the mean step between
      neighbouring pixels over the real picture's own, 1 is best.
    """
    measures = {"psnr": psnr, "ssim": ssim, "sharpness": _sharpness}
    found = {
        name: {by: float(np.mean(measure(pictures, real))) for by, pictures in zip(MADE, made, strict=True)}
        for name, measure in measures.items()
    }
    return {"pictures": len(real), "enlarged": found}


def _rows(run: Run, loader, real: np.ndarray, model: np.ndarray, bicubic: np.ndarray) -> list[grid.Row]:
    small = grid.to_uint8(_shrunk(run, real[:SHOWN]))
    return [
        grid.Row(
            TASK,
            loader.example(i, TASK).instruction.text,
            [("low resolution", small[i])],
            model[i],
            real[i],
            others=[("bicubic", bicubic[i])],
        )
        for i in range(len(small))
    ]


def _shrunk(run: Run, images: np.ndarray) -> jax.Array:
    """What the model is given: [B, s, s, 3] in [-1, 1]."""
    return model_lib.shrink(model_lib.to_float(jnp.asarray(images)), run.model.lowres_size)


def _enlarged(run: Run, batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The real pictures [B, S, S, 3], and their small versions enlarged by the model and by interpolation."""
    lowres = _shrunk(run, batch.image)
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
