"""The training loop: a config and two loaders in; checkpoints, metrics, samples and a report out.

Every run of the paper, base or super-resolution, first or last stage, is this one loop under another config. Run again
with the same workdir, it continues at the newest checkpoint as if it had never stopped; told to stop, it saves first.
"""

import contextlib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imagen_jax import grid, hosts, metrics, partition, runs
from imagen_jax import model as model_lib
from imagen_jax.checkpoint import Checkpointer
from imagen_jax.evaluation import super_res_report, training_report
from imagen_jax.model import Model
from imagen_jax.optim import learning_rate, make_optimizer
from imagen_jax.preemption import Stopped, StopSignals
from imagen_jax.train_check import TrainError, check, check_batch
from imagen_jax.train_step import Objective, TrainState, gradient, init_state, train_step
from imagen_jax.workdir import write_json

LOGSNR_EDGES = (-5.0, 0.0, 5.0)  # the buckets that the loss is logged by


class Trainer(NamedTuple):
    """What the phases of a run share."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    model: Model
    tx: optax.GradientTransformation
    frozen: dict  # parameters outside TrainState
    loader: Any  # data_pipelines.loader.Loader of the training subjects
    held_out: Any  # the same, of subjects that are never trained on
    checkpointer: Checkpointer
    command: str = ""


def train(config: ConfigDict, workdir: Path, loader, held_out, command: str = "") -> dict:
    """Train up to config.train.steps; returns the report, which is also written to workdir/report.json.

    `command` is what the user typed, told in the report.

    Raises:
      TrainError, RunError, CheckpointError, PartitionError: one line, with the mend.
      Stopped: told to stop by SIGTERM or SIGINT; the checkpoint is on disk, and the same call goes on from it.
    """
    check(config, workdir)
    mesh, model = partition.make_mesh(config.mesh), model_lib.make_model(config)
    logging.info("training on %d x %s", mesh.size, mesh.devices.flat[0].device_kind)
    check_batch(config.train, partition.batch_ways(mesh))
    frozen = {} if config.text_encoder.precomputed else runs.load_frozen(config, mesh)
    tx = make_optimizer(config.optim, config.train.steps)
    kept = dict(keep=config.train.keep_checkpoints, keep_every=config.train.keep_every)
    checkpointer = Checkpointer(runs.checkpoint_dir(workdir), **kept)
    trainer = Trainer(config, workdir, mesh, model, tx, frozen, loader, held_out, checkpointer, command)
    try:
        state, window = start(trainer)
        if (report := _finished(trainer, int(state.step))) is not None:
            return report
        write_json(workdir / "config.json", config_json(config))
        with StopSignals() as signals:
            state = loop(trainer, state, window, signals)
    finally:
        checkpointer.close()
    return finish(trainer, state)


def start(trainer: Trainer) -> tuple[TrainState, metrics.Accumulator]:
    """What to go on from, the state and the metrics of the steps since the last line.

    It is the newest checkpoint, else fresh parameters with those of init_from in their places.
    """
    config, mesh = trainer.config, trainer.mesh
    fresh = functools.partial(runs.init_params, config, trainer.model, mesh)
    init = functools.partial(init_state, tx=trainer.tx)
    abstract = jax.eval_shape(lambda: init(fresh()))  # a resumed run allocates no parameters that it will not use
    placed = partition.shardings(abstract, mesh, config.sharding)
    if trainer.checkpointer.latest_step() is None:
        source = runs.init_source(config, trainer.workdir)
        params, told = runs.take_over(config, fresh(), source, mesh)
        logging.info("%s", told)
        return jax.jit(init, out_shardings=placed)(params), metrics.Accumulator()
    state, extra = trainer.checkpointer.restore(
        jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placed)
    )
    _check_position(trainer, int(state.step), extra["next_example"])
    logging.info("%s: resuming after step %d, at example %d", trainer.workdir, state.step, extra["next_example"])
    return state, metrics.Accumulator(extra.get("window"))  # absent where checkpoints were at log lines only


def _finished(trainer: Trainer, step: int) -> dict | None:
    """The report of a run that has no step left: it then stays as it is, whatever this config says. None otherwise.

    Of several processes the first one alone reads it; the others get {}.
    """
    file, steps = trainer.workdir / "report.json", trainer.config.train.steps
    report = json.loads(file.read_text(encoding="utf-8")) if hosts.is_first() and file.is_file() else {}
    if not hosts.agreed(step >= steps and report.get("step") == step):
        return None
    mend = "raise it, choose another --workdir, or delete its report.json to have that anew"
    told = "%s: trained for %d steps already (config.train.steps=%d), so nothing is trained; %s"
    logging.info(told, trainer.workdir, step, steps, mend)
    return report


def _check_position(trainer: Trainer, step: int, next_example: int) -> None:
    """Raises TrainError where another batch size than before would move the data."""
    if next_example != step * trainer.config.train.batch_size:
        raise TrainError(
            f"config.train.batch_size={trainer.config.train.batch_size}: {trainer.workdir} was trained with "
            f"{next_example // step}, and other examples would follow; set it to that, or start another --workdir with "
            f"--config.init_from={trainer.workdir}"
        )


def loop(trainer: Trainer, state: TrainState, window: metrics.Accumulator, signals: StopSignals) -> TrainState:
    """Steps, with metrics, checkpoints and sample grids on the way. Raises Stopped."""
    step_function = compile_step(trainer.config, trainer.model, trainer.tx, trainer.loader.tasks, trainer.mesh)
    config = trainer.config.train
    first = int(state.step)
    writer = metrics.MetricWriter(trainer.workdir, first)
    progress = metrics.Progress(config.steps, config.batch_size)
    batches = trainer.loader.batches(first * config.batch_size, config.batch_size)
    before, stop = None, False
    for step in range(first + 1, config.steps + 1):
        state, values = step_function(state, trainer.frozen, partition.shard_batch(next(batches), trainer.mesh))
        window.add(values)
        jax.block_until_ready(before)  # two steps under way, so that a stop need not wait for more
        before = values
        if step == first + 1:
            jax.block_until_ready(state)
            progress.restart(step)  # compilation is over
        if step % config.log_every == 0 or step == config.steps:
            rate = learning_rate(trainer.config.optim, step - 1, config.steps)
            means = window.flush() | {"learning_rate": float(rate)}
            writer.write(step, means | progress.report(step, means["loss"]))
        if config.sample_every and step % config.sample_every == 0 and step < config.steps:
            look(trainer, state, writer)
            progress.restart(step)
        stop = signals.reached(step)
        if step % config.checkpoint_every == 0 or step == config.steps or stop:
            save(trainer, state, step, window)  # after the metrics of its step, so that a kill loses none
        if stop:
            break
    writer.close()
    if stop:
        trainer.checkpointer.wait()
        raise Stopped(f"{trainer.workdir}: saved and stopped after step {step} of {config.steps}")
    return state


def look(trainer: Trainer, state: TrainState, writer: metrics.MetricWriter) -> None:
    """What held-out examples say while training, and the grid of sampled instructions."""
    step, report = int(state.step), held_out_report(trainer, as_run(trainer, state))
    if points := training_report.curve_points(report):
        writer.write(step, points)
    print(f"picture: {writer.image(step, 'grid', np.asarray(sample_grid(trainer, state)))}", flush=True)


def held_out_report(trainer: Trainer, run: runs.Run) -> dict:
    """The losses, of super-resolution the likeness, of held-out examples; printed too."""
    if trainer.model.lowres_size:
        report = super_res_report.super_res_report(run, trainer.held_out)
        print(super_res_report.told(report))
    else:
        report = training_report.reference_report(run, trainer.held_out)
        print(training_report.told(report))
    return report


def compile_step(config: ConfigDict, model: Model, tx: optax.GradientTransformation, tasks: Sequence[str], mesh: Mesh):
    """(state, frozen, batch) -> (state, sums for metrics.Accumulator); jitted, the state donated."""
    objective, constrain = make_objective(config), _constrain(config, mesh)

    def step(state, frozen, batch):
        with _computing(config, mesh):
            state, values = train_step(
                model, objective, tx, config.optim.ema_decay, config.seed, state, frozen, batch, constrain
            )
        loss = values["loss"]
        sums = {"loss": loss.mean(), "grad_norm": values["grad_norm"]}
        sums |= metrics.bucketed(loss, values["logsnr"], LOGSNR_EDGES)
        return state, sums | metrics.by_task(loss, jnp.repeat(batch.task, objective.noises), tasks)

    return jax.jit(step, donate_argnums=0)


def compile_gradient(config: ConfigDict, model: Model, mesh: Mesh):
    """(params, frozen, batch, key) -> the gradient alone that a step would follow; jitted."""
    objective, constrain = make_objective(config), _constrain(config, mesh)

    def compute(params, frozen, batch, key):
        with _computing(config, mesh):
            return gradient(model, objective, params, frozen, batch, key, constrain)[0]

    return jax.jit(compute)


def make_objective(config: ConfigDict) -> Objective:
    """The loss of a whole config."""
    return Objective(
        runs.make_schedule(config),
        config.diffusion.drop_all,
        config.diffusion.drop_context,
        config.train.crop_size,
        config.train.accumulate,
        config.train.max_aug_level,
        config.train.noises,
    )


def _constrain(config: ConfigDict, mesh: Mesh):
    return functools.partial(partition.constrain, mesh=mesh, table=config.sharding)


@contextlib.contextmanager
def _computing(config: ConfigDict, mesh: Mesh):
    """Arrays on the mesh, and products as precise as the config says."""
    precision = config.train.matmul_precision or jax.config.jax_default_matmul_precision
    with partition.on(mesh), jax.default_matmul_precision(precision):
        yield


def save(trainer: Trainer, state: TrainState, step: int, window: metrics.Accumulator) -> None:
    """Start writing a checkpoint: the state, the data position, the resolved config and the unwritten metrics."""
    position = {"next_example": step * trainer.config.train.batch_size, "window": window.sums()}
    trainer.checkpointer.save(step, state, position | {"config": config_json(trainer.config)})


def config_json(config: ConfigDict) -> dict:
    """The resolved config as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def finish(trainer: Trainer, state: TrainState) -> dict:
    """Measure on held-out subjects, draw the last grid, write report.json and say what came out."""
    run = as_run(trainer, state)
    picture = trainer.workdir / "samples" / f"grid_{int(state.step)}.png"
    grid.save_png(sample_grid(trainer, state), picture)
    config = trainer.config
    data = config.data.records if config.data.loader == "records" else config.data.corpus
    report = {"run": config.name, "step": int(state.step), "command": trainer.command, "corpus": data}
    report |= {"seed": config.seed, "image_size": trainer.model.image_size, "samples": str(picture)}
    report |= {"max_references": config.data.max_references}
    report |= held_out_report(trainer, run)
    if points := training_report.curve_points(report):
        writer = metrics.MetricWriter(trainer.workdir, int(state.step))
        writer.write(int(state.step), points)
        writer.close()
    training_report.write_instructions(trainer.held_out, trainer.workdir / "instructions")
    print(f"report:  {write_json(trainer.workdir / 'report.json', report)}\npicture: {picture}")
    return report


def as_run(trainer: Trainer, state: TrainState) -> runs.Run:
    """The state as inference sees it: EMA weights."""
    return runs.Run(trainer.config, trainer.model, state.ema | trainer.frozen)


def sample_grid(trainer: Trainer, state: TrainState):
    """The picture of one held-out instruction a task."""
    rows = training_report.sample_rows(as_run(trainer, state), trainer.held_out)
    return grid.draw(rows, f"{trainer.config.name}, step {int(state.step)}, held-out subjects, not selected")
