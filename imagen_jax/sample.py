"""--mode=sample: an instruction file in, pictures out; without one, the held-out instructions of the corpus."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.instruction import Instruction, layout_of, load_instruction, pack
from data_pipelines.loader import make_loader
from data_pipelines.text import load_tokenizer
from imagen_jax import cascade, grid, partition, release, runs, samplers
from imagen_jax import model as model_lib
from imagen_jax.evaluation import training_report
from imagen_jax.runs import Run, RunError
from imagen_jax.types import Text


def sample(config: ConfigDict, workdir: Path, instruction_file: Path, seed: int) -> list[Path]:
    """Draw config.sample.count pictures for one instruction with the run in `workdir`.

    The model is that of `config.sample.run` or else of `workdir`, as trained; how it is sampled is `config.sample`.
    Writes workdir/samples/NAME_seedS_I.png, and with super-resolution the base picture beside it; returns the paths.

    Raises:
      InstructionError, RunError, CheckpointError, CascadeError: one line, with the mend.
    """
    instruction = load_instruction(instruction_file)  # first: the cheapest thing that can be wrong
    mesh = partition.make_mesh(config.mesh)
    base = runs.open_run(config.sample.run or workdir, mesh)
    text, context = _pack(base, instruction, config.sample.count)
    super_res = open_super_res(config, workdir, mesh)
    keys = samplers.sample_keys(jax.random.key(seed), jnp.arange(config.sample.count))
    pictures = cascade.generate(base, super_res, config.sample, text, context, keys)
    paths = []
    for kind, batch in pictures.items():
        for i, picture in enumerate(grid.to_uint8(np.asarray(batch))):
            name = f"{instruction_file.stem}_seed{seed}_{i}_{kind}_{picture.shape[0]}px.png"
            paths.append(grid.save_png(picture, workdir / "samples" / name))
    print("\n".join(f"picture: {path}" for path in paths))
    return paths


def sample_held_out(config: ConfigDict, workdir: Path, seed: int) -> Path:
    """Draw one held-out instruction a task of `config.data` as a grid, enlarged too if it can be; returns its path.

    The instructions are written beside it as files, to be changed and drawn again one by one.

    Raises:
      RunError, CheckpointError, LoaderError: one line, with the mend.
    """
    mesh = partition.make_mesh(config.mesh)
    run = runs.open_run(config.sample.run or workdir, mesh)
    super_res = None if run.model.lowres_size else open_super_res(config, workdir, mesh)
    loader = make_loader(config.data, layout_of(run.config), "test", seed)
    drawn_as = ConfigDict(run.config.to_dict() | {"sample": config.sample.to_dict()})
    rows = training_report.sample_rows(run._replace(config=drawn_as), loader)
    if super_res is not None:
        cascade.check_fit(run, super_res)
        rows = _enlarge(rows, super_res, config.sample, training_report.batch_of_tasks(loader).text)
    title = f"{run.config.name}, one held-out instruction a task, not selected"
    path = grid.save_png(grid.draw(rows, title), workdir / "samples" / f"held_out_seed{seed}.png")
    instructions = training_report.write_instructions(loader, workdir / "instructions")
    print(f"picture: {path}\ndraw one: --mode=sample --instruction={instructions[0]}")
    return path


def _enlarge(rows: list[grid.Row], super_res: Run, sample: ConfigDict, text: Text) -> list[grid.Row]:
    """The rows with one more column: their samples, enlarged under their texts."""
    lowres = model_lib.to_float(jnp.asarray(np.stack([row.sample for row in rows])))
    keys = samplers.sample_keys(jax.random.key(0), jnp.arange(len(rows)))
    pictures = grid.to_uint8(cascade.enlarge(super_res, sample, text, lowres, keys))
    column = f"{super_res.model.image_size} px"
    return [row._replace(others=[(column, picture)]) for row, picture in zip(rows, pictures, strict=True)]


def open_super_res(config: ConfigDict, workdir: Path, mesh: Mesh) -> Run | None:
    """The cascade's second run: sample.super_res.workdir, or None, which is said aloud.

    'auto' is the run of that name beside `workdir`; of a release, what its own folder super_res holds.
    """
    given = config.sample.super_res.workdir
    if not given:
        return None
    path = _super_res_beside(config, workdir) if given == "auto" else Path(given)
    if runs.has_run(path):
        return runs.open_run(path, mesh)
    if given != "auto":
        raise RunError(f"config.sample.super_res.workdir: no trained model in {path}; train experiments/super_res.py")
    logging.info("no super-resolution run in %s: base pictures only (train experiments/super_res.py for more)", path)
    return None


def _super_res_beside(config: ConfigDict, workdir: Path) -> Path:
    base = release.locate(config.sample.run or workdir)
    return base / "super_res" if release.is_release(base) else workdir.parent / config.sample.super_res.name


def _pack(run: Run, instruction: Instruction, count: int):
    """The instruction `count` times, as the run's model reads it: the very function that packs training examples."""
    packed = pack(instruction, load_tokenizer(run.config.data.tokenizer), layout_of(run.config))
    return jax.tree.map(lambda x: np.stack([x] * count), packed)
