"""Instructions of one's own: lines of training JSONL, pictures beside the file (data_pipelines/instruction.py).

Each line words its instruction itself, so no phrasing is chosen. Lines of one "group" lie in one split; without it, the
lines that share a target picture do. So a subject in several pictures wants its name as group (paper, section 3.2).
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.instruction import InstructionError, Line, read_words
from data_pipelines.sources.item import About, Item, Skip, SourceError

HELP = "instructions of your own, lines of training JSONL"
ABOUT = About("instructions of your own", "yours to state", "yours", "yours")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare instructions`."""
    parser.add_argument("--input", required=True, help="the .jsonl file; its pictures' paths are relative to it")


def items(arguments: argparse.Namespace) -> Iterator[Item | Skip]:
    """An item a line; a line that is no instruction is skipped, and named by what is wrong with it.

    Raises SourceError where the file cannot be read.
    """
    path = Path(arguments.input)
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _item(line, path, number)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "not UTF-8")
        raise SourceError(f"{path}: cannot be read ({why}): give a .jsonl file in UTF-8") from None


def _item(line: str, path: Path, number: int) -> Item | Skip:
    try:
        words = read_words(line, path, number)
        references = _in_order(words, f"{path}:{number}")
    except InstructionError as error:
        return Skip(str(error), "no instruction (--strict names the first)")
    target = Path(os.path.relpath(words.target, path.parent)).as_posix()  # however --input is spelled
    group = words.group or target
    key = f"{path.name}:{number}"
    return Item(key, words.task, words.target, text=words.text, references=references, group=group, split=words.split)


def _in_order(words: Line, where: str) -> list[tuple[str, Path]]:
    """(text, picture) of [ref#1], [ref#2] and so on."""
    of_marker = {marker: (text, picture) for marker, text, picture in words.references}
    markers = [f"[ref#{k}]" for k in range(1, len(of_marker) + 1)]
    if missing := [marker for marker in markers if marker not in of_marker]:
        raise InstructionError(f"{where}: references: there is no {missing[0]}; number them from [ref#1] on")
    return [of_marker[marker] for marker in markers]
