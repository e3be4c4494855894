"""The notebook runs from top to bottom, and its pictures are those that it speaks of."""

import json
import os
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parent.parent / "colabs/instruct_imagen.ipynb"
# What is asked of the names that its cells leave.
LOOK = """
import json
one, two, three = np.stack(drawn).astype(float)
print(json.dumps({
    "tasks": [row.task for row in rows],
    "lines": lines.shape,
    "least difference": min(np.abs(one - two).mean(), np.abs(one - three).mean()),
    "told": told,
}))
"""


def source() -> str:
    """All code of the notebook but the cell that installs."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(c["source"]) for c in cells if "install" not in c["metadata"].get("tags", ()))


def test_the_notebook_runs(tmp_path):
    """In a process of its own: with the tests' eight devices it takes three times as long."""
    path = tmp_path / "notebook.py"
    path.write_text(source() + LOOK)
    environment = {**os.environ, "PYTHONPATH": str(NOTEBOOK.parent.parent), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"text_to_image", "line", "style_transfer"} <= set(found["tasks"])
    assert found["lines"] == [2, 64, 64, 3]
    assert found["least difference"] > 5, "another reference, and nearly the same picture"
    assert found["told"] == "instruction: text: [ref#2] has no reference; add one, or take it out of the text"
