"""A run and its workdir: what inference opens, and where a new run gets its first weights from.

A checkpoint holds the resolved config, so a workdir is all that sampling needs. A workdir holds checkpoints/,
samples/, metrics.jsonl, config.json, TensorBoard events and, once trained, report.json.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imagen_jax import checkpoint, growth, partition, pretrained, release, schedules, t5x
from imagen_jax import model as model_lib
from imagen_jax.model import Model

OPEN = "train it first, or name its folder; the package's own model is --config.sample.run=released"
PARTS = ("unet", "text_encoder")  # of the parameters
MOVABLE = (("text_encoder", "weights"), ("data", "tokenizer"))  # keys that name files outside the workdir


class Run(NamedTuple):
    """What inference needs of a run."""

    config: ConfigDict
    model: Model
    params: dict  # the whole tree, EMA weights
    step: int = 0  # trained for


class RunError(ValueError):
    """A workdir that does not hold what was asked of it."""


def open_run(workdir: str | Path, mesh: Mesh, given: ConfigDict | None = None) -> Run:
    """The newest checkpoint of a workdir, or a release ('released': the one in this package).

    given: a config whose text_encoder.weights and data.tokenizer, where set, replace the run's own: files move.

    Raises:
      RunError, CheckpointError, ReleaseError: there is none to read.
    """
    table = given.sharding if given else None
    run = open_trained(workdir, mesh, table)
    for part, key in MOVABLE if given else ():
        run.config[part][key] = given[part][key] or run.config[part][key]
    return run._replace(params=run.params | load_frozen(run.config, mesh, table))


def open_trained(workdir: str | Path, mesh: Mesh, table: partition.Table | None = None) -> Run:
    """As `open_run`, with the parameters that were trained alone: a frozen text encoder is left out."""
    if not has_run(workdir):
        raise RunError(f"{workdir}: no trained model there; {OPEN}")
    params, extra = _restore_ema(workdir, mesh, table)
    config = ConfigDict(extra["config"], convert_dict=True)
    return Run(config, model_lib.make_model(config), params, extra["next_example"] // config.train.batch_size)


def has_run(workdir: str | Path) -> bool:
    """Whether a workdir holds a complete checkpoint, or is a release."""
    return release.is_release(release.locate(workdir)) or checkpoint.has_checkpoint(checkpoint_dir(workdir))


def checkpoint_dir(workdir: str | Path) -> Path:
    """The checkpoints' folder of a workdir."""
    return Path(workdir) / checkpoint.FOLDER


def make_schedule(config: ConfigDict) -> schedules.Schedule:
    """The noise schedule of a config; with diffusion.shift_from, shifted to the picture's side (2301.11093)."""
    d = config.diffusion
    shift = schedules.resolution_shift(config.model.image_size, d.shift_from) if d.shift_from else 0.0
    return schedules.Schedule(d.schedule, d.logsnr_min, d.logsnr_max, shift)


def init_params(config: ConfigDict, model: Model, mesh: Mesh) -> dict:
    """Fresh trainable parameters, made in shards on the mesh; a frozen text encoder is left out."""
    key = jax.random.key(config.seed)

    def fresh(key):
        params = model_lib.init(model, key)
        return {name: params[name] for name in params if not (name == "text_encoder" and config.text_encoder.frozen)}

    placed = partition.shardings(jax.eval_shape(fresh, key), mesh, config.sharding)
    return jax.jit(fresh, out_shardings=placed)(key)


def init_source(config: ConfigDict, workdir: Path) -> Path | None:
    """The workdir that init_from means, None for a start from scratch.

    Raises:
      RunError: it is named and holds no checkpoint.
    """
    if config.init_from == "auto":
        source = workdir.parent / config.follows
        return source if has_run(source) else None
    if config.init_from and not has_run(config.init_from):
        raise RunError(
            f"config.init_from: no checkpoint in {config.init_from}; train that run first, or set --config.init_from=''"
        )
    return Path(config.init_from) if config.init_from else None


def take_over(config: ConfigDict, params: dict, source: Path | None, mesh: Mesh) -> tuple[dict, str]:
    """Put the weights of the run in `source` (the parts that init_parts names) into `params`.

    With more blocks a level than that run has, or a wider level, the model starts as that one (growth). Returns the
    parameters and what to tell: which leaves were loaded, which are new, which unused. Raises RunError where one of the
    two holds its blocks as loops do and the other does not, and GrowthError where this model has fewer.
    """
    if source is None:
        looked = f" ({config.follows} holds no checkpoint)" if config.init_from == "auto" else ""
        return params, f"init_from: {config.init_from or 'nothing'}{looked}, a start from scratch"
    if not config.init_parts:
        raise RunError(
            f"config.init_parts: nothing would be taken over from {source}; name {' or '.join(PARTS)}, or set "
            "--config.init_from=''"
        )
    before, about = _restore_ema(source, mesh, config.sharding)
    for part in config.init_parts:
        if part not in before and (part in params or part not in PARTS):
            raise RunError(
                f"config.init_parts: {source} holds no trained '{part}', only {' and '.join(sorted(before))}"
            )
    if "unet" in config.init_parts and about["config"]["model"].get("scan", False) != config.model.scan:
        raise RunError(
            f"config.model.scan={config.model.scan}: {source} was trained with {not config.model.scan}, and its blocks "
            f"are stored in that form; set --config.model.scan={not config.model.scan}"
        )
    sizes = config.model, about["config"]["model"]
    if "unet" in config.init_parts and (keys := growth.grown(*sizes)):
        if config.model.scan:
            raise RunError(
                f"config.model.{keys[0]}={tuple(sizes[0][keys[0]])}: {source} has {tuple(sizes[1][keys[0]])}, and a "
                "run whose blocks are loops (model.scan=True) cannot grow; set it to that"
            )
        unets = growth.grow(params["unet"], before["unet"], *sizes)
        params, before = ({**tree, "unet": unet} for tree, unet in zip((params, before), unets, strict=True))
    params, report = pretrained.warm_start(params, {part: before[part] for part in config.init_parts if part in before})
    return params, f"init_from: {source}, its {' and '.join(config.init_parts)}\n{report.summary()}"


def load_frozen(config: ConfigDict, mesh: Mesh, table: partition.Table | None = None) -> dict:
    """The frozen part of the parameters: {}, or {"text_encoder": ...} from text_encoder.weights.

    table: how it is sharded; None is config.sharding.

    Raises:
      RunError: the text encoder is frozen but no weights are named, or a run that holds no such encoder.
    """
    if not config.text_encoder.frozen:
        return {}
    check_frozen(config)
    table = table or config.sharding
    weights = config.text_encoder.weights
    model = model_lib.make_model(config)
    abstract = jax.eval_shape(functools.partial(model_lib.init, model), jax.random.key(0))["text_encoder"]
    if has_run(weights):
        return {"text_encoder": _encoder_of_run(weights, abstract, mesh, table)}
    placed = partition.shardings(abstract, mesh, table)
    load = t5x.load if t5x.is_checkpoint(weights) else pretrained.load_t5
    return {"text_encoder": load(weights, abstract, placed)}


def check_frozen(config: ConfigDict) -> None:
    """Raises RunError where the text encoder is frozen and no weights are named."""
    if config.text_encoder.frozen and not config.text_encoder.weights:
        raise RunError(
            "config.text_encoder.frozen=True needs config.text_encoder.weights: a Hugging Face T5 folder, a T5X "
            "checkpoint or the workdir of a run; or set --config.text_encoder.frozen=False to train one from scratch"
        )


def _encoder_of_run(workdir: str, abstract: dict, mesh: Mesh, table: partition.Table) -> dict:
    """The text encoder that was trained in a run. Raises RunError unless it is as large as the abstract one."""
    params, about = _restore_ema(workdir, mesh, table)
    told = f"config.text_encoder.weights={workdir}"
    if "text_encoder" not in params:
        own = about["config"]["text_encoder"]["weights"]
        raise RunError(f"{told}: that run's text encoder was frozen and is not in it; name its own weights, {own}")
    trees = params["text_encoder"], abstract
    there, here = ({name: x.shape for name, x in flatten_dict(tree, sep="/").items()} for tree in trees)
    for name in sorted(there | here):
        if (found := there.get(name, "absent")) != (wanted := here.get(name, "absent")):
            raise RunError(f"{told}: {name} is {found} there and {wanted} here; set text_encoder to that run's sizes")
    return params["text_encoder"]


def _restore_ema(workdir: str | Path, mesh: Mesh, table: partition.Table | None) -> tuple[dict, dict]:
    place = functools.partial(partition.shardings, mesh=mesh, table=table or partition.DEFAULT_TABLE)
    if release.is_release(release.locate(workdir)):
        return release.read_release(release.locate(workdir), place)
    return checkpoint.restore_params(checkpoint_dir(workdir), "ema", place)
