"""The plan by the TPU's own compiler, where it is installed (`pip install -e '.[plan]'`): a small version of the gate.

In processes of their own: libtpu and the tests' virtual devices want different settings.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
needs_libtpu = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu: pip install '.[plan]'")
TINY = [
    *("--config=experiments/stage2.py", "--mode=plan", "--config.plan.compile=True"),
    *("--config.model.image_size=16", "--config.model.channels=(16,32)", "--config.model.blocks=(2,2)"),
    *("--config.model.dtype=bfloat16", "--config.model.remat=block", "--config.model.scan=True"),
    "--config.text_encoder.layers=2",
    *("--config.train.batch_size=16", "--config.sample.steps=4"),
]


def run(workdir: Path, target: str, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "imagen_jax.main", *TINY, f"--workdir={workdir}", f"--config.plan.target={target}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True)


@needs_libtpu
def test_a_small_step_and_sampler_compile_for_a_slice_and_fit(tmp_path):
    done = run(tmp_path, "v5e:2x2")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "plan.json").read_text())
    for name in ("training", "sampling"):
        compiled = report[name]["compiled"]
        assert compiled["fits"] and 0 < compiled["gib a device"] < 1
        assert compiled["float32 weight gathers"] == 0
        assert compiled["seconds"]["compile"]["processor"] > 0
    assert any(kind.startswith("all-gather") for kind in report["training"]["compiled"]["collectives"])
    assert report["training"]["compiled"]["collectives over parameters"] < 5


@needs_libtpu
def test_a_step_that_is_too_large_is_refused_with_what_it_would_take(tmp_path):
    done = run(tmp_path, "v5e:2x2", "--config.train.batch_size=65536", "--config.model.remat=none")
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "plan.json").read_text())
    compiled = report["training"]["compiled"]
    assert not compiled["fits"] and compiled["gib a device"] > compiled["usable gib"] == 15.75
    assert any("DOES NOT FIT" in line for line in report["verdict"])
    assert any("--config.model.remat=block" in line for line in report["verdict"])


@pytest.mark.skipif(bool(importlib.util.find_spec("libtpu")), reason="libtpu is installed")
def test_without_the_compiler_one_line_says_how_to_get_it(tmp_path):
    done = run(tmp_path / "run", "v5e:2x2")
    assert done.returncode == 2 and "pip install -e '.[plan]'" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["v5e:8by8", "h200:1"])
def test_targets_that_cannot_be_compiled_for_end_in_one_line(tmp_path, target):
    done = run(tmp_path / "run", target)
    assert done.returncode == 2 and "config.plan" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()
