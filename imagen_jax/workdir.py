"""Small files of a workdir, each written whole or not at all, by the first of the run's processes alone."""

import json
import os
from pathlib import Path

from imagen_jax import hosts


def write_json(path: Path, value: dict) -> Path:
    """Write `value` as indented JSON; returns the path."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write `text` in UTF-8; returns the path."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data`; returns the path."""
    if not hosts.is_first():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return path
