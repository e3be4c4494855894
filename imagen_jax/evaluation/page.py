"""The report as one self-contained page and as WebP grids: tables, curves, and cases that nobody selected beside the
best and the worst ones, each with its references, the arms and the real target.

The paper shows selected samples (figures 1, 4 to 8); here the failures stand beside the successes.
"""

import base64
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.images import encode_image
from data_pipelines.instruction import context_text
from data_pipelines.page import fill_page
from imagen_jax import grid
from imagen_jax.evaluation import curves, report
from imagen_jax.evaluation.arms import COPY, MODEL, REAL
from imagen_jax.evaluation.overall import share
from imagen_jax.evaluation.report import BEST_AND_WORST, OVERALL, Drawn, Table

FIRST, EXTREME = 6, 3  # cases shown: the first ones, and as many of the best and of the worst


def make_page(told: Mapping, drawn: Sequence[Drawn], charts: Iterable[curves.Chart]) -> str:
    """The page; `told` is the report."""
    tables = "".join(_table(table) for table in report.tables(told))
    lines = "".join(curves.draw(chart) for chart in charts)
    training = f'<h2>Training</h2><div class="pictures">{lines}</div>' if lines else ""
    cases = "".join(_suite(each) for each in drawn)
    return fill_page(report.title(told), report.facts(told), tables + training + cases, _STYLE + curves.STYLE)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
    rows = "".join(f"<tr>{''.join(_cells(table, row))}</tr>" for row in table.rows)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return f'<h2>{html.escape(table.title)}</h2>{note}<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _cells(table: Table, row: Sequence[str]) -> Iterator[str]:
    for i, cell in enumerate(row):
        kind = "" if i < table.names else ' class="number"'
        yield f"<td{kind}>{html.escape(cell)}</td>"


def choose(drawn: Drawn) -> dict[str, list[int]]:
    """Which cases to show: the first ones; then the best and the worst, best first.

    They go by their overall score, then by how much of it they reach: many miss one condition, and so have 0.
    """
    scores = drawn.scores[MODEL]
    ranks = (share(scores, drawn.cases), scores[OVERALL])  # the last one first
    order = np.lexsort([-np.nan_to_num(rank, nan=-1.0) for rank in ranks]).tolist()
    few = min(EXTREME, len(order) // 2)
    return {"not selected": list(range(min(FIRST, len(order)))), "best": order[:few], "worst": order[-few:]}


def _suite(drawn: Drawn) -> str:
    """The cases that nobody selected, then the best beside the worst."""
    columns = {
        name: "".join([f"<div><h3>{drawn.suite}, {name}</h3>", *(_case(drawn, i) for i in chosen), "</div>"])
        for name, chosen in choose(drawn).items()
    }
    first = columns.pop("not selected")
    return f'<h2>{drawn.suite}</h2>{first}<div class="beside">{"".join(columns.values())}</div>'


def _case(drawn: Drawn, i: int) -> str:
    """A card: what was asked, what was shown, and what each arm drew."""
    case, known = drawn.cases[i], drawn.scores[MODEL]
    scores = ", ".join(f"{name} {values[i]:.3g}" for name, values in known.items() if np.isfinite(values[i]))
    head = f"<header><b>case {case.index}</b> <small>{html.escape(scores)}</small></header>"
    figures = "".join(_figure(image, caption) for caption, image in _pictures(drawn, i))
    text = html.escape(case.example.instruction.text)
    return f'<article>{head}<p class="text">{text}</p><div class="pictures">{figures}</div></article>'


def _pictures(drawn: Drawn, i: int) -> Iterator[tuple[str, np.ndarray]]:
    for reference in drawn.cases[i].example.instruction.references:
        yield context_text(reference), reference.image
    yield "model", drawn.pictures[MODEL][i]
    for arm in _other_arms(drawn):
        yield report.arm_name(arm), drawn.pictures[arm][i]
    yield "real target", drawn.pictures[REAL][i]


def _other_arms(drawn: Drawn) -> list[str]:
    """What the model drew besides; the copy is among the references already."""
    return [arm for arm in drawn.pictures if arm not in (MODEL, COPY, REAL)]


def _figure(image: np.ndarray, caption: str) -> str:
    data = base64.b64encode(encode_image(image, "png")).decode()
    caption = html.escape(caption)
    return (
        f'<figure class="small"><img class="sharp" src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def save_grids(drawn: Sequence[Drawn], folder: Path) -> None:
    """SUITE.webp, its first cases, and SUITE_best_and_worst.webp."""
    for each in drawn:
        chosen = choose(each)
        pages = {"": chosen["not selected"], BEST_AND_WORST: [*chosen["best"], *chosen["worst"]]}
        for name, cases in pages.items():
            if cases:
                picture = grid.draw([_row(each, i) for i in cases], f"{each.suite}{name.replace('_', ' ')}")
                grid.save(picture, folder / f"{each.suite}{name}.webp", "WEBP", quality=80)


def _row(drawn: Drawn, i: int) -> grid.Row:
    case, overall = drawn.cases[i], drawn.scores[MODEL][OVERALL][i]
    instruction = case.example.instruction
    inputs = [(reference.text, reference.image) for reference in instruction.references]
    title = f"case {case.index}, overall {overall:.2f}" if np.isfinite(overall) else f"case {case.index}"
    others = [(report.arm_name(arm), drawn.pictures[arm][i]) for arm in _other_arms(drawn)]
    return grid.Row(title, instruction.text, inputs, drawn.pictures[MODEL][i], drawn.pictures[REAL][i], others)


_STYLE = """
body { max-width: 72rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1rem 0 .4rem; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
figure.small { width: 104px; } figure.small figcaption { font-size: .75rem; line-height: 1.25; }
"""
