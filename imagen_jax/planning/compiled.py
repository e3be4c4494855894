"""The plan with the target's own compiler: the real program, compiled ahead of time on a CPU, and its own figures.

JAX's ahead-of-time compilation takes a description of the devices in place of devices. The compiler comes with libtpu
(`pip install -e '.[plan]'`); it runs at its lowest effort, whose memory is an upper bound, so that a fit is safe.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imagen_jax import partition
from imagen_jax.planning import hlo, programs
from imagen_jax.planning.chips import GIB, PlanError, Target
from imagen_jax.planning.programs import Program

# libtpu is told that it runs on no machine of Google's: it would look for one, and wait.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-256",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
LARGE = 2**16  # parameters: a smaller array is no weight that would be missed


def compile_training(config: ConfigDict, target: Target) -> dict:
    """What the compiler says of one training step."""
    return _compile(target, config, lambda mesh: programs.train_program(config, mesh))


def compile_sampling(config: ConfigDict, target: Target) -> dict:
    """What the compiler says of the sampler, all its steps."""

    def program(mesh: Mesh) -> Program:
        return programs.sample_program(config, mesh, config.plan.pictures or partition.batch_ways(mesh))

    return _compile(target, config, program)


def _compile(target: Target, config: ConfigDict, make: Callable[[Mesh], Program]) -> dict:
    program = make(partition.make_mesh(config.mesh, devices(target)))
    clocks = [_clock()]
    lowered = program.function.trace(*program.arguments).lower(lowering_platforms=("tpu",))
    clocks.append(_clock())
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return _refused(error, target) | {"seconds": _seconds(clocks)}
    clocks.append(_clock())
    told = collectives(compiled.as_text(), config, program.scanned)
    return _memory(compiled, target) | told | {"seconds": _seconds(clocks)}


def devices(target: Target) -> Any:
    """The devices of a target, of which only the description exists.

    Raises:
      PlanError: its compiler is not installed, or it does not know the target.
    """
    if not target.chip.axes:
        raise PlanError(f"config.plan.compile=True is for TPU slices; {target.name} has the estimate only")
    os.environ |= LIBTPU
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_optimization_level", "O0")  # one block took 3.5 s, against 52 s at full effort
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=target.name).devices
    except Exception as error:  # JAX raises bare RuntimeErrors here
        if "libtpu" in str(error).lower() or not _has_libtpu():
            raise PlanError("config.plan.compile=True needs the TPU compiler: pip install -e '.[plan]'") from error
        raise PlanError(f"config.plan.target={target.name!r}: {error}") from error


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def versions() -> dict[str, str]:
    """What compiled: its figures are those of these releases."""
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}


def _memory(compiled, target: Target) -> dict:
    m = compiled.memory_analysis()
    parts = {
        "arguments": m.argument_size_in_bytes,
        "results beside them": m.output_size_in_bytes - m.alias_size_in_bytes,
        "temporaries": m.temp_size_in_bytes,
        "code": m.generated_code_size_in_bytes,
    }
    total = sum(parts.values()) / GIB
    gib = {name: size / GIB for name, size in parts.items()}
    return {"gib": gib, "gib a device": total, "usable gib": target.chip.usable, "fits": total <= target.chip.usable}


def collectives(text: str, config: ConfigDict, scanned: int) -> dict:
    """What the devices of a compiled program send each other; `scanned` as in Program."""
    found = hlo.collectives(text)
    params = [leaf for leaf in jax.tree.leaves(programs.parameters(config)) if leaf.size > LARGE]
    forms = {form for leaf in params for form in (leaf.shape, *programs.in_loops(leaf.shape, scanned))}
    forms = {form for form in forms if math.prod(form) > LARGE}
    slow = hlo.gathers_of(found, "f32", forms) if config.model.dtype != "float32" else []
    sent = sum(c.bytes for c in found)
    twice = sent + sum(c.bytes for c in found if c.kind == "all-reduce")
    size = sum(2 * leaf.size for leaf in params)
    return {
        "collectives": hlo.summary(found),
        "collective gib": sent / GIB,
        "collectives over parameters": sent / size,  # in bfloat16, the text encoder among them
        "with all-reduces twice": twice / size,
        "float32 weight gathers": len(slow),
    }


def _refused(error: Exception, target: Target) -> dict:
    """A program that does not fit: how much it wanted, from the compiler's own message."""
    # Of the whole program, or of its temporaries alone where they are too large already.
    used = re.search(r"(?:Used |required for HLO temporaries \()([\d.]+)([MGT])\b", str(error))
    if not used:
        raise PlanError(f"{target.name}: the compiler refused: {str(error).splitlines()[0]}") from error
    gib = float(used[1]) * {"M": 2**-10, "G": 1.0, "T": 2**10}[used[2]]
    return {"gib a device": gib, "usable gib": target.chip.usable, "fits": False}


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _seconds(clocks: list[tuple[float, float]]) -> dict:
    """Wall clock, and processor time, which a busy machine does not lengthen, of tracing and of compiling."""
    names = ("trace", "compile")
    return {
        name: {"wall": after[0] - before[0], "processor": after[1] - before[1]}
        for name, before, after in zip(names, clocks, clocks[1:], strict=False)
    }
