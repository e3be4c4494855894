"""Round trips to the bit, other meshes, single subtrees, a kill in the middle of a save, and each error's line."""

import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagen_jax import checkpoint, partition

DEVICES = jax.devices()[:8]
TX = optax.chain(optax.identity(), optax.scale_by_factored_rms(), optax.ema(0.9, debias=False))


@flax.struct.dataclass
class State:
    params: dict
    ema: dict
    opt_state: tuple
    step: jax.Array


def make_state(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 16, 128)), "bias": jax.random.normal(keys[1], (128,))},
        "embed": {"embedding": jax.random.normal(keys[2], (128, 256)).astype(jnp.bfloat16)},
    }
    ema = jax.tree.map(lambda p: p / 3, params)
    return State(params, ema, TX.init(params), jnp.int32(seed))


def abstract(state, shardings=None):
    shardings = jax.tree.map(lambda x: x.sharding, state) if shardings is None else shardings
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpointer = checkpoint.Checkpointer(directory, keep=2)
    for step in (1, 2):
        checkpointer.save(step, make_state(step), {"position": 10 * step, "config": {"model": {"widths": [8, 16]}}})
    checkpointer.close()
    return directory


def test_round_trip_is_exact(saved):
    checkpointer = checkpoint.Checkpointer(saved, keep=2)
    assert checkpointer.latest_step() == 2
    state, extra = checkpointer.restore(abstract(make_state()))
    assert_same_bits(state, make_state(2))
    assert extra == {"position": 20, "config": {"model": {"widths": [8, 16]}}}
    older, extra = checkpointer.restore(abstract(make_state()), step=1)
    assert_same_bits(older, make_state(1))
    assert extra["position"] == 10


def test_saves_each_step_once_and_keeps_the_newest(tmp_path):
    checkpointer = checkpoint.Checkpointer(tmp_path, keep=2)
    assert [checkpointer.save(step, make_state(step), {}) for step in (2, 4, 6, 7, 7)] == [True] * 4 + [False]
    checkpointer.close()
    assert steps_in(tmp_path) == [6, 7]


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_keeps_every_so_many_steps_beside_the_newest(tmp_path):
    for steps in (range(1, 6), range(6, 9)):  # the second run takes over what the first one kept
        checkpointer = checkpoint.Checkpointer(tmp_path, keep=2, keep_every=3)
        for step in steps:
            checkpointer.save(step, {"x": jnp.full(4, step)}, {})
        checkpointer.close()
    assert steps_in(tmp_path) == [3, 6, 7, 8]
    kept, _ = checkpoint.restore_params(tmp_path, "x", step=3)
    assert (kept == 3).all()


def test_a_save_stalls_for_a_part_of_its_time(tmp_path):
    """At most 20 % of a synchronous save, here the best of three of 100 MB."""
    keys = jax.random.split(jax.random.key(0), 24)
    state = jax.block_until_ready({str(i): jax.random.normal(key, (1024, 1024)) for i, key in enumerate(keys)})
    checkpointer, ratios = checkpoint.Checkpointer(tmp_path, keep=1), []
    for step in range(3):
        start = time.perf_counter()
        checkpointer.save(step, state, {})
        stalled = time.perf_counter() - start
        checkpointer.wait()
        ratios.append(stalled / (time.perf_counter() - start))
    checkpointer.close()
    print("stall / synchronous save:", *(f"{ratio:.3f}" for ratio in ratios))
    assert min(ratios) < 0.2


def test_arrays_may_be_donated_while_they_are_written(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = jax.block_until_ready({"x": jnp.arange(2**22, dtype=jnp.float32)})
    checkpointer = checkpoint.Checkpointer(tmp_path, keep=1)
    layout = abstract(state)
    checkpointer.save(1, state, {})
    jax.block_until_ready(overwrite(state["x"]))
    checkpointer.wait()
    np.testing.assert_array_equal(checkpointer.restore(layout)[0]["x"], np.arange(2**22))


@pytest.fixture(scope="module")
def saved_on_2x2x2(tmp_path_factory):
    directory = tmp_path_factory.mktemp("meshes")
    mesh = partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, DEVICES)
    placed = partition.shardings(make_state(), mesh, TABLE)
    assert placed.params["embed"]["embedding"].shard_shape((128, 256)) == (64, 128)
    checkpointer = checkpoint.Checkpointer(directory, keep=1)
    checkpointer.save(1, jax.device_put(make_state(), placed), {})
    checkpointer.close()
    return directory


TABLE = ((r"embedding$", ("tensor", "fsdp")), *partition.DEFAULT_TABLE)
MESHES = {(8, 1, 1): (128, 256), (1, 8, 1): (128, 32), (1, 2, 4): (32, 128), (1, 1, 1): (128, 256)}


@pytest.mark.parametrize("sizes", MESHES)
def test_restores_onto_another_mesh(saved_on_2x2x2, sizes):
    mesh = partition.make_mesh(dict(zip(partition.AXES, sizes, strict=True)), DEVICES[: math.prod(sizes)])
    placed = partition.shardings(make_state(), mesh, TABLE)
    state, _ = checkpoint.Checkpointer(saved_on_2x2x2, keep=1).restore(abstract(make_state(), placed))
    assert_same_bits(state, make_state())
    assert jax.tree.all(jax.tree.map(lambda leaf, where: leaf.sharding == where, state, placed))
    assert state.params["embed"]["embedding"].addressable_shards[0].data.shape == MESHES[sizes]
    params, _ = checkpoint.restore_params(saved_on_2x2x2, "params", lambda tree: partition.shardings(tree, mesh, TABLE))
    assert_same_bits(params, make_state().params)
    assert params["embed"]["embedding"].sharding == placed.params["embed"]["embedding"]


def test_one_subtree_without_knowing_it(saved):
    ema, extra = checkpoint.restore_params(saved)
    assert_same_bits(ema, make_state(2).ema)
    assert extra["position"] == 20
    params, _ = checkpoint.restore_params(saved, "params", step=1)
    assert_same_bits(params, make_state(1).params)


def test_has_checkpoint_makes_nothing(saved, tmp_path):
    assert checkpoint.has_checkpoint(saved)
    assert not checkpoint.has_checkpoint(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
    assert not checkpoint.has_checkpoint(tmp_path)


ABORTED = """
    import os, signal, sys
    import jax.numpy as jnp
    from imagen_jax.checkpoint import Checkpointer

    checkpointer = Checkpointer(sys.argv[1], keep=2)
    state = {str(i): jnp.full(2**22, 1.0) for i in range(4)}
    checkpointer.save(1, state, {"position": 1})
    checkpointer.wait()
    checkpointer.save(2, {name: x * 2 for name, x in state.items()}, {"position": 2})
    print("saving", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_python(code, *args):
    """A fresh process, as a user would see it: pytest takes over warnings and hooks in this one."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    root = Path(checkpoint.__file__).parents[1]
    return subprocess.run(command, cwd=root, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)


def test_a_kill_during_a_save_leaves_the_one_before(tmp_path):
    done = run_python(ABORTED, tmp_path / "run")
    assert done.returncode == -signal.SIGKILL and done.stdout == "saving\n", done.stderr
    assert done.stderr == "", "orbax must be silent"
    assert [path.name for path in (tmp_path / "run").glob("2*")] != ["2"], "the save was over before the kill"
    checkpointer = checkpoint.Checkpointer(tmp_path / "run", keep=2)
    assert checkpointer.latest_step() == 1
    layout = abstract({str(i): jnp.zeros(2**22) for i in range(4)})
    state, extra = checkpointer.restore(layout)
    assert extra == {"position": 1} and all((leaf == 1).all() for leaf in state.values())
    assert list((tmp_path / "run").glob("2*")) == [], "the unfinished save is swept"
    assert checkpointer.save(2, state, {"position": 2})
    checkpointer.close()


def error_line(call):
    with pytest.raises(checkpoint.CheckpointError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_checkpoint_is_one_line(tmp_path):
    message = error_line(lambda: checkpoint.restore_params(tmp_path / "absent"))
    assert message == f"{tmp_path / 'absent'}: no such folder; train first, or give the folder with the checkpoints"
    message = error_line(lambda: checkpoint.Checkpointer(tmp_path / "new", keep=1).restore({}))
    assert message == f"{tmp_path / 'new'}: holds no complete checkpoint; train first"
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in error_line(lambda: checkpoint.Checkpointer(tmp_path / "file", keep=1))


def test_an_absent_step_or_field_is_one_line(saved):
    assert error_line(lambda: checkpoint.restore_params(saved, step=7)).endswith("no checkpoint of step 7, only 1, 2")
    message = error_line(lambda: checkpoint.restore_params(saved, "weights"))
    assert message == f"{saved / '2'}: holds no 'weights', only ema, opt_state, params, step"


@pytest.mark.parametrize("missing", ["state", "state/_METADATA", "state/manifest.ocdbt", "state/d", "extra"])
def test_a_truncated_checkpoint_is_one_line(saved, tmp_path, missing):
    directory = tmp_path / "copy"
    shutil.copytree(saved, directory)
    lost = directory / "2" / missing
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    layout = abstract(make_state())
    for call in (
        lambda: checkpoint.Checkpointer(directory, keep=2).restore(layout),
        lambda: checkpoint.restore_params(directory),
    ):
        message = error_line(call)
        assert message.startswith(f"{directory / '2'}: not a readable checkpoint (")
        assert message.endswith(f"; {checkpoint.MEND}")
    shutil.rmtree(directory / "2")  # the mend
    assert_same_bits(checkpoint.Checkpointer(directory, keep=2).restore(layout)[0], make_state(1))


def test_a_reader_says_its_one_line_and_nothing_else(saved, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(saved, directory)
    shutil.rmtree(directory / "2" / "state" / "d")
    code = """
        import sys, time
        from imagen_jax import checkpoint
        try:
            checkpoint.restore_params(sys.argv[1])
        except checkpoint.CheckpointError as error:
            print(error)
        time.sleep(0.5)  # the reads under way end after the first failure
    """
    done = run_python(code, directory)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1 and done.stdout.endswith(f"; {checkpoint.MEND}\n")


def test_a_foreign_folder_is_one_line(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "notes.txt").write_text("mine")
    assert "7: not a readable checkpoint (" in error_line(lambda: checkpoint.restore_params(tmp_path))
    assert (tmp_path / "7" / "notes.txt").exists()


def test_another_config_names_the_first_leaf_that_differs(saved):
    layout = abstract(make_state())
    wider = jax.ShapeDtypeStruct((3, 3, 16, 64), jnp.float32)
    changed = layout.replace(params={**layout.params, "conv": {**layout.params["conv"], "kernel": wider}})
    message = error_line(lambda: checkpoint.Checkpointer(saved, keep=2).restore(changed))
    assert message.startswith(
        f"{saved / '2'}: made by another config: params/conv/kernel is float32[3, 3, 16, 128] there"
    )
    assert "and float32[3, 3, 16, 64] here; use the config it was made with" in message
    fewer = layout.replace(ema={"conv": layout.ema["conv"]})
    message = error_line(lambda: checkpoint.Checkpointer(saved, keep=2).restore(fewer))
    assert "ema/embed/embedding is bfloat16[128, 256] there and absent here" in message
