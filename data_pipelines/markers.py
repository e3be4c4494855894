"""The rules of the markers `[ref#k]` in an instruction (paper section 3): well formed, and each with its picture."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator

from data_pipelines.images import ImageError
from data_pipelines.text import MARKER, MAX_MARKER

# Whatever a hurried hand may have meant as a marker: "[ref1]", "[Ref #2]", "[ref#3" and "ref#4" without brackets.
_MARKER_LIKE = re.compile(r"\[\s*ref(?![a-z])[^\[\]]*\]?|\bref\s*#\s*[0-9]+\]?", re.IGNORECASE)


class InstructionError(ValueError):
    """An instruction that cannot be followed: one line that says where, what is wrong, and the mend."""


@contextlib.contextmanager
def at(where: str | os.PathLike) -> Iterator[None]:
    """Puts the place before the message of an error raised inside."""
    try:
        yield
    except (InstructionError, ImageError) as error:
        raise InstructionError(f"{where}: {error}") from None


@functools.lru_cache(maxsize=1 << 14)
def check_markers(text: str, references: tuple[tuple[str, str], ...]) -> None:
    """`check` on words alone, each reference as (marker, text)."""
    if not text.strip():
        raise InstructionError("text: is empty; say what to draw")
    with at("text"):
        named = _markers(text)
    markers = [marker for marker, _ in references]
    for slot, (marker, phrase) in enumerate(references):
        with at(f"references[{slot}]"):
            _check_reference(marker, phrase, named)
        if marker in markers[:slot]:
            taken = f"{marker} is taken by references[{markers.index(marker)}]"
            raise InstructionError(f"references[{slot}].marker: {taken}; give each reference its own number")
    for marker in named:
        if marker not in markers:
            raise InstructionError(f"text: {marker} has no reference; add one, or take it out of the text")


def _check_reference(marker: str, phrase: str, named: list[str]) -> None:
    with at("marker"):
        if _markers(marker) != [marker]:
            raise InstructionError(f"{marker!r} is not a marker; write it like [ref#1]")
        if marker not in named:
            raise InstructionError(f"{marker} is not in the text; name it there, or remove the reference")
    with at("text"):
        if not phrase.replace(marker, "").strip():
            raise InstructionError("is empty; say in a few words what the picture shows")
        if others := set(_markers(phrase)) - {marker}:
            raise InstructionError(f"names {min(others)}, but its own marker is {marker}; keep only that one")


def _markers(text: str) -> list[str]:
    """The markers in `text`, in order. Raises InstructionError for one that is malformed or out of range."""
    likes = _MARKER_LIKE.findall(text)
    for like in likes:
        match = MARKER.fullmatch(like)
        if not match:
            raise InstructionError(f"{like[:20]!r} is not a marker; write it like [ref#1], numbers from 1 on")
        if int(match[1]) > MAX_MARKER:
            raise InstructionError(f"{like[:20]} is above the last marker, [ref#{MAX_MARKER}]; count from [ref#1] on")
    return likes
