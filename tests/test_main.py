"""The command line: training that survives kill -9, the stages in a row, and one clear line for bad input."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagen_jax import runs
from imagen_jax.grid import CELL, GAP, TEXT_WIDTH
from imagen_jax.preemption import EXIT_CODE
from tests.conftest import FAST_COMPILE

ROOT = Path(__file__).parent.parent
# The bare experiments at a size that steps in milliseconds.
SMALL = [
    *("--config.model.image_size=16", "--config.model.channels=(8,16)", "--config.model.blocks=(1,1)"),
    *("--config.model.heads=2", "--config.model.head_dim=8", "--config.model.cond_channels=16"),
    *("--config.text_encoder.emb=16", "--config.text_encoder.layers=1", "--config.sample.steps=2"),
    *("--config.train.batch_size=8", "--config.train.log_every=3", "--config.train.checkpoint_every=4"),
    "--config.train.sample_every=0",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "imagen_jax.main", *arguments]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, as on a laptop; what one command has compiled, the next need not compile again."""
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return {**os.environ, **compiled, "XLA_FLAGS": FAST_COMPILE, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def run(environment):
    def call(*arguments, expect: int = 0) -> str:
        done = subprocess.run(command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def stage2(run, tmp_path_factory) -> Path:
    """An uninterrupted run of 40 steps."""
    workdir = tmp_path_factory.mktemp("runs") / "stage2"
    run("--config=experiments/stage2.py", f"--workdir={workdir}", "--config.train.steps=40", *SMALL)
    return workdir


def metrics(workdir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def test_a_run_leaves_its_report_picture_and_instructions(stage2):
    report = json.loads((stage2 / "report.json").read_text())
    assert report["loss_true"] > 0 and report["loss_shuffled"] > 0
    assert Image.open(report["samples"]).size[0] > 500
    assert [row["step"] for row in metrics(stage2)] == [*range(3, 40, 3), 40, 40]
    assert set(report["text_only"]) == {"text_to_image"}
    assert metrics(stage2)[-1] == {"step": 40} | {
        "held_out/loss_true": report["loss_true"],
        "held_out/loss_shuffled": report["loss_shuffled"],
        "held_out/text_to_image": report["text_only"]["text_to_image"],
    }
    assert {path.stem for path in (stage2 / "instructions").glob("*.json")} == set(report["tasks"]) | {"text_to_image"}


def test_killed_then_stopped_and_rerun_the_metrics_are_those_of_an_uninterrupted_run(
    stage2, environment, run, tmp_path
):
    arguments = ["--config=experiments/stage2.py", f"--workdir={tmp_path}", "--config.train.steps=40", *SMALL]

    def interrupted(number: signal.Signals, when) -> tuple[int, str]:
        with subprocess.Popen(
            command(*arguments), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                if when(line):
                    process.send_signal(number)
                    break
            return process.wait(), process.stdout.read()

    # Checkpoints are at multiples of 4, metric lines at multiples of 3: what lies between goes through the checkpoint.
    complete = (tmp_path / "checkpoints").glob
    killed, _ = interrupted(signal.SIGKILL, lambda _: any(path.name.isdigit() for path in complete("*")))
    assert killed == -signal.SIGKILL and len(metrics(tmp_path)) < 13
    stopped, told = interrupted(signal.SIGTERM, lambda line: line.startswith("step "))
    again = shlex.join(command(*arguments))
    assert stopped == EXIT_CODE and told.endswith(f" of 40; to go on:\n{again}\n"), told
    assert len(metrics(tmp_path)) < 14
    assert "resuming after step" in run(*arguments, "--config.train.keep_checkpoints=3")
    assert json.loads((tmp_path / "config.json").read_text())["train"]["keep_checkpoints"] == 3
    assert metrics(tmp_path) == metrics(stage2)
    ours, theirs = (json.loads((workdir / "report.json").read_text()) for workdir in (tmp_path, stage2))
    assert ours["tasks"] == theirs["tasks"]


def test_a_finished_run_run_again_trains_nothing(stage2, run):
    files = [stage2 / name for name in ("metrics.jsonl", "report.json", "config.json")]
    before = [file.read_text() for file in files]
    told = run(
        "--config=experiments/stage2.py", f"--workdir={stage2}", "--config.train.steps=40", *SMALL, "--config.seed=1"
    )
    assert "trained for 40 steps already (config.train.steps=40), so nothing is trained" in told
    assert [file.read_text() for file in files] == before


def test_each_stage_takes_over_the_one_before(run, tmp_path):
    few = ["--config.train.steps=4", "--config.optim.name=adafactor"]  # which compiles sooner than muon

    def train(name: str, *more: str) -> str:
        return run(f"--config=experiments/{name}.py", f"--workdir={tmp_path / name}", *few, *SMALL, *more)

    assert "start from scratch" in train("pretrain")
    told = train("stage1")
    assert f"init_from: {tmp_path / 'pretrain'}" in told and "context_attention" in told
    told = train("stage2", "--config.model.context_zero_start=True", "--config.train.noises=2")
    assert "new        0 leaves" in told
    measure = ["--mode=noise", "--config.noise.fillings=8x1,8x4", "--config.noise.steps=3", *SMALL]
    told = run("--config=experiments/stage2.py", f"--workdir={tmp_path}/stage2", *measure)
    assert f"weights: {tmp_path}/stage2, step 4" in told and "of least cost: --config.train.batch_size=8" in told
    told = run("--config=experiments/stage2.py", f"--workdir={tmp_path}/pretrain", *measure, expect=2)
    assert told.endswith("holds another model than this config: name another --workdir, or that run's config\n")
    enlarge = ["--config.model.image_size=32", "--config.model.lowres_size=16", "--config.model.text_levels=(2,)"]
    frozen = ["--config.text_encoder.frozen=True", f"--config.text_encoder.weights={tmp_path}/stage2"]
    assert "unused" in train("super_res", *enlarge, *frozen, "--config.train.sample_every=2")
    assert (tmp_path / "super_res/samples/grid_2.png").exists()
    enlarged = json.loads((tmp_path / "super_res/report.json").read_text())["enlarged"]
    assert 0 < enlarged["sharpness"]["bicubic"] < 1 and enlarged["psnr"].keys() == {"model", "bicubic"}
    run("--config=experiments/super_res.py", f"--workdir={tmp_path}/super_res", "--mode=eval", *SMALL)
    assert json.loads((tmp_path / "super_res/eval/report.json").read_text())["enlarged"] == enlarged
    assert Image.open(tmp_path / "super_res/eval/enlarged.png").height > 8 * 128
    sample = ["--mode=sample", f"--instruction={tmp_path}/stage2/instructions/style_transfer.json"]
    told = run("--config=experiments/stage2.py", f"--workdir={tmp_path}/stage2", *sample, "--config.sample.steps=2")
    pictures = [Path(line.split(": ")[1]) for line in told.splitlines() if line.startswith("picture: ")]
    assert [Image.open(path).size for path in pictures] == [(16, 16), (32, 32)]
    told = run("--config=experiments/stage2.py", f"--workdir={tmp_path}/stage2", "--mode=sample")
    (picture,) = (line.split(": ")[1] for line in told.splitlines() if line.startswith("picture: "))
    columns = 5  # two references, the sample, the sample enlarged, the real target
    assert Image.open(picture).size[0] == TEXT_WIDTH + columns * (CELL + GAP) + 2 * GAP


def test_the_packed_instruction_is_the_same_in_training_and_sampling(stage2):
    from ml_collections import ConfigDict

    from data_pipelines.instruction import layout_of, load_instruction, pack
    from data_pipelines.loader import make_loader
    from data_pipelines.text import load_tokenizer

    config = ConfigDict(json.loads((stage2 / "config.json").read_text()), convert_dict=True)
    data, layout = config.data, layout_of(config)
    loader = make_loader(data, layout, "test", config.seed)
    for index, task in enumerate(loader.tasks):
        text, context = pack(load_instruction(stage2 / "instructions" / f"{task}.json"), load_tokenizer(""), layout)
        batch = loader.batch(index, 1, task)
        for ours, theirs in zip(
            (text.tokens, context.images, context.mask),
            (batch.text.tokens, batch.context.images, batch.context.mask),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs[0])


BAD_FLAGS = {
    "--config.train.stpes=3": 'Did you mean "steps"',
    "--config=experiments/stage3.py": "stage3.py",
    "--config=experiments/stage2.py:huge": "tiny, laptop, small, paper",
    "--config.train.keep_every=150": "multiple of config.train.checkpoint_every=100",
    "--config.train.matmul_precision=bf16": "config.train.matmul_precision='bf16' is unknown; use one of bfloat16,",
    "--config.train.max_aug_level=3": "config.train.max_aug_level=3.0 must be above 0 and at most 1",
    "--config.model.lowres_gap=0.02": "config.model.lowres_gap=0.02 must be 0, or above it where",
    "--config.sample.method=ddmp": "config.sample.method 'ddmp' is unknown",
    "--config.model.image_size=50": "model.image_size=50 must be a multiple of 4",
    "--config.train.log_every=0": "config.train.log_every=0 must be at least 1",
    "--config.init_from=nowhere": "config.init_from: no checkpoint in nowhere",
    "--config.text_encoder.frozen=True": "config.text_encoder.weights",
    "--config.optim.name=sgd": "adafactor, adam",
    "--config.data.corpus=nowhere": "data_pipelines.prepare emoji",
    "--config.data.mixture.edge=0.9": "sum",
    "--config.mesh.data=3": "mesh data=3",
    "--instruction=a.json": "--instruction=FILE.json is for --mode=sample",
    "--mode=sample": "no trained model there",
    "--seed=3": "--seed is for --mode=sample; training has --config.seed",
    f"--seed={2**32}": "flag --seed=4294967296: 4294967296 is not an integer in the range [0, 4294967295]",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_bad_settings_end_in_one_line_and_write_nothing(flag, run, tmp_path):
    arguments = [flag] if flag.startswith("--config=") else ["--config=experiments/stage2.py", flag]
    told = run(*arguments, f"--workdir={tmp_path / 'run'}", expect=2)
    assert BAD_FLAGS[flag] in told and len(told.splitlines()) == 1 and told.startswith("error: ")
    assert not (tmp_path / "run").exists()


BAD_INSTRUCTIONS = {
    '{"text": "draw [ref#1]", "references": []}': "[ref#1]",
    '{"text": "a fox", "references": [{"marker": "[ref#1]", "text": "a fox", "image": "a.png"}]}': "[ref#1]",
    '{"text": "draw [ref#1]", "references": [{"marker": "[ref#1]", "text": "x", "image": "a.png"}, '
    '{"marker": "[ref#1]", "text": "x", "image": "a.png"}]}': "[ref#1] is taken",
    '{"text": "draw [ref#1]", "references": [{"marker": "[ref#1]", "text": "a fox", "image": "no.png"}]}': "no.png",
    '{"text": "draw [ref#1]", "references": [{"marker": "[ref#1]", "text": "a fox", "image": "torn.png"}]}': "torn.png",
    '{"text": " "}': "text: is empty",
    '{"text": "a fox"': "bad.json:1:",
    '{"text": "draw [ref#1] [ref#2] [ref#3]", "references": [{"marker": "[ref#1]", "text": "x", "image": "a.png"}, '
    '{"marker": "[ref#2]", "text": "x", "image": "a.png"}, {"marker": "[ref#3]", "text": "x", "image": "a.png"}]}': (
        "data.max_references"
    ),
}


@pytest.mark.parametrize("text", BAD_INSTRUCTIONS, ids=range(len(BAD_INSTRUCTIONS)))
def test_bad_instructions_end_in_one_line_and_write_nothing(text, run, stage2, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "bad.json").write_text(text)
    before = {path: path.stat().st_mtime_ns for path in stage2.rglob("*")}
    told = run(
        "--config=experiments/stage2.py", f"--workdir={stage2}", "--mode=sample",
        f"--instruction={tmp_path / 'bad.json'}", expect=2,
    )  # fmt: skip
    assert BAD_INSTRUCTIONS[text] in told and len(told.splitlines()) == 1 and "bad.json" in told
    assert {path: path.stat().st_mtime_ns for path in stage2.rglob("*")} == before


def test_sampling_without_a_trained_model_says_so(run, tmp_path):
    (tmp_path / "a.json").write_text('{"text": "a fox"}')
    told = run(
        "--config=experiments/stage2.py", f"--workdir={tmp_path / 'none'}", "--mode=sample",
        f"--instruction={tmp_path / 'a.json'}", expect=2,
    )  # fmt: skip
    assert "no trained model there" in told and not runs.has_run(tmp_path / "none")


def test_the_plan_allocates_nothing_and_writes_the_counts(run, tmp_path):
    run("--config=experiments/stage2.py:paper", "--mode=plan", f"--workdir={tmp_path}")
    counts = json.loads((tmp_path / "plan.json").read_text())["parameters"]
    published = {"base": 2.51e9, "total": 2.76e9, "super_res": 581e6}
    assert all(abs(counts[name] / size - 1) < 0.015 for name, size in published.items())
    assert counts["context"] == counts["total"] - counts["base"] and counts["text_encoder"] == 4_762_310_656


BAD_EVALUATIONS = {
    "--config.eval.count=64": "no trained model there; train it first",
    "--config.eval.suites=line,colour": "config.eval.suites: 'colour' is no suite; the suites are text_to_image, line",
    "--config.eval.count=1": "config.eval.count=1: at least 2",
}


@pytest.mark.parametrize("flag", BAD_EVALUATIONS)
def test_an_evaluation_that_cannot_be_ends_in_one_line_and_writes_nothing(flag, run, tmp_path):
    told = run("--config=experiments/stage2.py", "--mode=eval", f"--workdir={tmp_path / 'none'}", flag, expect=2)
    assert BAD_EVALUATIONS[flag] in told and len(told.splitlines()) == 1 and told.startswith("error: ")
    assert not (tmp_path / "none").exists()
