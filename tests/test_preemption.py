"""Told to stop, a run saves first; killed at any moment of a save, the last complete checkpoint is there.

That the metrics of a killed, stopped and resumed run equal an uninterrupted one's stands in test_main.py.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from imagen_jax import checkpoint, metrics, preemption

ROOT = Path(__file__).parent.parent
KILLS = int(os.environ.get("CHECKPOINT_KILLS", 8))  # 20 before a release: a second each on a free machine
KEEP_EVERY = 5


def noise(step):
    """8 MB that no compression makes smaller, and that belong to one step."""
    rng = np.random.default_rng(0)
    return {str(i): rng.integers(2**32, size=2**18, dtype=np.uint32) ^ np.uint32(step) for i in range(8)}


def save_on_and_on(directory, pipe):
    """As training does: each save starts when the one before is over; says the step when its `save` returns."""
    checkpointer = checkpoint.Checkpointer(directory, keep=2, keep_every=KEEP_EVERY)
    step = checkpointer.latest_step() or 0
    while True:
        pipe.send(step)
        step += 1
        checkpointer.save(step, jax.device_put(noise(step)), {"position": step})


def save_until_killed(context, directory, killed):
    """Start a process that saves, call `killed(pipe)`, end it with SIGKILL; returns the last step that it said."""
    ours, theirs = context.Pipe(duplex=False)
    writer = context.Process(target=save_on_and_on, args=(directory, theirs))
    writer.start()
    theirs.close()
    said = ours.recv()
    killed(ours)
    writer.kill()
    writer.join()
    with contextlib.suppress(EOFError):
        while True:
            said = ours.recv()
    return said


def test_killed_at_random_moments_the_last_complete_checkpoint_is_there(tmp_path):
    context = multiprocessing.get_context("forkserver")  # imports JAX once; each writer is forked from there
    context.set_forkserver_preload(["imagen_jax.checkpoint"])
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    layout = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=first), noise(0))
    start = time.perf_counter()
    save_until_killed(context, tmp_path, lambda pipe: [pipe.recv() for _ in range(3)])
    span = (time.perf_counter() - start) * 0.7  # start-up apart, of two saves
    random_moment, interrupted = random.Random(0), 0
    for _ in range(KILLS):
        said = save_until_killed(context, tmp_path, lambda _: time.sleep(random_moment.uniform(0, span)))
        interrupted += any("tmp" in path.name for path in tmp_path.iterdir())
        checkpointer = checkpoint.Checkpointer(tmp_path, keep=2, keep_every=KEEP_EVERY)
        state, extra = checkpointer.restore(layout)
        step = extra["position"]
        assert step == checkpointer.latest_step()
        assert said - 1 <= step <= said + 1, "save N returns when N-1 is complete"
        jax.tree.map(np.testing.assert_array_equal, state, noise(step))
        checkpointer.close()
        kept = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
        assert kept >= {step, *range(KEEP_EVERY, step + 1, KEEP_EVERY)}
    print(f"{interrupted} of {KILLS} kills hit a save, the last checkpoint is {step}")
    assert interrupted > KILLS // 4, "most kills are meant to hit a save"


def test_signals_are_noted_and_the_old_handlers_come_back(capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with preemption.StopSignals() as signals:
        assert not signals.reached(1)
        for _ in range(2):  # a second SIGTERM changes nothing
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.reached(1)
    with preemption.StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.reached(2)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL, "a second Ctrl-C ends the process"
    assert before == {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    told = capfd.readouterr().err.splitlines()
    assert told == [
        *2 * ["SIGTERM: this step ends and is saved"],
        "SIGINT: this step ends and is saved; Ctrl-C again stops at once",
    ]


def test_the_window_of_metrics_goes_through_a_checkpoint_exactly():
    rng = np.random.default_rng(0)
    values = [
        {"loss": jax.numpy.float32(rng.normal()), "loss/task_edit": (jax.numpy.float32(rng.normal()), np.int32(i % 2))}
        for i in range(7)
    ]
    whole = metrics.Accumulator()
    for value in values:
        whole.add(value)
    expected = whole.flush()
    assert set(expected) == {"loss", "loss/task_edit"}
    for cut in range(8):
        window = metrics.Accumulator()
        for value in values[:cut]:
            window.add(value)
        window = metrics.Accumulator(json.loads(json.dumps(window.sums())))
        for value in values[cut:]:
            window.add(value)
        assert window.flush() == expected


PROCESS = """
    import sys, time
    import jax, numpy as np
    from imagen_jax import partition
    from imagen_jax.checkpoint import Checkpointer
    from imagen_jax.preemption import EXIT_CODE, StopSignals

    rank, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    mesh = partition.make_mesh({"data": 2})
    x = partition.shard_batch(np.zeros((1, 4), np.float32), mesh)
    add = jax.jit(lambda x: x + 1)
    checkpointer = Checkpointer(directory, keep=1)
    with StopSignals() as signals:
        for step in range(1, 1000):
            x = jax.block_until_ready(add(x))
            print(step, flush=True)
            if signals.reached(step):
                checkpointer.save(step, {"x": x}, {"position": step})
                checkpointer.wait()
                print("saved", step, flush=True)
                break
            time.sleep(0.01 + 0.02 * rank)
    checkpointer.close()
    sys.exit(EXIT_CODE)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_of_two_processes_one_is_told_and_both_save_the_same_step(number, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), str(rank), str(port), str(tmp_path / "run")],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    assert "1\n" in iter(both[1].stdout.readline, "")
    both[1].send_signal(number)
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [preemption.EXIT_CODE] * 2, told
    last = {out.splitlines()[-1] for out, _ in told}
    step = int(last.pop().removeprefix("saved "))
    assert not last, "the same step in both"
    found, extra = checkpoint.restore_params(tmp_path / "run", "x")
    assert extra == {"position": step}
    np.testing.assert_array_equal(found, np.full((2, 4), step))
