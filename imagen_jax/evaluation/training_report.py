"""What a trained model does with held-out instructions: the loss with true and with shuffled references, and samples.

The central claim of the paper is that the references are followed. A model that ignores them has the same loss when
every example is given the references of another one; the ratio of the two losses is the measure.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from data_pipelines.instruction import to_json
from imagen_jax import cascade, diffusion, grid, hosts, samplers
from imagen_jax import model as model_lib
from imagen_jax.model import Model
from imagen_jax.runs import Run, make_schedule
from imagen_jax.schedules import Schedule
from imagen_jax.types import Array, Batch
from imagen_jax.workdir import write_text

BATCHES, BATCH_SIZE = 4, 32  # held-out examples of the report, a task


def shuffle_references(batch: Batch) -> Batch:
    """Every example gets the references (pictures, texts, mask) of the one before it."""
    return batch.replace(context=jax.tree.map(lambda x: np.roll(x, 1, axis=0), batch.context))


def noisy_half_losses(model: Model, schedule: Schedule, params: dict, batch: Batch, key: Array) -> Array:
    """Loss [B] at log-SNRs spread evenly in time over the noisier half (logsnr < 0); no condition is dropped."""
    x0 = model_lib.to_float(batch.image)
    size = x0.shape[0]
    start = schedule.t(jnp.zeros(()))
    logsnr = schedule.logsnr(start + (1 - start) * (jnp.arange(size) + 0.5) / size)
    eps = jax.random.normal(key, x0.shape)
    cond = model_lib.encode(model, params, batch.text, batch.context)
    output = model_lib.predict(model, params, diffusion.add_noise(x0, eps, logsnr), logsnr, cond)
    return diffusion.loss(output, x0, eps, logsnr, model.prediction)


def reference_report(run: Run, loader) -> dict:
    """Held-out loss with the true references and with references shuffled inside each task, on the same noise.

    Returns:
      {"loss_true", "loss_shuffled": means over the tasks that have references, None without any;
      "tasks": {task: the same two, the true loss of each example, for paired comparisons ("examples"), its loss with
      shuffled references ("shuffled"), and what it shows, '' where that is not known ("subjects")};
      "text_only": {task without references, or whose references the model does not read: its loss}}.
    """
    tasks, text_only = {}, {}
    for task in loader.tasks:
        batches = [loader.batch(i * BATCH_SIZE, BATCH_SIZE, task) for i in range(BATCHES)]
        true, shuffled = losses(run, batches)
        if shuffled:
            tasks[task] = row(true, shuffled, [loader.subject(i, task) for i in range(len(true))])
        else:
            text_only[task] = float(np.mean(true))
    names = ("loss_true", "loss_shuffled")
    means = {k: float(np.mean([t[k] for t in tasks.values()])) if tasks else None for k in names}
    return means | {"tasks": tasks, "text_only": text_only}


def losses(run: Run, batches: Sequence[Batch]) -> tuple[list[float], list[float]]:
    """Of each example, with true and with shuffled references; none of these where there are none to read."""
    loss = _compile(run.model, make_schedule(run.config))
    has_references = run.model.unet.config.context_levels and batches[0].context.mask.any()
    true, shuffled = [], []
    for i, batch in enumerate(batches):
        key = jax.random.key(i)
        true += hosts.whole(loss(run.params, batch, key)).tolist()
        if has_references:
            shuffled += hosts.whole(loss(run.params, shuffle_references(batch), key)).tolist()
    return true, shuffled


def row(true: list[float], shuffled: list[float], subjects: list[str]) -> dict:
    """What a report keeps of a task."""
    means = {"loss_true": float(np.mean(true)), "loss_shuffled": float(np.mean(shuffled))}
    each = {name: [round(x, 6) for x in found] for name, found in (("examples", true), ("shuffled", shuffled))}
    return means | each | {"subjects": subjects}


def curve_points(report: dict) -> dict[str, float]:
    """The held-out losses that the metrics keep of a report, `held_out/NAME`; super-resolution's has none."""
    kept = {name: report[name] for name in ("loss_true", "loss_shuffled") if report.get("tasks")}
    return {f"held_out/{name}": value for name, value in (kept | report.get("text_only", {})).items()}


@functools.cache
def _compile(model: Model, schedule: Schedule):
    return jax.jit(functools.partial(noisy_half_losses, model, schedule))


def told(report: dict) -> str:
    """The report in a table for people."""
    rows = {**report["tasks"], "all tasks": report} if report["tasks"] else {}
    head = f"{'held-out loss, log-SNR < 0':<28}{'true refs':>12}{'shuffled':>12}{'ratio':>9}"
    compared = [
        f"{name:<28}{row['loss_true']:>12.4f}{row['loss_shuffled']:>12.4f}"
        f"{row['loss_shuffled'] / row['loss_true']:>9.3f}"
        for name, row in rows.items()
    ]
    return "\n".join([head, *compared, *(f"{name:<28}{loss:>12.4f}" for name, loss in report["text_only"].items())])


def batch_of_tasks(loader) -> Batch:
    """One held-out example a task."""
    # Another index for each task: with one index they would all show the same subject.
    parts = [loader.batch(index, 1, task) for index, task in enumerate(loader.tasks)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def sample_rows(run: Run, loader) -> list[grid.Row]:
    """One sampled instruction a task, with its references and its real target."""
    batch = batch_of_tasks(loader)
    keys = samplers.sample_keys(jax.random.key(0), jnp.asarray(batch.index, jnp.int32))
    pictures = grid.to_uint8(hosts.whole(_sample(run, batch, keys)))
    return [_row(run, loader.example(index, task), pictures[index]) for index, task in enumerate(loader.tasks)]


def _sample(run: Run, batch: Batch, keys: Array) -> Array:
    if not run.model.lowres_size:
        return cascade.sample_base(run, run.config.sample, batch.text, batch.context, keys)
    lowres = model_lib.shrink(model_lib.to_float(jnp.asarray(batch.image)), run.model.lowres_size)
    return cascade.enlarge(run, run.config.sample, batch.text, lowres, keys)


def _row(run: Run, example, picture: np.ndarray) -> grid.Row:
    inputs = [(reference.text, reference.image) for reference in example.instruction.references]
    if run.model.lowres_size:
        target = model_lib.to_float(jnp.asarray(example.target[None]))
        inputs = [("low resolution", grid.to_uint8(model_lib.shrink(target, run.model.lowres_size))[0])]
    return grid.Row(example.task, example.instruction.text, inputs, picture, example.target)


def write_instructions(loader, folder: Path) -> list[Path]:
    """One held-out instruction a task as files for --mode=sample: TASK.json with its pictures beside it.

    What is there stays, and that is told where it says something else: it may have been changed to be drawn again.
    """
    paths = [folder / f"{task}.json" for task in loader.tasks]
    for index, (task, path) in enumerate(zip(loader.tasks, paths, strict=True)):
        instruction = loader.example(index, task).instruction
        names = [f"{task}_{i + 1}.png" for i in range(len(instruction.references))]
        text = json.dumps(to_json(instruction, names), indent=2) + "\n"
        if path.exists():
            if path.read_text(encoding="utf-8", errors="replace") != text:
                logging.info("%s stays, and is not this run's held-out instruction: delete it to have that one", path)
            continue
        for name, reference in zip(names, instruction.references, strict=True):
            grid.save_png(reference.image, folder / name)
        write_text(path, text)
    return paths
