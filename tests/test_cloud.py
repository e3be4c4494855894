"""The batch jobs as --dry_run prints them, and the loop that keeps a queued resource, its gcloud played by a script."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloud import launch

ROOT = Path(__file__).parent.parent
IMAGE = "registry/project/imagen:1"
WHERE = {
    "tpu": ["--target=v5e:8x8", "--zone=us-west4-a", "--storage=10.0.0.2:/imagen", f"--image={IMAGE}"],
    "gke": ["--target=v5e:8x8", "--storage=claim", f"--image={IMAGE}"],
    "slurm": ["--target=h200:8", "--nodes=4", "--time=24:00:00", "--storage=/shared"],
}


def dry_run(capsys, where: str, *arguments: str) -> tuple[str, list[str]]:
    """The file and the commands that a job would be made of."""
    assert launch.main([where, "--dry_run", *WHERE[where], *arguments]) == 0
    text, _, commands = capsys.readouterr().out.partition("\n$ ")
    return text, commands.strip().split("\n$ ")


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("experiment", "run"), [("stage2.py", "stage2"), ("stage2.py:paper", "stage2_paper")])
def test_a_job_trains_the_experiment_on_all_hosts(where, experiment, run, capsys):
    config = f"--config=experiments/{experiment}"
    text, _ = dry_run(capsys, where, config, "--", "--config.train.steps=7")
    command = text.replace('", "', " ")
    assert f"experiments/{experiment} --workdir=runs/{run} --config.hosts.coordinator=auto" in command
    assert "--config.train.steps=7" in command
    assert not text.replace("${", "").count("@{"), "every placeholder is filled in"


def test_a_queued_resource_of_tpus(capsys):
    config = "--config=experiments/stage2.py:paper"
    text, (create, look, ask, delete) = dry_run(capsys, "tpu", config, "--spot")
    assert create.startswith("gcloud compute tpus queued-resources create stage2-paper --node-id=stage2-paper")
    assert "--accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite" in create and "--spot" in create
    assert [line.split()[4] for line in (look, ask, delete)] == ["describe", "ssh", "delete"]
    assert "mount -t nfs -o rw,hard 10.0.0.2:/imagen /mnt/imagen" in text
    _, (create, *_) = dry_run(capsys, "tpu", config, "--target=v5p:4x4x8")
    assert "--type=v5p --topology=4x4x8" in create and "--spot" not in create


@pytest.mark.parametrize(
    ("target", "hosts", "chips"), [("v5e:8x8", 16, 4), ("v5e:2x4", 1, 8), ("v6e:4x4", 4, 4), ("v4:2x2x1", 1, 4)]
)
def test_a_jobset_has_a_pod_a_host(target, hosts, chips, capsys):
    yaml = pytest.importorskip("yaml")
    text, commands = dry_run(capsys, "gke", "--config=experiments/stage2.py", f"--target={target}", "--spot")
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (hosts, hosts)
    pod = spec["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == target.partition(":")[2]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert commands[0].startswith("kubectl apply --filename=")


def test_a_slurm_job_has_a_process_a_gpu_and_goes_back_into_the_queue(capsys, tmp_path):
    text, commands = dry_run(capsys, "slurm", "--config=experiments/stage2.py:paper")
    assert {"#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=8", "#SBATCH --requeue"} <= set(text.splitlines())
    assert commands[0].startswith("sbatch ")
    assert after_training(text, 75, "0", tmp_path) == (75, "requeue 17\n")
    assert after_training(text, 75, "50", tmp_path) == (75, "")
    assert after_training(text, 2, "0", tmp_path) == (2, "")
    assert after_training(text, 0, "0", tmp_path) == (0, "")


def after_training(script: str, code: int, restarts: str, folder: Path) -> tuple[int, str]:
    """Run the script with a srun that ends with `code`: its own exit code, and what scontrol was told."""
    tools = {"srun": f"exit {code}", "scontrol": 'echo "$@"'}
    environment = os.environ | {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": restarts}
    done = subprocess.run(
        ["bash", "-c", script], env=with_tools(folder, tools, environment), capture_output=True, text=True
    )
    return done.returncode, done.stdout


def with_tools(folder: Path, tools: dict[str, str], environment: dict) -> dict:
    for name, body in tools.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return environment | {"PATH": f"{folder}:{environment['PATH']}"}


@pytest.mark.parametrize(
    ("codes", "starts", "ended"),
    [("75 134 0", 3, "0"), ("2", 1, "2"), ("1 1 1 1", 3, "1")],
)
def test_a_tpu_host_trains_again_after_a_stop_or_a_crash_and_tells_how_it_ended(codes, starts, ended, capsys, tmp_path):
    text, _ = dry_run(capsys, "tpu", "--config=experiments/stage2.py", "--restarts=3")
    (tmp_path / "codes").write_text("\n".join(codes.split()) + "\n")
    docker = f"[ $1 = rm ] && exit; cd {tmp_path}; code=$(head -n 1 codes); sed -i 1d codes; echo trained; exit $code"
    tools = {"docker": docker, **dict.fromkeys(("mountpoint", "dpkg", "gcloud", "sleep"), "exit 0")}
    script = text.replace("/mnt/imagen", str(tmp_path)).replace("/var/run", str(tmp_path))
    done = subprocess.run(["bash", "-c", script], env=with_tools(tmp_path, tools, os.environ), capture_output=True)
    assert (tmp_path / "imagen_exit_code").read_text() == f"{ended}\n", done.stderr
    assert (tmp_path / "runs" / "stage2" / "log.txt").read_text() == "trained\n" * starts


def test_a_tpu_host_that_cannot_write_to_the_share_tells_it(capsys, tmp_path):
    text, _ = dry_run(capsys, "tpu", "--config=experiments/stage2.py")
    tools = {"mkdir": "exit 1", **dict.fromkeys(("mountpoint", "dpkg", "gcloud", "docker", "sleep"), "exit 0")}
    script = text.replace("/mnt/imagen", str(tmp_path)).replace("/var/run", str(tmp_path))
    subprocess.run(["bash", "-c", script], env=with_tools(tmp_path, tools, os.environ), capture_output=True)
    assert (tmp_path / "imagen_exit_code").read_text() == "2\n"


# A cloud that takes the slice away once, and once does not answer: its answers, one a call of describe and of ssh.
GCLOUD = """
cd {folder}; echo "$3 $4" >> calls
next() {{ head -n 1 $1; sed -i 1d $1; }}
case "$4" in
    describe)
        case "$(head -n 1 states)" in NOT_FOUND | UNAVAILABLE) echo "ERROR: $(next states): it" >&2; exit 1 ;; esac
        next states ;;
    ssh) next codes ;;
esac
"""


@pytest.mark.parametrize(("ended", "exit_code"), [("0", 0), ("2", 2)])
def test_a_slice_that_is_taken_away_is_asked_for_again_until_training_is_over(
    ended, exit_code, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", with_tools(tmp_path, {"gcloud": GCLOUD.format(folder=tmp_path)}, os.environ)["PATH"])
    monkeypatch.setattr(launch, "POLL", 0)
    (tmp_path / "states").write_text(
        "NOT_FOUND\nWAITING_FOR_RESOURCES\nACTIVE\nUNAVAILABLE\nSUSPENDED\nACTIVE\nACTIVE\n"
    )
    (tmp_path / "codes").write_text(f"\n\n{ended}\n")
    monkeypatch.setattr(launch, "write_text", lambda *_: None)
    assert launch.main(["tpu", *WHERE["tpu"], "--config=experiments/stage2.py"]) == exit_code
    calls = [line.split()[1] for line in (tmp_path / "calls").read_text().splitlines()]
    created, taken = ["describe", "create"], ["describe", "delete", "create"]
    assert calls == [*created, "describe", "describe", "ssh", "describe", *taken, *["describe", "ssh"] * 2, "delete"]
    told = capsys.readouterr().err
    assert ("exit code 2: see log.txt in its workdir; without one," in told) == (exit_code == 2)
    assert "UNAVAILABLE" in told and "NOT_FOUND" not in told
    (tmp_path / "states").write_text("UNAVAILABLE\n")
    assert launch.main(["tpu", *WHERE["tpu"], "--config=experiments/stage2.py"]) == 2, "the first look must not fail"
    assert "failed: see above; log in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "arguments", "told"),
    [
        ("tpu", ["--config=experiments/stage2.py:papr"], "unknown size"),
        ("gke", ["--config=experiments/stage9.py"], "no file experiments/stage9.py"),
        ("gke", ["--config=experiments/stage2.py", "--target=v9:8x8"], "--target='v9:8x8': unknown chip"),
        ("slurm", ["--config=experiments/stage2.py", "--target=v5e:8x8"], "slurm jobs are for h200"),
        ("tpu", ["--config=experiments/stage2.py", "--target=h200:8"], "tpu jobs are for v4"),
        ("gke", ["--config=experiments/stage2.py", "--name=My_Job"], "--name=My_Job"),
    ],
)
def test_bad_names_are_one_line_and_exit_code_2(where, arguments, told, capsys):
    assert launch.main([where, *WHERE[where], "--dry_run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error


def test_without_the_tool_there_is_one_line(tmp_path):
    environment = os.environ | {"PATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "cloud.launch", "slurm", *WHERE["slurm"], f"--storage={tmp_path}"]
    config = "--config=experiments/stage2.py"
    done = subprocess.run([*command, config], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: sbatch is not installed here; --dry_run shows what it would be given\n"


def test_the_image_takes_what_training_needs():
    kept = (ROOT / "cloud" / "Dockerfile.dockerignore").read_text()
    assert all(f"!{name}" in kept for name in ("setup.py", "imagen_jax", "data_pipelines", "experiments"))
    assert "--editable '.[data]'" in (ROOT / "cloud" / "Dockerfile").read_text()


@pytest.mark.parametrize(("extra", "root"), [("", "runs"), ("--config.train.steps=20", "runs_try")])
def test_all_of_small_goes_on_where_it_stopped_and_no_trial_is_taken_for_it(extra, root, tmp_path):
    (tmp_path / "cloud").mkdir()
    script = shutil.copy(ROOT / "cloud" / "small_on_gpu.sh", tmp_path / "cloud")
    body = """
echo "$*" >> commands
for argument; do case $argument in
    --workdir=*) report=${argument#*=} ;;
    --mode=eval) report=$report/eval ;;
esac; done
[ -z "$report" ] || { mkdir -p $report && echo {} > $report/report.json; }
"""
    environment = with_tools(tmp_path, {"trainer": body}, os.environ | {"PYTHON": "trainer", "EXTRA": extra})
    for _ in range(2):
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith(f"all done: {root}/"), done.stderr
    commands = (tmp_path / "commands").read_text().splitlines()
    trainings = [line for line in commands if "--workdir" in line and "--mode" not in line]
    assert len(trainings) == len(set(trainings)) == 14 and all(line.endswith(extra) for line in trainings)
    starts = [line.split("init_from=")[1].split()[0] for line in trainings if "init_from" in line]
    assert len(starts) == 13 and all(start.startswith(f"{root}/") for start in starts)
    assert starts.count(f"{root}/pretrain_small") == 2  # stage 1, and as many steps more without it
    assert [path.name for path in tmp_path.glob("runs*")] == [root]


def test_what_fails_before_the_time_is_up_is_not_called_again(tmp_path):
    (tmp_path / "cloud").mkdir()
    script = shutil.copy(ROOT / "cloud" / "small_on_gpu.sh", tmp_path / "cloud")
    environment = with_tools(tmp_path, {"trainer": "exit 137"}, os.environ | {"PYTHON": "trainer"})
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 137 and "time is up" not in done.stdout
