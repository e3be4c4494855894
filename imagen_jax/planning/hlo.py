"""Reading a compiled program's text: what its devices send each other, by kind and dtype.

Bytes are those of the array that is gathered, reduced, scattered or permuted, whole: what a device receives of it, but
for an all-reduce, which costs twice that on a ring. A loop's body counts as often as it runs, a branch as the mean of
its sides. The form of the text is that of XLA's own printer; `all-reduce-scatter` is the TPU's reduce-scatter.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_OPERATION = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) (?P<op>" + "|".join(KINDS) + r")(?P<start>-start)?\((?P<rest>.*)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")


class Collective(NamedTuple):
    """One operation, as often as the program runs it."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: float


def collectives(text: str) -> list[Collective]:
    """All operations between devices that a run of the program makes."""
    bodies, entry = _computations(text)
    times = _times(bodies, entry)
    return [
        found._replace(bytes=found.bytes * times[name])
        for name, lines in bodies.items()
        if times[name]
        for line in lines
        for found in _collectives_of(line, name)
    ]


def summary(found: Iterable[Collective]) -> dict[str, dict]:
    """{'all-gather bf16': {'count', 'gib'}, ...}, the largest first."""
    count, size = Counter(), Counter()
    for c in found:
        count[f"{c.kind} {c.dtype}"] += 1
        size[f"{c.kind} {c.dtype}"] += c.bytes
    return {name: {"count": count[name], "gib": total / 2**30} for name, total in size.most_common()}


def gathers_of(found: Iterable[Collective], dtype: str, shapes: Iterable[tuple[int, ...]]) -> list[Collective]:
    """The all-gathers of arrays with one of `shapes`, whatever the order of their axes; axes of size 1 do not count."""
    wanted = {_sides(shape) for shape in shapes}
    return [c for c in found if c.kind == "all-gather" and c.dtype == dtype and _sides(c.shape) in wanted]


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(side for side in shape if side > 1))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name of each computation -> its lines, and the name of the entry."""
    bodies, entry, name = {}, "", None
    for line in text.splitlines():
        if name is None and line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            name = head[2]
            entry, bodies[name] = (name if head[1] else entry), []
        elif line.startswith("}"):
            name = None
        elif name is not None:
            bodies[name].append(line)
    return bodies, entry


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, float]:
    """How often each computation runs when the entry runs once."""
    calls = {name: [call for line in lines for call in _calls(line, bodies)] for name, lines in bodies.items()}
    times = defaultdict(float)

    def run(name: str, count: float) -> None:
        times[name] += count
        for called, often in calls[name]:
            run(called, count * often)

    run(entry, 1.0)
    return times


def _calls(line: str, bodies: dict[str, list[str]]) -> list[tuple[str, float]]:
    if not _CALLED.search(line):
        return []
    branches = re.search(r"branch_computations=\{([^}]*)\}|true_computation=(\S+), false_computation=(\S+)", line)
    names = re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", line)
    trips = _trips(line, bodies) if " while(" in line else 1.0
    called = [(name, trips) for name in names]
    if branches:
        sides = re.findall(r"[\w.\-]+", " ".join(part for part in branches.groups() if part))
        called += [(side, 1.0 / len(sides)) for side in sides]
    return [(name, often) for name, often in called if name in bodies]


def _trips(line: str, bodies: dict[str, list[str]]) -> float:
    """How often a loop runs: as the line says, else the number that its condition compares the counter with."""
    if told := _TRIPS.search(line):
        return float(told[1])
    condition = bodies.get(re.search(r"condition=%?([\w.\-]+)", line)[1], [])
    bounds = [found[1] for text in condition if (found := re.search(r" s32\[\]\S* constant\((\d+)\)", text))]
    return float(bounds[0]) if len(bounds) == 1 else 1.0


def _collectives_of(line: str, computation: str) -> list[Collective]:
    match = _OPERATION.match(line)
    if not match:
        return []
    kind, arrays = match["op"], _ARRAY.findall(match["type"])
    if match["start"] and kind == "all-gather":
        arrays = arrays[len(arrays) // 2 :]  # operands, then results
    elif match["start"] and kind == "collective-permute":
        arrays = arrays[1:2]  # operand, result, and two counters
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    shapes = [(dtype, tuple(int(side) for side in sides.split(",") if side)) for dtype, sides in arrays]
    factor = _group_size(line) if match["op"] == "reduce-scatter" else 1  # its text shows the result, a part
    return [Collective(kind, dtype, shape, factor * _bytes(dtype, shape)) for dtype, shape in shapes]


def _group_size(line: str) -> int:
    """The number of devices that share one reduce-scatter: its operand is so much larger than its result."""
    if lists := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return lists[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    axes = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if not axes:
        return 1
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))


def _bytes(dtype: str, shape: tuple[int, ...]) -> float:
    bits = re.search(r"\d+", dtype)
    size = int(bits[0]) / 8 if bits else 1.0  # pred
    for side in shape:
        size *= side
    return size
