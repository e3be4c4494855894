"""The memory of a traced program without compiling it: the most bytes alive at once, and what they are.

The model is that of a compiler that fuses well. Results of products, reductions, gathers and sums of two branches are
stored; other element-wise results are computed again wherever they are read, and so keep alive what they are computed
from. An operand of a product exists while the product runs. An array that is kept in shards (a parameter, its gradient)
is whole for as long as a product reads or writes it: that is the weight gathering of fully sharded training.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.extend import core

from imagen_jax.planning.flops import inner

# Element-wise and layout operations, which XLA fuses into what reads them.
FUSED = frozenset([
    "abs", "add", "add_any", "and", "broadcast_in_dim", "bitcast_convert_type", "ceil", "clamp",
    "convert_element_type", "copy", "cos", "div", "eq", "erf", "exp", "exp2", "expand_dims", "expm1", "floor", "ge",
    "gt", "integer_pow", "iota", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "not", "optimization_barrier", "or", "pad", "pow", "real", "rem", "reshape", "rev", "round", "rsqrt",
    "select_n", "sharding_constraint", "shift_left", "shift_right_logical", "sign", "sin", "slice", "split", "sqrt",
    "square", "squeeze", "stop_gradient", "sub", "tan", "tanh", "transpose", "xor",
])  # fmt: skip
CALLS = frozenset(["jit", "pjit", "remat2", "checkpoint", "closed_call", "custom_jvp_call", "custom_vjp_call"])
PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])
JOINS = frozenset(["add", "add_any"])

Stored = Callable[[Any], float]  # bytes that an array of this shape and dtype takes on a device between operations


class Node(NamedTuple):
    """An equation of the program once its calls are written out; values are numbers."""

    eqn: core.JaxprEqn
    reads: list[int]
    writes: list[int]


class Memory(NamedTuple):
    """What a program needs beside its arguments, in bytes a device."""

    peak: float
    largest: list[tuple[str, int, float]]  # 'bfloat16[8,64,64,512] conv_general_dilated', how many, bytes of all
    gathered: float  # of sharded arrays made whole for a product
    scattered: float  # of products that end up in shards
    traffic: float  # read and written by the operations that are not fused


def measure(jaxpr: core.Jaxpr, stored: Stored) -> Memory:
    """The memory of `jaxpr`, traced for the share of the batch that one device has."""
    program = _WrittenOut(jaxpr)
    sources, sizes = _sources(program, stored)
    born, dies = _lives(program, sources)
    alive, peak, at = 0.0, 0.0, 0
    for index, node in enumerate(program.nodes):
        alive += sum(sizes[value] for value in born[index])
        if (now := alive + _working_set(node, program, sources, stored)) > peak:
            peak, at = now, index
        alive -= sum(sizes[value] for value in dies[index])
    return Memory(peak, _alive_at(at, program, sizes, born, dies), *_moved(program, stored))


class _WrittenOut:
    """The equations of a jaxpr with its calls in place; loops and branches stay whole."""

    def __init__(self, jaxpr: core.Jaxpr):
        self.avals, self.nodes = [], []
        env = {var: self._new(var.aval) for var in (*jaxpr.invars, *jaxpr.constvars)}
        self.inputs = range(len(self.avals))
        self._write(jaxpr, env)
        self.outputs = [self._read(var, env) for var in jaxpr.outvars]

    def _new(self, aval) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def _read(self, var, env: dict) -> int:
        return self._new(var.aval) if isinstance(var, core.Literal) else env[var]

    def _write(self, jaxpr: core.Jaxpr, env: dict) -> None:
        for eqn in jaxpr.eqns:
            reads = [self._read(var, env) for var in eqn.invars]
            if eqn.primitive.name in CALLS:
                (body,) = inner(eqn)
                own = dict(zip(body.invars, reads, strict=True)) | {v: self._new(v.aval) for v in body.constvars}
                self._write(body, own)
                env.update(zip(eqn.outvars, (self._read(var, own) for var in body.outvars), strict=True))
            else:
                env.update((var, self._new(var.aval)) for var in eqn.outvars)
                self.nodes.append(Node(eqn, reads, [env[var] for var in eqn.outvars]))


def _sources(program: _WrittenOut, stored: Stored) -> tuple[list[frozenset], dict[int, float]]:
    """For each value the stored values that it is computed from (itself, when it is one), and the sizes of those."""
    sources, sizes = [frozenset()] * len(program.avals), {}
    for value in program.inputs:
        sources[value] = frozenset([value])
    for node in program.nodes:
        if node.eqn.primitive.name in FUSED and not _is_join(node, program, sources):
            read = frozenset().union(*(sources[value] for value in node.reads))
            for value in node.writes:
                sources[value] = read
        else:
            for value in node.writes:
                sources[value], sizes[value] = frozenset([value]), stored(program.avals[value])
    return sources, sizes


def _is_join(node: Node, program: _WrittenOut, sources: list[frozenset]) -> bool:
    """A sum of two arrays from different places, as a residual connection: cheaper to keep than both of them."""
    if node.eqn.primitive.name not in JOINS:
        return False
    a, b = node.reads
    whole = program.avals[a].shape == program.avals[b].shape
    return whole and bool(sources[a] - sources[b]) and bool(sources[b] - sources[a])


def _lives(program: _WrittenOut, sources: list[frozenset]) -> tuple[dict, dict]:
    """The stored values that come to life, and those that are read for the last time, at each node."""
    first, last = {}, {}
    for index, node in enumerate(program.nodes):
        made = [value for value in node.writes if value in sources[value]]
        first.update(dict.fromkeys(made, index))
        for value in made:
            last[value] = index
        if made:
            for value in node.reads:
                last.update(dict.fromkeys(sources[value], index))
    for value in program.outputs:
        last.update(dict.fromkeys(sources[value], len(program.nodes) - 1))
    born, dies = defaultdict(list), defaultdict(list)
    for value, index in first.items():
        born[index].append(value)
        dies[last[value]].append(value)
    return born, dies


def _working_set(node: Node, program: _WrittenOut, sources: list[frozenset], stored: Stored) -> float:
    """What exists only while a node runs: the operands of a product, whole weights, and the inside of a loop."""
    if node.eqn.primitive.name not in PRODUCTS:
        return max((measure(jaxpr, stored).peak for jaxpr in inner(node.eqn)), default=0.0)
    avals = program.avals
    operands = sum(_whole(avals[v]) - (stored(avals[v]) if v in sources[v] else 0.0) for v in node.reads)
    return operands + sum(_whole(avals[value]) - stored(avals[value]) for value in node.writes)


def _moved(program: _WrittenOut, stored: Stored) -> tuple[float, float, float]:
    gathered = scattered = traffic = 0.0
    for node in program.nodes:
        avals, times = program.avals, node.eqn.params.get("length", 1)
        for jaxpr in inner(node.eqn):
            body = measure(jaxpr, stored)
            gathered, scattered = gathered + times * body.gathered, scattered + times * body.scattered
            traffic += times * body.traffic
        if node.eqn.primitive.name in PRODUCTS:
            reads, writes = ([avals[value] for value in values] for values in (node.reads, node.writes))
            gathered += sum(_whole(aval) for aval in reads if stored(aval) < _whole(aval))
            scattered += sum(_whole(aval) for aval in writes if stored(aval) < _whole(aval))
            traffic += sum(_whole(aval) for aval in (*reads, *writes))
    return gathered, scattered, traffic


def _whole(aval) -> float:
    return float(aval.size * aval.dtype.itemsize)


def _alive_at(at: int, program: _WrittenOut, sizes: dict, born: dict, dies: dict) -> list[tuple[str, int, float]]:
    ends = {value: index for index, values in dies.items() for value in values}
    count, total = Counter(), Counter()
    for index in range(at + 1):
        for value in born[index]:
            if ends[value] >= at:
                kind = f"{program.avals[value].str_short()} {program.nodes[index].eqn.primitive.name}"
                count[kind] += 1
                total[kind] += sizes[value]
    return [(kind, count[kind], size) for kind, size in total.most_common(10)]
