"""Several processes train as one: the losses of one process, one log, and exactly so after one of them is killed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from experiments import stage2
from imagen_jax import hosts, partition
from tests.conftest import FAST_COMPILE

ROOT = Path(__file__).parent.parent
STEPS = 12
TO_THE_END = "HOSTS_TO_THE_END" in os.environ  # before a release: the report and its pictures too, minutes of CPU
# The bare experiment at the size of tests/tiny.py.
SMALL = [
    *("--config.model.image_size=8", "--config.model.channels=(8,16)", "--config.model.blocks=(1,1)"),
    *("--config.model.heads=2", "--config.model.head_dim=8", "--config.model.cond_channels=16"),
    *("--config.text_encoder.emb=16", "--config.text_encoder.mlp=16", "--config.text_encoder.layers=1"),
    *("--config.train.batch_size=4", f"--config.train.steps={STEPS}", "--config.train.log_every=1"),
    "--config.optim.name=adafactor",  # which compiles sooner than muon
    *("--config.train.checkpoint_every=3", "--config.train.sample_every=0", "--config.sample.steps=1"),
]


def start(workdir: Path, cache: Path, devices: int, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "imagen_jax.main", "--config=experiments/stage2.py", f"--workdir={workdir}"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([*command, *SMALL, *arguments], cwd=ROOT, env=environment, **pipes)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_two(workdir: Path, cache: Path) -> list[subprocess.Popen]:
    """Two processes with a device each, one mesh of both."""
    joined = f"--config.hosts.coordinator=127.0.0.1:{free_port()}", "--config.hosts.count=2"
    return [start(workdir, cache, 1, *joined, f"--config.hosts.index={index}") for index in range(2)]


def test_processes_join_before_anything_looks_at_checkpoints(tmp_path):
    """As a restart must: JAX cannot join others once it has started, and to open checkpoints starts it."""
    (tmp_path / "checkpoints").mkdir()
    alone = f"--config.hosts.coordinator=127.0.0.1:{free_port()}", "--config.hosts.count=1", "--config.hosts.index=0"
    _, told = start(tmp_path, tmp_path / "cache", 1, *alone, "--config.data.corpus=nowhere").communicate(timeout=300)
    assert "nowhere is no corpus" in told and "Traceback" not in told


def losses(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without their times."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.skipif("CI" in os.environ, reason="five JAX processes at once: minutes of CPU, run it by hand")
def test_two_processes_one_killed_and_both_restarted_give_the_losses_of_one(tmp_path):
    whole, shared, cache = (tmp_path / name for name in ("whole", "shared", "cache"))
    one = start(whole, cache, 2)
    pair = start_two(shared, cache)
    end_after(5, pair)  # a checkpoint of step 3 is there, or under way; alone, either is ended by JAX after 100 s
    assert 4 <= losses(shared)[-1]["step"] < STEPS
    pair = start_two(shared, cache)
    if TO_THE_END:
        told = [process.communicate(timeout=1000) for process in (*pair, one)]
        assert [process.returncode for process in (*pair, one)] == [0, 0, 0], told
        assert "resuming after step" in told[0][1] and told[1][0] == "" and told[1][1].count("\n") == 1, "one log"
        reports = [json.loads((workdir / "report.json").read_text()) for workdir in (shared, whole)]
        assert reports[0]["loss_true"] == pytest.approx(reports[1]["loss_true"], rel=1e-5)
        assert {path.name for path in shared.iterdir()} == {path.name for path in whole.iterdir()}
    else:
        end_after(STEPS, pair)
        end_after(STEPS, [one])
    whole_rows = STEPS if TO_THE_END else STEPS - 1  # a step is printed before it is written
    assert losses(shared)[:whole_rows] == losses(whole)[:whole_rows] and len(losses(whole)) >= whole_rows
    assert len(list((shared / "tensorboard").iterdir())) == 2, "one file a start, of the first process"


def end_after(step: int, processes: list[subprocess.Popen]) -> None:
    """SIGKILL, the last process first, once the first one told of that step."""
    assert any(line.startswith(f"step {step}/") for line in processes[0].stdout), processes[0].stderr.read()
    for process in reversed(processes):
        process.kill()
        process.communicate()


def part_of(process: int, places: dict[int, list[int]], ways: int, monkeypatch) -> tuple[int, int]:
    """partition.batch_part for `process`, where `places` says which of `ways` blocks each process's devices hold."""
    blocks = [(process, block) for process, held in places.items() for block in held]
    held = {Device(p): (slice(b, b + 1),) for p, b in blocks}
    monkeypatch.setattr(partition, "batch_sharding", lambda _: SimpleNamespace(devices_indices_map=lambda _: held))
    monkeypatch.setattr(jax, "process_index", lambda: process)
    return partition.batch_part.__wrapped__(SimpleNamespace(shape={"data": 1, "fsdp": ways}))


class Device:
    """What batch_part looks at."""

    def __init__(self, process_index: int):
        self.process_index = process_index


@pytest.mark.parametrize(
    ("places", "parts"),
    [
        ({0: [0, 1], 1: [2, 3]}, [(0, 2), (1, 2)]),
        ({0: [2, 3], 1: [0, 1]}, [(1, 2), (0, 2)]),
        # hosts of 2x2 chips on a torus of 4x4, its rows one after the other
        ({0: [0, 1, 4, 5], 1: [2, 3, 6, 7], 2: [8, 9, 12, 13], 3: [10, 11, 14, 15]}, [(i, 4) for i in range(4)]),
        ({0: [0], 1: [0]}, [(0, 1), (0, 1)]),  # a tensor axis over both
        ({0: [0], 1: [0], 2: [1], 3: [1]}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_each_process_reads_the_part_of_a_batch_that_its_devices_hold(places, parts, monkeypatch):
    ways = len({block for held in places.values() for block in held})
    assert [part_of(process, places, ways, monkeypatch) for process in places] == parts


@pytest.mark.parametrize("places", [{0: [0, 1, 2], 1: [3]}, {0: [0, 1], 1: [1, 2], 2: [2, 0]}])
def test_uneven_parts_of_a_batch_are_an_error(places, monkeypatch):
    with pytest.raises(partition.PartitionError, match="uneven"):
        part_of(0, places, 4 if 3 in places[1] else 3, monkeypatch)


def test_one_process_holds_all_of_a_batch():
    assert partition.batch_part(partition.make_mesh({"fsdp": -1})) == (0, 1)
    assert hosts.is_first() and hosts.agreed(True) and not hosts.agreed(False)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (dict(count=2), "need config.hosts.coordinator"),
        (dict(coordinator="auto", index=1), "need config.hosts.coordinator"),
        (dict(coordinator="host:1234", count=2, index=2), "from 0 to count - 1"),
        (dict(coordinator="host", count=2), "HOST:PORT"),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings, told):
    config = stage2.get_config().hosts
    config.update(settings)
    with pytest.raises(hosts.HostsError, match=told) as error:
        hosts.join(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.hosts.coordinator=auto"], "JAX finds no TPU pod, Slurm step or cluster here"),
        (["--config.hosts.coordinator=auto", "--mode=eval"], "config.hosts is for --mode=train"),
        (["--workdir=gs://bucket/run"], "name a folder"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(arguments, told, tmp_path):
    process = start(tmp_path / "run", tmp_path, 1, *arguments)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if not line.startswith("waiting")]
    assert line.startswith("error: ") and told in line
    assert not (tmp_path / "run").exists()
