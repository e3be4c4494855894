"""--mode=sample: an instruction file in, pictures out; without one, the held-out instructions of the corpus."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.instruction import layout_of, load_instruction
from data_pipelines.loader import make_loader
from imagen_jax import cascade, grid, partition, runs, samplers
from imagen_jax import model as model_lib
from imagen_jax.evaluation import training_report
from imagen_jax.pipeline import draw, open_pipeline, open_super_res
from imagen_jax.runs import Run
from imagen_jax.types import Text


def sample(config: ConfigDict, workdir: Path, instruction_file: Path, seed: int) -> list[Path]:
    """Draw config.sample.count pictures for one instruction with the run in `workdir`.

    The model is that of `config.sample.run` or else of `workdir`, as trained; how it is sampled is `config.sample`.
    Writes workdir/samples/NAME_seedS_I_base_Npx.png, and ..._super_res_Npx.png where it is enlarged; returns the paths.

    Raises:
      InstructionError, RunError, CheckpointError, CascadeError: one line, with the mend.
    """
    instruction = load_instruction(instruction_file)  # first: the cheapest thing that can be wrong
    pipeline = open_pipeline(config, workdir, instruction)
    paths = []
    for kind, pictures in draw(pipeline, instruction, seed, config.sample.count).items():
        for i, picture in enumerate(pictures):
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
    cascade.check_sampler(config.sample)
    if config.sample.count != 1:
        raise runs.RunError(
            f"config.sample.count={config.sample.count} is for --instruction=FILE.json: "
            "each held-out instruction is drawn once"
        )
    mesh = partition.make_mesh(config.mesh)
    run = runs.open_run(config.sample.run or workdir, mesh, config)
    super_res = None if run.model.lowres_size else open_super_res(config, workdir, mesh)
    data = ConfigDict(config.data.to_dict() | {"tokenizer": run.config.data.tokenizer})
    loader = make_loader(data, layout_of(run.config), "test", seed)
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
