"""Train, sample, evaluate, serve or plan one experiment, or measure the noise of its gradients.

    python -m imagen_jax.main --config=experiments/stage2.py
    python -m imagen_jax.main --config=experiments/stage2.py --mode=sample --instruction=FILE.json
    python -m imagen_jax.main --config=experiments/stage2.py --mode=sample --config.sample.run=released
    python -m imagen_jax.main --config=experiments/stage2.py --mode=serve
    python -m imagen_jax.main --config=experiments/stage2.py --mode=eval
    python -m imagen_jax.main --config=experiments/stage2.py:paper --mode=plan
    python -m imagen_jax.main --config=experiments/stage2.py --mode=noise

Any key of the config can be set: --config.train.steps=2000. The keys and their meaning stand in experiments/common.py.
The same train command, run again, continues where it stopped. Exit codes: 0 done, 1 a plan that does not fit, 2 bad
input, 75 told to stop (SIGTERM or Ctrl-C) and saved: run it again.
"""

import shlex
import sys
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from imagen_jax import preemption

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. experiments/stage2.py[:SIZE].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME of the experiment.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "sample", "serve", "eval", "plan", "noise"],
    "train: up to config.train.steps; sample: pictures for --instruction, or one held-out instruction a task; "
    "serve: a web page to draw on, at config.serve; eval: measure a trained run by config.eval; "
    "plan: memory, time and cost on config.plan.target, allocating nothing; "
    "noise: which train.batch_size and train.noises learn most a second here, by config.noise.",
)
_INSTRUCTION = flags.DEFINE_string("instruction", None, "JSON file with the instruction of --mode=sample (README.md).")
COMPILED = ".compiled"  # beside the workdir
_SEED = flags.DEFINE_integer(  # the upper bound is pipeline.MAX_SEED, which would load jax here
    "seed", 0, "Seed of --mode=sample; training has config.seed.", lower_bound=0, upper_bound=2**32 - 1
)


def main(argv: Sequence[str]) -> None:
    """Run the mode that the flags ask for; a fault of the input ends it with one line and exit code 2."""
    logging.set_verbosity(logging.level_debug() if flags.FLAGS.verbosity > 0 else logging.INFO)
    logging.get_absl_handler().setFormatter(None)  # plain lines
    getLogger("jax").setLevel("WARNING")  # it tells which accelerators a laptop lacks
    try:
        config = _check_flags(argv)
        workdir = Path(_WORKDIR.value or f"runs/{config.name}")
        if _MODE.value != "plan":
            _keep_compiled(workdir.parent / COMPILED)
        modes = {"train": _train, "sample": _sample, "serve": _serve, "eval": _eval, "plan": _plan, "noise": _noise}
        modes[_MODE.value](config, workdir)
    except (ValueError, OSError) as error:
        logging.debug("raised here (shown by --verbosity=1):", exc_info=True)
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _keep_compiled(folder: Path) -> None:
    """Compiled programs stay in `folder`, or where JAX_COMPILATION_CACHE_DIR says: the next start is so much sooner."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))


def _check_flags(argv: Sequence[str]) -> ConfigDict:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument '{argv[1]}': options begin with --, see --help")
    if _CONFIG.value is None:
        raise ValueError("--config is missing; a first run: --config=experiments/stage2.py")
    _ = _CONFIG.value.name  # ml_collections reports a file that it could not load only now
    if _INSTRUCTION.value is not None and _MODE.value != "sample":
        raise ValueError("--instruction=FILE.json is for --mode=sample")
    if flags.FLAGS["seed"].present and _MODE.value != "sample":
        raise ValueError("--seed is for --mode=sample; training has --config.seed, evaluation --config.eval.seed")
    if _CONFIG.value.hosts.coordinator and _MODE.value != "train":
        raise ValueError(f"config.hosts is for --mode=train: --mode={_MODE.value} runs in one process")
    if "://" in (_WORKDIR.value or ""):
        raise ValueError(f"--workdir={_WORKDIR.value}: name a folder; where it is remote, mount it (docs/pods.md)")
    return _CONFIG.value


def _train(config: ConfigDict, workdir: Path) -> None:
    from data_pipelines.instruction import layout_of
    from data_pipelines.loader import make_loader
    from imagen_jax import hosts, partition
    from imagen_jax.train import train
    from imagen_jax.train_check import check, check_batch

    hosts.join(config.hosts)  # first: a look at checkpoints starts JAX
    mesh = partition.make_mesh(config.mesh)
    check(config, workdir)  # before the data, which may take a minute to read
    check_batch(config.train, partition.batch_ways(mesh))
    part = partition.batch_part(mesh)
    loader = make_loader(config.data, layout_of(config), "train", config.seed, *part)
    held_out = make_loader(config.data, layout_of(config), "test", config.seed)
    try:
        train(config, workdir, loader, held_out, _command())
    except preemption.Stopped as stopped:
        print(f"{stopped}; to go on:\n{shlex.join(sys.orig_argv)}", flush=True)
        sys.exit(preemption.EXIT_CODE)


def _sample(config: ConfigDict, workdir: Path) -> None:
    from imagen_jax.sample import sample, sample_held_out

    if _INSTRUCTION.value is None:
        sample_held_out(config, workdir, _SEED.value)
    else:
        sample(config, workdir, Path(_INSTRUCTION.value), _SEED.value)


def _serve(config: ConfigDict, workdir: Path) -> None:
    try:
        from imagen_jax.app import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"--mode=serve needs {error.name}: pip install -e '.[app]'") from None
    serve(config, workdir)


def _eval(config: ConfigDict, workdir: Path) -> None:
    from imagen_jax.evaluation.evaluate import evaluate

    evaluate(config, workdir, _command())


def _plan(config: ConfigDict, workdir: Path) -> None:
    from imagen_jax.planning.plan import plan

    if not plan(config, workdir, _command()).get("fits", True):
        sys.exit(1)


def _noise(config: ConfigDict, workdir: Path) -> None:
    from data_pipelines.instruction import layout_of
    from data_pipelines.loader import make_loader
    from imagen_jax import gradient_noise
    from imagen_jax.train_check import check

    check(config, workdir)
    gradient_noise.check(config)  # both before the data, which may take a minute to read
    loader = make_loader(config.data, layout_of(config), "train", config.seed)
    gradient_noise.measure_noise(config, workdir, loader, _command())


def _command() -> str:
    """What the user typed."""
    return shlex.join(["python", "-m", "imagen_jax.main", *sys.argv[1:]])


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Flags, with an unknown key or value told in one line and a suggestion."""
    try:
        return app.parse_flags_with_usage(argv) if {"--help", "--helpfull"} & set(argv) else flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # ml_collections: a key that the config lacks
        told = str(error.args[0]).replace("\\n", " ").replace("\\'", "'").strip("'\"").replace("\n", ". ")
        return _fail(f"--config has no key {told}; the keys stand in experiments/common.py")
    except (flags.Error, ValueError, TypeError, OSError) as error:
        return _fail(str(error))


def _fail(message: str):
    lines = [line for line in message.splitlines() if line.strip()]
    print(f"error: {lines[-1].strip()}", file=sys.stderr)  # libraries put the cause last
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
