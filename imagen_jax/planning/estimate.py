"""The plan without a compiler, in seconds: memory, work, time and cost of a program on a target, from its trace.

The program is traced as one device sees it: with that device's share of the batch, and with every array of the shape of
a parameter (gradients, moments) in the shards of that parameter.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from imagen_jax import partition
from imagen_jax.planning import programs
from imagen_jax.planning.chips import GIB, Chip, PlanError, Target
from imagen_jax.planning.flops import flops
from imagen_jax.planning.liveness import measure
from imagen_jax.planning.programs import Program
from imagen_jax.train_check import check_batch

# The compiler's temporaries over those of a program that is fused and scheduled as well as can be: tile padding,
# gathered weights ahead of their use, gradients before they are scattered. Fitted to two programs compiled for v5e.
COMPILER = 1.8


def abstract_mesh(config: ConfigDict, target: Target) -> AbstractMesh:
    """The mesh that config.mesh makes of the target's devices, without the devices."""
    sizes = partition.axis_sizes(config.mesh, target.devices)
    return AbstractMesh(sizes, partition.AXES, axis_types=(AxisType.Auto,) * len(sizes))


def estimate_training(config: ConfigDict, target: Target) -> dict:
    """One step of training: the memory of a device, the work of all, the time, and what the whole run costs."""
    mesh = abstract_mesh(config, target)
    ways, size = partition.batch_ways(mesh), config.train.batch_size
    check_batch(config.train, ways)
    one = config.copy_and_resolve_references()
    one.train.batch_size = size // ways
    program = programs.train_program(one, mesh)
    state, frozen, _ = program.arguments
    kept = {"parameters": state.params, "ema": state.ema, "optimizer": state.opt_state, "text encoder": frozen}
    report = _report(program, (state, frozen), target, ways, config.plan.utilization)
    report["gib"] = {name: _gib(tree) for name, tree in kept.items()} | report["gib"]
    return _total(report, target) | _cost(report, size, config.train.steps, target)


def estimate_sampling(config: ConfigDict, target: Target) -> dict:
    """The sampler of one model of the cascade, all its steps."""
    mesh = abstract_mesh(config, target)
    ways = partition.batch_ways(mesh)
    size = config.plan.pictures or ways
    if size % ways:
        raise PlanError(f"config.plan.pictures={size} does not divide over data*fsdp = {ways} devices")
    program = programs.sample_program(config, mesh, size // ways)
    params = program.arguments[0]
    report = _report(program, params, target, ways, config.plan.utilization)
    report["gib"] = {"parameters": _gib(params["unet"]), "text encoder": _gib(params["text_encoder"])} | report["gib"]
    seconds = report["seconds"]["expected"]
    return _total(report, target) | {"pictures": size, "pictures a second": size / seconds}


def _report(program: Program, weights: Any, target: Target, ways: int, utilization: float) -> dict:
    jaxpr = program.function.trace(*program.arguments).jaxpr.jaxpr
    shares = _shares(weights, program.scanned)

    def stored(aval) -> float:
        whole = aval.size * aval.dtype.itemsize
        return whole * shares.get(aval.shape, 1.0) if aval.ndim > 1 else whole

    memory, work = measure(jaxpr, stored), flops(jaxpr) * ways
    moved = memory.gathered + memory.scattered
    return {
        "gib": {"activations": COMPILER * memory.peak / GIB},
        "largest": [{"array": kind, "count": n, "gib": size / GIB} for kind, n, size in memory.largest],
        "tflop": work / 1e12,
        "tflop an example": work / 1e12 / (program.examples * ways),
        "moved gib": {"gathered": memory.gathered / GIB, "scattered": memory.scattered / GIB},
        "seconds": _roofline(work / target.chips, memory.traffic, moved, target.chip, utilization),
    }


def _shares(weights: Any, scanned: int) -> Mapping[tuple, float]:
    """The shape of each parameter -> the part of it that a device holds; also of the forms that loops give it."""
    leaves = [leaf for leaf in jax.tree.leaves(weights) if leaf.size]
    shares = [(x.shape, math.prod(x.sharding.shard_shape(x.shape)) / x.size) for x in reversed(leaves)]
    loops = {form: share for shape, share in shares for form in programs.in_loops(shape, scanned)}
    return loops | dict(shares)


def _roofline(work: float, traffic: float, moved: float, chip: Chip, utilization: float) -> dict:
    """Seconds of a call if only arithmetic, memory or links counted; their largest is the floor.

    work is a chip's, traffic and moved are a device's.
    """
    parts = {
        "arithmetic": work / chip.flops,
        "memory": traffic * chip.devices / chip.hbm_bandwidth,
        "links": moved / chip.link_bandwidth,  # the devices of a chip share what it receives
    }
    floor = max(parts.values())
    return parts | {"floor": floor, "expected": max(floor, parts["arithmetic"] / utilization)}


def _cost(report: dict, size: int, steps: int, target: Target) -> dict:
    seconds = report["seconds"]["expected"]
    hours = steps * seconds / 3600
    return {"examples a second": size / seconds, "steps": steps, "hours": hours, "chip-hours": hours * target.chips}


def _total(report: dict, target: Target) -> dict:
    total = sum(report["gib"].values())
    return report | {"gib a device": total, "usable gib": target.chip.usable, "fits": total <= target.chip.usable}


def _gib(tree: Any) -> float:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves) / GIB
