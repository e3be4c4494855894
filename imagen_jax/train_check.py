"""What is wrong with a config is told before training: what would fail, or mislead, only hours later."""

import math
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.text import load_tokenizer
from imagen_jax import cascade, runs
from imagen_jax.model import make_model
from imagen_jax.optim import make_optimizer

PRECISIONS = ("", "bfloat16", "tensorfloat32", "float32")


class TrainError(ValueError):
    """A config that cannot be trained."""


def check(config: ConfigDict, workdir: Path) -> None:
    """Raises TrainError, RunError, OptimError or ValueError, one line with the mend; nothing is written yet."""
    if not runs.has_run(workdir):
        runs.init_source(config, workdir)
    make_optimizer(config.optim, config.train.steps)
    make_model(config)
    runs.make_schedule(config)
    _check_loop(config.train)
    _check_pictures(config)
    _check_texts(config)
    if config.model.lowres_size:
        cascade.check_sampler(config.sample.super_res, "config.sample.super_res")
    else:
        cascade.check_sampler(config.sample)


def check_batch(train: ConfigDict, ways: int) -> None:
    """Raises TrainError where micro-batches do not divide: the activations would then lie whole on every device."""
    if train.batch_size % (ways * train.accumulate):
        raise TrainError(
            f"config.train.batch_size={train.batch_size} does not divide over data*fsdp = {ways} devices in "
            f"config.train.accumulate={train.accumulate} parts; choose a multiple of {ways * train.accumulate}"
        )


def _check_loop(train: ConfigDict) -> None:
    for key in ("steps", "batch_size", "noises", "log_every", "checkpoint_every", "keep_checkpoints"):
        if train[key] < 1:
            raise TrainError(f"config.train.{key}={train[key]} must be at least 1")
    if train.keep_every % train.checkpoint_every:
        raise TrainError(
            f"config.train.keep_every={train.keep_every} must be a multiple of "
            f"config.train.checkpoint_every={train.checkpoint_every}, or 0"
        )
    if train.matmul_precision not in PRECISIONS:
        raise TrainError(
            f"config.train.matmul_precision={train.matmul_precision!r} is unknown; use one of "
            f"{', '.join(filter(None, PRECISIONS))}, or nothing for JAX's default"
        )
    if train.accumulate < 1 or train.batch_size % train.accumulate:
        raise TrainError(
            f"config.train.batch_size={train.batch_size} does not divide by config.train.accumulate={train.accumulate}"
        )


def _check_pictures(config: ConfigDict) -> None:
    model, slots = config.model, config.data.max_references
    if model.context_levels and slots < 1:
        raise TrainError(
            f"config.data.max_references={slots} must be at least 1, or config.model.context_levels be (): they read "
            "the references"
        )
    if not 0 < config.train.max_aug_level <= 1:
        raise TrainError(f"config.train.max_aug_level={config.train.max_aug_level} must be above 0 and at most 1")
    gap = model.lowres_gap
    if gap < 0 or (gap and not model.lowres_size):
        raise TrainError(f"config.model.lowres_gap={gap} must be 0, or above it where config.model.lowres_size is")
    if config.train.crop_size:
        _check_crops(config.train.crop_size, model)


def _check_crops(side: int, model: ConfigDict) -> None:
    if not model.lowres_size or model.image_size % model.lowres_size:
        raise TrainError(
            f"config.train.crop_size={side} is for super-resolution by a whole factor: config.model.image_size="
            f"{model.image_size} must be a multiple of config.model.lowres_size={model.lowres_size}; or set it to 0"
        )
    least = math.lcm(model.image_size // model.lowres_size, 2 ** len(model.channels))
    if not 0 < side <= model.image_size or side % least:
        raise TrainError(
            f"config.train.crop_size={side} must be a multiple of {least}, and at most "
            f"config.model.image_size={model.image_size}; or 0, whole pictures"
        )


def _check_texts(config: ConfigDict) -> None:
    encoder = config.text_encoder
    if encoder.precomputed and not (encoder.frozen and encoder.weights and config.data.loader == "records"):
        raise TrainError(
            "config.text_encoder.precomputed=True needs data.loader='records', text_encoder.frozen=True, and "
            "text_encoder.weights: training does not read them, sampling encodes new words with them"
        )
    runs.check_frozen(config)
    if encoder.weights and not encoder.frozen:
        raise TrainError(
            f"config.text_encoder.weights={encoder.weights} is for a frozen encoder: set "
            "config.text_encoder.frozen=True, or take over a run's encoder, to be trained on, by config.init_from"
        )
    if not encoder.precomputed and (tokens := load_tokenizer(config.data.tokenizer).size) > encoder.vocab_size:
        raise TrainError(
            f"config.text_encoder.vocab_size={encoder.vocab_size}: the tokenizer has {tokens} ids, and those beyond "
            "would be NaN; set it to that, or name the encoder's own with --config.data.tokenizer="
        )
