"""Scores as a table for people and as JSON for programs: the end of every benchmark of this package (paper section 4).

A row is a mapping from column to text, whole number or score; a column that a row lacks, or a score that is not a
number, is left blank in the table and null in the file.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagen_jax.workdir import write_json

Row = Mapping[str, str | int | float]


def format_table(rows: Sequence[Row]) -> str:
    """Aligned columns, in the order in which the rows first name them; scores with four digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    texts = [any(isinstance(row.get(name), str) for row in rows) for name in columns]

    def line(cell: str, width: int, is_text: bool) -> str:
        return cell.ljust(width) if is_text else cell.rjust(width)

    return "\n".join("  ".join(map(line, each, widths, texts)).rstrip() for each in cells)


def write_scores(path: Path, about: Mapping, rows: Sequence[Row]) -> None:
    """Print the rows as a table and write {**about, "rows": rows} to the JSON file, whole or not at all."""
    print(format_table(rows))
    write_json(path, {**about, "rows": [{name: _number(value) for name, value in row.items()} for row in rows]})
    print(f"wrote {path}")


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def _number(value: str | int | float) -> str | int | float | None:
    """JSON has no nan."""
    return None if isinstance(value, float) and math.isnan(value) else value
