"""--mode=plan: what a config would build, whether it fits the machines of config.plan.target, and what it would cost.

Two depths: an estimate from the traced program (seconds, no extra packages), and, with config.plan.compile, the word of
the target's own compiler. Neither needs an accelerator nor allocates a parameter.
"""

from pathlib import Path

from ml_collections import ConfigDict

from imagen_jax.planning import chips, compiled, estimate, parameters, tables, verdict
from imagen_jax.workdir import write_json


def plan(config: ConfigDict, workdir: Path, command: str = "") -> dict:
    """Print the plan and write workdir/plan.json, which tells the `command` too.

    Returns:
      {"command", "config", "parameters": see parameters.count_parameters} and, with a target, {"target", "training",
      "sampling", "fits", "verdict"}; the two programs hold {"estimate"} and, with config.plan.compile, {"compiled"}
      beside which "compiler" tells its version.

    Raises:
      PlanError, PartitionError: a target or a mesh that cannot be planned for, in one line.
    """
    target = chips.parse(config.plan.target) if config.plan.target else None  # first: the cheapest thing to be wrong
    if target and config.plan.compile:
        compiled.devices(target)
    report = {"command": command, "config": config.name, "parameters": parameters.count_parameters(config)}
    print(parameters.table(parameters.leaf_sizes(config)))
    print(tables.counts(report["parameters"]))
    if target:
        report |= _for_target(config, target)
        print(tables.told(report))
    print(f"written: {write_json(workdir / 'plan.json', report)}")
    return report


def _for_target(config: ConfigDict, target: chips.Target) -> dict:
    programs = {
        "training": (estimate.estimate_training, compiled.compile_training),
        "sampling": (estimate.estimate_sampling, compiled.compile_sampling),
    }
    report = {"target": target.name, "devices": target.devices, "batch": config.train.batch_size}
    for name, (roughly, exactly) in programs.items():
        report[name] = {"estimate": roughly(config, target)}
        if config.plan.compile:
            print(f"compiling {name} for {target.name} ...", flush=True)
            report[name]["compiled"] = exactly(config, target)
            report["compiler"] = compiled.versions()
    return report | _verdict(config, target, report)


def _verdict(config: ConfigDict, target: chips.Target, report: dict) -> dict:
    """The compiler's word where there is one, else the estimate's."""
    says = {name: report[name].get("compiled", report[name]["estimate"]) for name in ("training", "sampling")}
    lines = [f"{name}: {_fit(found)}" for name, found in says.items()]
    if not says["training"]["fits"]:
        # What the compiler adds to the estimate, it will also add to the mended one.
        over = says["training"]["gib a device"] / report["training"]["estimate"]["gib a device"]
        wanted = target.chip.usable / max(over, 1.0)
        lines.append(verdict.mend(config, target, estimate.estimate_training, wanted))
    if not says["sampling"]["fits"]:
        lines.append("sampling: lower --config.plan.pictures, or take chips with more memory")
    return {"fits": all(found["fits"] for found in says.values()), "verdict": lines}


def _fit(found: dict) -> str:
    room = f"{found['gib a device']:.2f} of {found['usable gib']:.2f} GiB a device"
    return f"{'fits' if found['fits'] else 'DOES NOT FIT'}, {room}"
