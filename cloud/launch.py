"""Batch jobs that train to the end by themselves: a queued resource of TPUs, a JobSet on GKE, GPU nodes of Slurm.

    python -m cloud.launch tpu --config=experiments/stage2.py:paper --target=v5e:8x8 --zone=us-west4-a \\
        --storage=10.0.0.2:/imagen --image=IMAGE --spot --dry_run
    python -m cloud.launch gke --config=experiments/stage2.py:paper --target=v5e:8x8 --storage=CLAIM --image=IMAGE
    python -m cloud.launch slurm --config=experiments/stage2.py:paper --target=h200:8 --nodes=4 --time=24:00:00

--dry_run prints what would run, files and commands. The jobs run where data/ and runs/ are: in a folder that all hosts
share, so every path of a config means what it means on a laptop. Flags for the training itself come last, after a
lone -- . docs/pods.md tells the whole way. The files are made from cloud/templates/.
"""

import argparse
import json
import re
import runpy
import shlex
import string
import subprocess
import sys
import time
from pathlib import Path

from data_pipelines.commands import guarded
from imagen_jax.planning import chips
from imagen_jax.workdir import write_text

ROOT = Path(__file__).resolve().parent.parent
IN_IMAGE = "/imagen"  # the repository, as cloud/Dockerfile puts it there
POLL = 60  # seconds
ABSENT = "NOT_FOUND"  # what gcloud says of a resource that is not there
UNKNOWN = "unknown"

# kind -> (type for gcloud, runtime version, GKE's name). Google Cloud's pages "Supported TPU configurations", "TPU
# software versions" and "Plan TPUs in GKE".
TPUS = {
    "v4": ("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}


class LaunchError(ValueError):
    """A job that cannot be made, or a tool that is not there."""


class Template(string.Template):
    """Placeholders are @{name}: shell scripts keep their dollars."""

    delimiter = "@"
    pattern = r"@(?:(?P<escaped>@)|\{(?P<braced>[a-z]+)\}|(?P<named>(?!))|(?P<invalid>(?!)))"


def render(template: str, **values) -> str:
    """cloud/templates/TEMPLATE with its placeholders filled in."""
    return Template((ROOT / "cloud" / "templates" / template).read_text()).substitute(values)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on stderr."""
    options, extra = _parse(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: run(options, extra))


def run(options: argparse.Namespace, extra: list[str]) -> None:
    """Print the job, or start it."""
    job = describe(options, extra)
    path, text, commands = {"tpu": tpu, "gke": gke, "slurm": slurm}[options.where](options, job)
    if options.dry_run:
        print(f"# file {path}\n{text}")
        print("\n".join(f"$ {shlex.join(command)}" for command in commands))
        return
    write_text(path, text)
    if options.where == "tpu":
        keep(*commands)
    else:
        for command in commands:
            call(command)


def describe(options: argparse.Namespace, extra: list[str]) -> dict:
    """What all kinds of jobs have in common: {"name", "workdir", "command", "target"}.

    Raises:
      LaunchError, PlanError: an experiment, a target or a name that does not exist.
    """
    try:
        target = chips.parse(options.target)
    except chips.PlanError as error:
        raise LaunchError(str(error).replace("config.plan.target", "--target")) from error
    if (options.where == "slurm") != (target.chip.axes == 0):
        raise LaunchError(f"--target={options.target}: {options.where} jobs are for {_kinds(options.where)}")
    path, _, size = options.config.partition(":")
    if not (ROOT / path).is_file():
        raise LaunchError(f"--config={options.config}: no file {path} in {ROOT}")
    config = runpy.run_path(str(ROOT / path))["get_config"](*[size] * bool(size))
    name = options.name or config.name.replace("_", "-")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,36}[a-z0-9])?", name):
        raise LaunchError(f"--name={name}: use at most 38 lower-case letters, digits and dashes, a letter first")
    repository = str(ROOT) if options.where == "slurm" else IN_IMAGE
    python = f"{ROOT}/.venv/bin/python" if options.where == "slurm" else "python"
    workdir = f"runs/{config.name}"
    command = [python, "-m", "imagen_jax.main", f"--config={repository}/{options.config}", f"--workdir={workdir}"]
    return {
        "name": name,
        "workdir": workdir,
        "command": [*command, "--config.hosts.coordinator=auto", *extra],
        "target": target,
    }


def _kinds(where: str) -> str:
    fitting = [kind for kind, chip in chips.CHIPS.items() if (chip.axes == 0) == (where == "slurm")]
    return f"{', '.join(fitting)}, such as {'h200:8' if where == 'slurm' else 'v5e:8x8'}"


def tpu(options: argparse.Namespace, job: dict) -> tuple[Path, str, list[list[str]]]:
    """The start-up script, and the commands that create, look at, ask and delete the queued resource.

    Flags: `gcloud compute tpus queued-resources create` of the Google Cloud CLI reference.
    """
    kind, _, shape = options.target.partition(":")
    version, runtime, _ = TPUS[kind]
    slice_ = [f"--accelerator-type={version}-{job['target'].chips}"]
    if job["target"].chip.axes == 3:  # there a number of chips has several shapes
        slice_ = [f"--type={version}", f"--topology={shape}"]
    path = ROOT / job["workdir"] / "launch" / "startup.sh"
    text = render(
        "tpu.sh",
        name=job["name"],
        workdir=job["workdir"],
        command=shlex.join(job["command"]),
        storage=shlex.quote(options.storage),
        image=shlex.quote(options.image),
        registry=shlex.quote(options.image.partition("/")[0]),
        restarts=options.restarts,
    )
    resource, zone = ["gcloud", "compute", "tpus", "queued-resources"], f"--zone={options.zone}"
    create = [*resource, "create", job["name"], f"--node-id={job['name']}", zone, *slice_]
    create += [f"--runtime-version={runtime}", f"--metadata-from-file=startup-script={path}"]
    look = [*resource, "describe", job["name"], zone, "--format=value(state.state)"]
    ask = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", job["name"], zone, "--worker=0"]
    ask += ["--command=cat /var/run/imagen_exit_code"]
    delete = [*resource, "delete", job["name"], zone, "--force", "--quiet"]
    return path, text, [create + ["--spot"] * options.spot, look, ask, delete]


def gke(options: argparse.Namespace, job: dict) -> tuple[Path, str, list[list[str]]]:
    """The JobSet and the command that applies it. Slices of more than 8 chips, and 3-D ones, have 4 a host."""
    kind, _, shape = options.target.partition(":")
    count = job["target"].chips
    a_host = count if job["target"].chip.axes == 2 and count <= 8 else 4
    nodes = {"cloud.google.com/gke-tpu-accelerator": TPUS[kind][2], "cloud.google.com/gke-tpu-topology": shape}
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    text = render(
        "jobset.yaml",
        name=job["name"],
        command=json.dumps(job["command"]),
        storage=json.dumps(options.storage),
        image=json.dumps(options.image),
        restarts=options.restarts,
        hosts=max(1, count // a_host),
        chips=a_host,
        nodes=json.dumps(nodes | ({spot["key"]: spot["value"]} if options.spot else {})),
        tolerations=json.dumps([spot] * options.spot),
    )
    path = ROOT / job["workdir"] / "launch" / "jobset.yaml"
    return path, text, [["kubectl", "apply", f"--filename={path}"]]


def slurm(options: argparse.Namespace, job: dict) -> tuple[Path, str, list[list[str]]]:
    """The batch script and the command that submits it. Options: Slurm's manual pages sbatch(1) and srun(1)."""
    text = render(
        "slurm.sh",
        name=job["name"],
        workdir=job["workdir"],
        command=shlex.join(job["command"]),
        storage=options.storage,
        nodes=options.nodes,
        gpus=job["target"].chips,
        cpus=options.cpus,
        time=options.time,
        restarts=options.restarts,
    )
    path = Path(options.storage) / job["workdir"] / "launch" / "job.sh"  # the log's folder must be there
    return path, text, [["sbatch", str(path)]]


def keep(create: list[str], look: list[str], ask: list[str], delete: list[str]) -> None:
    """Create the queued resource, and again when it is taken away, until training is over; then delete it.

    It takes up what it finds, so it can be ended and started again at any time; the training does not notice. A state
    that could not be asked for is asked for again, but for the first one.

    Raises:
      LaunchError: training ended with a fault, or a command failed.
    """
    seen = None
    while True:
        state = state_of(look)
        if state == UNKNOWN and seen is None:
            raise LaunchError(f"{shlex.join(look)} failed: see above; log in, or correct the project or zone")
        if state not in (seen, UNKNOWN):
            print(f"{time.strftime('%H:%M:%S')} {create[5]}: {state or 'not there'}", flush=True)
            seen = state
        if state in ("FAILED", "SUSPENDED"):
            call(delete)
        if state in ("", "FAILED", "SUSPENDED"):
            call(create)
        elif state == "ACTIVE" and (code := answer(ask)):
            call(delete)
            if code != "0":
                why = "see log.txt in its workdir; without one, the storage is not mounted or not writable"
                raise LaunchError(f"ended with exit code {code}: {why}")
            return
        time.sleep(POLL)


def state_of(look: list[str]) -> str:
    """The state of the queued resource, '' where there is none; UNKNOWN where the question failed, which is shown."""
    done = _run(look, subprocess.PIPE)
    if not done.returncode:
        return done.stdout.strip()
    if ABSENT in done.stderr:
        return ""
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return UNKNOWN


def call(command: list[str]) -> None:
    """Run a command and show what it prints.

    Raises:
      LaunchError: the tool is missing, or it failed.
    """
    done = _run(command, None)
    if done.returncode:
        raise LaunchError(f"{shlex.join(command)} ended with exit code {done.returncode}")
    print(done.stdout, end="", flush=True)


def answer(command: list[str]) -> str:
    """What a command printed; '' where it failed."""
    done = _run(command, subprocess.DEVNULL)
    return "" if done.returncode else done.stdout.strip()


def _run(command: list[str], stderr: int | None) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    except FileNotFoundError as error:
        raise LaunchError(f"{command[0]} is not installed here; --dry_run shows what it would be given") from error


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m cloud.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="where", required=True, metavar="tpu|gke|slurm")
    for where in ("tpu", "gke", "slurm"):
        kind = kinds.add_parser(where)
        kind.add_argument("--config", required=True, help="the experiment, e.g. experiments/stage2.py:paper")
        kind.add_argument("--target", required=True, help=f"as of --mode=plan: {_kinds(where)}")
        kind.add_argument("--name", help="of the job; by default the experiment's")
        kind.add_argument("--restarts", type=int, default=50, help="how often it is started again (%(default)s)")
        kind.add_argument("--dry_run", action="store_true", help="print what would run")
        if where == "slurm":
            kind.add_argument("--storage", default=str(ROOT), help="shared folder with data/ and runs/ (this checkout)")
            kind.add_argument("--nodes", type=int, default=1, help="machines with the GPUs of --target (%(default)s)")
            kind.add_argument("--cpus", type=int, default=8, help="CPU cores a GPU (%(default)s)")
            kind.add_argument("--time", required=True, help="limit of one stay in the queue's machines, HH:MM:SS")
        else:
            shared = "NFS export HOST:/PATH" if where == "tpu" else "persistent volume claim, ReadWriteMany,"
            kind.add_argument("--storage", required=True, help=f"{shared} with data/ and runs/")
            kind.add_argument("--image", required=True, help="container image of cloud/Dockerfile")
            kind.add_argument("--spot", action="store_true", help="cheaper, and taken away at times")
        if where == "tpu":
            kind.add_argument("--zone", required=True, help="of Google Cloud, e.g. us-west4-a")
    return parser.parse_args(arguments[:cut]), arguments[cut + 1 :]


if __name__ == "__main__":
    sys.exit(main())
