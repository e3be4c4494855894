"""The curves of a run, from its metrics.jsonl, as inline SVG: no script, and the page's own colours."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Points = Sequence[tuple[float, float]]  # (step, value)

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 440, 240, 44, 26, 8  # SVG units
MOST_POINTS = 200  # of a line; longer ones are averaged
COLOURS = 6  # --m1 ... --m6 of the page's style; further lines are dashed


class Chart(NamedTuple):
    """Lines over the training step, on a logarithmic scale."""

    title: str
    lines: Mapping[str, Points]


def read_curves(path: Path) -> list[Chart]:
    """The charts of a metrics.jsonl; [] where there is none, and no chart without lines."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = sorted({name for row in rows for name in row})
    chosen = {
        "training loss, by log-SNR": [name for name in names if name == "loss" or name.startswith("loss/logsnr_")],
        "training loss, by task": [name for name in names if name.startswith("loss/task_")],
        "held-out loss, log-SNR < 0": [name for name in names if name.startswith("held_out/")],
    }
    return [
        Chart(title, {name.rpartition("/")[2]: _points(rows, name) for name in chosen[title]})
        for title in chosen
        if chosen[title]
    ]


def _points(rows: Sequence[Mapping], name: str) -> Points:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None and row[name] > 0]
    width = -(-len(points) // MOST_POINTS)
    parts = [points[i : i + width] for i in range(0, len(points), max(1, width))]
    return [tuple(sum(values) / len(part) for values in zip(*part, strict=True)) for part in parts]


def draw(chart: Chart) -> str:
    """The chart as an HTML figure; its text is escaped. '' where no line has a point."""
    points = [point for line in chart.lines.values() for point in line]
    if not points:
        return ""
    last, low, high = max(s for s, _ in points), min(v for _, v in points), max(v for _, v in points) * 1.0001

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - EDGE) * step / last, 1)

    def y(value: float) -> float:
        return round(EDGE + (HEIGHT - BOTTOM - EDGE) * math.log(high / value) / math.log(high / low), 1)

    parts = []
    for value in _ticks(low, high):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>')
    for step, anchor in ((0, "start"), (last / 2, "middle"), (last, "end")):
        parts.append(f'<text x="{x(step)}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step:,.0f}</text>')
    for i, line in enumerate(chart.lines.values()):
        path = " ".join(f"{x(step)},{y(value)}" for step, value in line)
        parts.append(f'<polyline class="{_look(i)}" points="{path}"/>')
    return _figure(chart, "".join(parts))


def _figure(chart: Chart, drawing: str) -> str:
    names = "".join(
        f'<span><svg width="22" height="8"><line class="{_look(i)}" x1="0" x2="22" y1="4" y2="4"/></svg>'
        f"{html.escape(name)}</span>"
        for i, name in enumerate(chart.lines)
    )
    title = html.escape(chart.title)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{drawing}</svg>'
    return f'<figure class="chart"><b>{title}</b>{svg}<figcaption>{names}</figcaption></figure>'


def _look(line: int) -> str:
    return f"l{line % COLOURS + 1}{' dashed' if line >= COLOURS else ''}"


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


STYLE = "\n".join(
    [
        ".chart { flex: 1 1 24rem; min-width: 0; } .chart > svg { width: 100%; height: auto; }",
        ".chart text { font-size: 11px; fill: var(--soft); } .chart .rule { stroke: var(--line); }",
        ".chart polyline, .chart figcaption line { fill: none; stroke-width: 1.6; } .dashed { stroke-dasharray: 5 3; }",
        ".chart figcaption span { display: inline-flex; align-items: center; gap: .3rem; margin-right: .9rem; }",
        *(f".l{i} {{ stroke: var(--m{i}); }}" for i in range(1, COLOURS + 1)),
    ]
)
