"""Checkpoints: the whole training state with its data position and config, written while training goes on.

The paper trains in two stages, the second from the first one's weights, and samples with the moving average (section 4
and appendix): so a run restores everything onto whatever mesh it has, and a later stage or a sampler takes one subtree
(`ema` or `params`) without knowing its shapes beforehand. This is the only module that knows orbax.

    python -m imagen_jax.checkpoint describe DIR
"""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from data_pipelines.commands import guarded
from imagen_jax import checkpoint_describe, hosts

FOLDER = "checkpoints"  # of a workdir
MEND = "delete that folder to go on from the checkpoint before it, or choose another --workdir"


class CheckpointError(ValueError):
    """There is no checkpoint, it cannot be read, or it holds another state than the one asked for."""


def _quiet(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_quiet)  # orbax narrates each save; its errors still show


class Checkpointer:
    """The checkpoints of one run, `directory/STEP/`; a kill at any moment leaves the last complete one.

    Args:
      directory: local or gs://, made when it is missing; unfinished saves in it are removed.
      keep: how many of the newest checkpoints to keep.
      keep_every: beside these, for good, those of a step that it divides; 0 none.
    """

    def __init__(self, directory: str | epath.Path, *, keep: int, keep_every: int = 0):
        kept = [managers.LatestN(keep)] + [managers.EveryNSteps(keep_every)] * bool(keep_every)
        self._manager = _manager(
            directory, preservation_policy=managers.AnyPreservationPolicy(kept), cleanup_tmp_directories=True
        )

    def save(self, step: int, state: Any, extra: dict) -> bool:
        """Start to write `state` (any tree of jax arrays) and `extra` (JSON), and return before it is on disk.

        The arrays may be donated at once. False: this step is saved already.
        """
        if step in self._manager.all_steps():
            return False
        items = {"state": ocp.args.PyTreeSave(state), "extra": ocp.args.JsonSave(extra)}
        return self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict]:
        """The state and its `extra`, laid out as `abstract_state` says (ShapeDtypeStructs with shardings).

        Raises:
          CheckpointError: no checkpoint, an unreadable one, or one of a differently configured model.
        """
        step = _existing_step(self._manager, step)
        _check_same(_saved_tree(self._manager, step), abstract_state, self._manager.directory / str(step))
        return _read(self._manager, step, abstract_state)

    def wait(self) -> None:
        """Until the running save is on disk; raises what went wrong in it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then free the threads."""
        self._manager.close()


def has_checkpoint(directory: str | epath.Path) -> bool:
    """Whether `directory` holds a complete checkpoint; False when it does not exist."""
    if not hosts.agreed(epath.Path(directory).exists()):  # a manager waits for all processes
        return False
    with _manager(directory, read_only=True) as manager:
        return manager.latest_step() is not None


def restore_params(
    directory: str | epath.Path,
    name: str = "ema",
    shardings: Callable[[Any], Any] | None = None,
    step: int | None = None,
) -> tuple[Any, dict]:
    """One subtree of a checkpoint, with `extra`; nothing else is read.

    Args:
      directory: as given to `Checkpointer`.
      name: the field of the state, e.g. 'ema' or 'params'.
      shardings: abstract subtree -> its shardings; everything goes to the first device by default.
      step: the newest by default.

    Raises:
      CheckpointError: no checkpoint, no such field, or an unreadable one.
    """
    with _reader(directory) as manager:
        step = _existing_step(manager, step)
        saved = _saved_tree(manager, step)
        if name not in saved:
            raise CheckpointError(
                f"{manager.directory / str(step)}: holds no {name!r}, only {', '.join(sorted(saved))}"
            )
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved[name])
        placed = (shardings or _first_device)(abstract)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placed)
        state, extra = _read(manager, step, {name: abstract})
    return state[name], extra


def describe(directory: str | epath.Path, step: int | None = None) -> dict:
    """What a workdir, or its folder of checkpoints, holds; reads metadata and never an array.

    Returns:
      {"directory", "checkpoints": [{"step", "bytes" on disk, "saved" in seconds since 1970}], "step": the one that the
      rest is about, the newest by default, and what `checkpoint_describe.described` returns}.

    Raises:
      CheckpointError: no checkpoint, or an unreadable one.
    """
    path = epath.Path(directory)
    with _reader(path / FOLDER if (path / FOLDER).is_dir() else path) as manager:
        step = _existing_step(manager, step)
        tree = _saved_tree(manager, step)
        kept = [_on_disk(manager.directory / str(other)) for other in sorted(manager.all_steps())]
        with _reading(manager, step):
            extra = manager.restore(step, args=ocp.args.Composite(extra=ocp.args.JsonRestore()))["extra"]
        folder = str(manager.directory)
    described = checkpoint_describe.described(tree, extra)
    return {"directory": folder, "checkpoints": kept, "step": step} | described


def _on_disk(folder: epath.Path) -> dict:
    files = [path.stat() for path in _files(folder)]
    saved = max((file.mtime for file in files), default=0)
    return {"step": int(folder.name), "bytes": sum(file.length for file in files), "saved": saved}


def _files(path: epath.Path) -> Iterator[epath.Path]:
    if not path.is_dir():
        yield path
        return
    for child in path.iterdir():  # epath has no recursive glob
        yield from _files(child)


def _first_device(tree: Any) -> Any:
    return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), tree)


def _manager(directory: str | epath.Path, *, read_only: bool = False, **options) -> ocp.CheckpointManager:
    path = epath.Path(directory)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: is a file, not a folder of checkpoints")
    if read_only:
        options = {"read_only": True, "create": False, "save_interval_steps": 0}
    return ocp.CheckpointManager(
        path if str(path).startswith("gs://") else path.resolve(),
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={"state": ocp.PyTreeCheckpointHandler(), "extra": ocp.JsonCheckpointHandler()},
    )


@contextlib.contextmanager
def _reader(directory: str | epath.Path) -> Iterator[ocp.CheckpointManager]:
    if not epath.Path(directory).exists():
        raise CheckpointError(f"{directory}: no such folder; train first, or give the folder with the checkpoints")
    with _manager(directory, read_only=True) as manager:
        yield manager


def _existing_step(manager: ocp.CheckpointManager, step: int | None) -> int:
    steps = manager.all_steps()
    if not steps:
        raise CheckpointError(f"{manager.directory}: holds no complete checkpoint; train first")
    if step is not None and step not in steps:
        known = ", ".join(map(str, sorted(steps)))
        raise CheckpointError(f"{manager.directory}: no checkpoint of step {step}, only {known}")
    return max(steps) if step is None else step


def _saved_tree(manager: ocp.CheckpointManager, step: int) -> dict:
    """The metadata of every saved array, as nested dicts and lists."""
    with _reading(manager, step):
        saved = manager.item_metadata(step)["state"]
        if saved is None or not saved.tree:
            raise FileNotFoundError("the list of its arrays is missing")
    return saved.tree


def _read(manager: ocp.CheckpointManager, step: int, abstract: Any) -> tuple[Any, dict]:
    """The arrays that `abstract` names, with its shardings, and `extra`."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    state = ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, partial_restore=True)
    with _reading(manager, step):
        found = manager.restore(step, args=ocp.args.Composite(state=state, extra=ocp.args.JsonRestore()))
    return found["state"], found["extra"]


@contextlib.contextmanager
def _reading(manager: ocp.CheckpointManager, step: int) -> Iterator[None]:
    """Whatever goes wrong inside becomes one CheckpointError of one line."""
    hook, sys.unraisablehook = sys.unraisablehook, _skip_late_reads
    logging.getLogger("asyncio").addFilter(_is_no_read)
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        path = manager.directory / str(step)
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason}); {MEND}") from error
    sys.unraisablehook = hook  # not in a finally: after a fault its parallel reads still fail, later
    logging.getLogger("asyncio").removeFilter(_is_no_read)


def _is_no_read(record: logging.LogRecord) -> bool:
    return "never retrieved" not in record.getMessage()  # of reads that failed together with the first


def _skip_late_reads(args: Any) -> None:
    # After the first failed read, each parallel one would still print a traceback about its closed event loop.
    if str(args.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(args)


def _check_same(saved: Any, wanted: Any, path: epath.Path) -> None:
    """Compare all leaves by path, shape and dtype; the first difference is the error."""
    saved, wanted = _shapes(saved), _shapes(wanted)
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{path}: made by another config: {name} is {saved.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; use the config it was made with, or another --workdir"
            )


def _shapes(tree: Any) -> dict[str, str]:
    def named(path):
        return jax.tree_util.keystr(path, simple=True, separator="/")

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {named(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m imagen_jax.checkpoint", description="Look into checkpoints.")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "describe", help=describe.__doc__.split(";")[0]
    )
    command.add_argument("directory", metavar="DIR", help="a workdir, or its folder of checkpoints; local or gs://")
    command.add_argument("--step", type=int, help="the checkpoint to look into; the newest by default")
    command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    def run() -> None:
        found = describe(options.directory, options.step)
        print(json.dumps(found, indent=2) if options.json else checkpoint_describe.told(found))

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
