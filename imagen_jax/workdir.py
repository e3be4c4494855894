"""Small files of a workdir, each written whole or not at all."""

import json
import os
from pathlib import Path


def write_json(path: Path, value: dict) -> Path:
    """Write `value` as indented JSON; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)
    return path
