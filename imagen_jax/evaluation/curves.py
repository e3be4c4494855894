"""The curves of a run, from its metrics.jsonl, as inline SVG: no script, and the page's own colours.

    python -m imagen_jax.evaluation.curves runs/NAME --output=NAME.svg

draws them as one picture.
"""

import argparse
import html
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import commands
from data_pipelines.page import LIGHT
from imagen_jax import release
from imagen_jax.metrics import METRICS
from imagen_jax.workdir import write_text

Points = Sequence[tuple[float, float]]  # (step, value)

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE, ROW = 440, 240, 44, 26, 8, 18  # SVG units
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
    if not (drawing := _drawing(chart)):
        return ""
    names = "".join(
        f'<span><svg width="22" height="8"><line class="{_look(i)}" x1="0" x2="22" y1="4" y2="4"/></svg>'
        f"{html.escape(name)}</span>"
        for i, name in enumerate(chart.lines)
    )
    title = html.escape(chart.title)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{drawing}</svg>'
    return f'<figure class="chart"><b>{title}</b>{svg}<figcaption>{names}</figcaption></figure>'


def picture(charts: Sequence[Chart]) -> str:
    """All charts side by side as one SVG of its own, on white, for Markdown; '' where none has a point."""
    drawings = [(chart, drawing) for chart in charts if (drawing := _drawing(chart))]
    if not drawings:
        return ""
    columns = [f'<g transform="translate({i * WIDTH} 0)">{_column(*each)}</g>' for i, each in enumerate(drawings)]
    width, height = WIDTH * len(drawings), ROW + HEIGHT + ROW * max(len(chart.lines) for chart, _ in drawings)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif"><style>{LIGHT}{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(columns)}</svg>\n'
    )


def _column(chart: Chart, drawing: str) -> str:
    """A chart under its title, and under it what its lines are."""
    title = f'<text x="{LEFT}" y="{ROW - 4}">{html.escape(chart.title)}</text>'
    parts = [title, f'<g transform="translate(0 {ROW})">{drawing}</g>']
    for i, name in enumerate(chart.lines):
        y = ROW + HEIGHT + ROW * i + ROW // 2
        key = f'<polyline class="{_look(i)}" points="{LEFT},{y - 4} {LEFT + 22},{y - 4}"/>'
        parts.append(f'{key}<text x="{LEFT + 28}" y="{y}">{html.escape(name)}</text>')
    return "".join(parts)


def _drawing(chart: Chart) -> str:
    """Rules, ticks and lines, in SVG. '' where no line has a point."""
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
        parts.append(f'<text x="{LEFT - 5}" y="{y(value) + 4}" text-anchor="end">{value:.3g}</text>')
    for step, anchor in ((0, "start"), (last / 2, "middle"), (last, "end")):
        parts.append(f'<text x="{x(step)}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step:,.0f}</text>')
    for i, line in enumerate(chart.lines.values()):
        path = " ".join(f"{x(step)},{y(value)}" for step, value in line)
        parts.append(f'<polyline class="{_look(i)}" points="{path}"/>')
        if len(line) == 1:  # a line of one point shows nothing
            parts.append(f'<circle class="{_look(i)}" cx="{x(line[0][0])}" cy="{y(line[0][1])}" r="3"/>')
    return "".join(parts)


def _look(line: int) -> str:
    return f"l{line % COLOURS + 1}{' dashed' if line >= COLOURS else ''}"


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range; its ends where these are too few to read it by."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 1 else [low, high]


STYLE = "\n".join(
    [
        ".chart { flex: 1 1 24rem; min-width: 0; } .chart > svg { width: 100%; height: auto; }",
        ".chart text { font-size: 11px; fill: var(--soft); } .chart .rule { stroke: var(--line); }",
        ".chart polyline, .chart circle, .chart figcaption line { fill: none; stroke-width: 1.6; }",
        ".dashed { stroke-dasharray: 5 3; }",
        ".chart figcaption span { display: inline-flex; align-items: center; gap: .3rem; margin-right: .9rem; }",
        *(f".l{i} {{ stroke: var(--m{i}); }}" for i in range(1, COLOURS + 1)),
    ]
)


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m imagen_jax.evaluation.curves",
        description="Draw the curves of a run as one SVG picture.",
        allow_abbrev=False,
    )
    parser.add_argument("run", help="a workdir, or a release ('released': that of the package)")
    parser.add_argument("--output", type=Path, required=True, help="the .svg file")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        path = release.locate(chosen.run) / METRICS
        if not (drawn := picture(read_curves(path))):
            raise ValueError(f"{path}: there are no losses to draw; name a run that was trained")
        print(f"written: {write_text(chosen.output, drawn)}")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
