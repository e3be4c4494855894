"""Multi-modal instructions: a text with `[ref#k]` markers and the pictures they name (paper section 3, figure 2).

    {"text": "Draw [ref#1] in the style of [ref#2].",
     "references": [{"marker": "[ref#1]", "text": "a fox", "image": "fox.png"},
                    {"marker": "[ref#2]", "text": "flat", "image": "style.png"}]}

Image paths are relative to the file. A line of training JSONL adds "target" (an image) and "task" (a name). Training
and sampling go through the same `pack`. `python -m data_pipelines.instruction FILE` checks a file.
"""

import dataclasses
import difflib
import functools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.images import ImageError, fit_image, read_image
from data_pipelines.text import MARKER, MAX_MARKER, Tokenizer
from imagen_jax.types import Context, Text

# Whatever a hurried hand may have meant as a marker: "[ref1]", "[Ref #2]", "[ref#3" and "ref#4" without brackets.
_MARKER_LIKE = re.compile(r"\[\s*ref(?![a-z])[^\[\]]*\]?|\bref\s*#\s*[0-9]+\]?", re.IGNORECASE)


class InstructionError(ValueError):
    """An instruction that cannot be followed: one line that says where, what is wrong, and the mend."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """One entry of the multi-modal context."""

    marker: str  # "[ref#1]"
    text: str  # "a fox"; may name the marker itself: "reference image [ref#1]"
    image: np.ndarray  # [h, w, 3] uint8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """The text and its references. The order of the references carries no meaning: markers do."""

    text: str
    references: tuple[Reference, ...] = ()
    source: str = dataclasses.field(default="instruction", compare=False)  # "file" or "file:line", for messages


@dataclasses.dataclass(frozen=True)
class Layout:
    """The fixed array sizes of packed instructions."""

    image_size: int  # S
    max_references: int  # K
    text_length: int  # L
    reference_text_length: int  # Lr


def check(instruction: Instruction) -> None:
    """Raises InstructionError unless every marker is well formed and the text and the references name the same ones."""
    problem = _marker_problem(instruction.text, tuple((r.marker, r.text) for r in instruction.references))
    if problem:
        raise InstructionError(f"{instruction.source}: {problem}")


def pack(instruction: Instruction, tokenizer: Tokenizer, layout: Layout) -> tuple[Text, Context]:
    """The model's input arrays for one instruction, the same in training and at sampling; numpy, without batch axis.

    Returns:
      Text of [L] and Context with images [K, S, S, 3], text [K, Lr], mask [K]. References fill the slots in list order;
      empty slots hold zeros. A reference's text is read with its marker before it, "[ref#1] a fox", unless it has it.
      Too long a text is cut, EOS kept, with a warning once; pictures are fitted as `images.fit_image` says.
    Raises:
      InstructionError: what `check` finds; more than K references; a picture that is not [h, w, 3] uint8; a cut that
        would lose a marker.
    """
    check(instruction)
    count, source = len(instruction.references), instruction.source
    if count > layout.max_references:
        raise InstructionError(
            f"{source}: references: {count} given, but the model has data.max_references={layout.max_references} slots;"
            " leave some out, or train with a larger data.max_references"
        )
    images = np.zeros((layout.max_references, layout.image_size, layout.image_size, 3), np.uint8)
    tokens = np.full((layout.max_references, layout.reference_text_length), tokenizer.pad_id, np.int32)
    token_mask = np.zeros(tokens.shape, bool)
    for slot, reference in enumerate(instruction.references):
        field = f"references[{slot}]"
        if reference.image.dtype != np.uint8 or reference.image.ndim != 3 or reference.image.shape[2] != 3:
            found = f"{reference.image.dtype} {list(reference.image.shape)}"
            raise InstructionError(f"{source}: {field}.image: is {found}; give [height, width, 3] uint8")
        images[slot] = fit_image(reference.image, layout.image_size)
        tokens[slot], token_mask[slot] = _pack_text(
            context_text(reference), tokenizer, layout.reference_text_length, source, field, "reference_text_length"
        )
    text = Text(*_pack_text(instruction.text, tokenizer, layout.text_length, source, "text", "text_length"))
    return text, Context(images=images, text=Text(tokens, token_mask), mask=np.arange(layout.max_references) < count)


def context_text(reference: Reference) -> str:
    """What the text encoder reads beside the picture: "[ref#1] a fox"."""
    return reference.text if reference.marker in reference.text else f"{reference.marker} {reference.text}"


def load_instruction(path: str | os.PathLike) -> Instruction:
    """Reads one instruction from a JSON file. Raises InstructionError, one line with the file and the field."""
    return _parse_instruction(_parse_json(_read_text(path), str(path)), Path(path).parent, str(path))


def load_jsonl(path: str | os.PathLike) -> Iterator[tuple[Instruction, np.ndarray, str]]:
    """Yields (instruction, target [h, w, 3] uint8, task) of each line of a training file; blank lines are skipped.

    Raises InstructionError, one line with file:line and the field.
    """
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        source, folder = f"{path}:{number}", Path(path).parent
        fields = _parse_json(line, str(path), number)
        instruction = _parse_instruction(fields, folder, source, extra=("target", "task"))
        target = _read_picture(folder, _string(fields, "target", source), f"{source}: target")
        yield instruction, target, _string(fields, "task", source)


def to_json(instruction: Instruction, images: list[str]) -> dict:
    """The JSON form, with the pictures' file names given; add "target" and "task" for a training line."""
    names = zip(instruction.references, images, strict=True)
    references = [{"marker": r.marker, "text": r.text, "image": image} for r, image in names]
    return {"text": instruction.text, "references": references}


@functools.lru_cache(maxsize=1 << 14)
def _marker_problem(text: str, references: tuple[tuple[str, str], ...]) -> str | None:
    """What is wrong with the markers, and the mend; None when nothing is. Each reference is (marker, text)."""
    if not text.strip():
        return "text: is empty; say what to draw"
    if bad := _malformed(text):
        return f"text: {bad}"
    named, markers = set(_markers(text)), [marker for marker, _ in references]
    for slot, (marker, phrase) in enumerate(references):
        field = f"references[{slot}]"
        if not MARKER.fullmatch(marker):
            return f"{field}.marker: {marker!r} is not a marker; write it like [ref#1]"
        if bad := _malformed(marker):
            return f"{field}.marker: {bad}"
        if marker in markers[:slot]:
            return f"{field}.marker: {marker} is taken by references[{markers.index(marker)}]; give each its own number"
        if marker not in named:
            return f"{field}.marker: {marker} is not in the text; name it there, or remove the reference"
        if not phrase.replace(marker, "").strip():
            return f"{field}.text: is empty; say in a few words what the picture shows"
        if bad := _malformed(phrase):
            return f"{field}.text: {bad}"
        if others := set(_markers(phrase)) - {marker}:
            return f"{field}.text: names {min(others)}, another marker than its own {marker}; remove it"
    if dangling := [marker for marker in _markers(text) if marker not in markers]:
        return f"text: {dangling[0]} has no reference; add one with that marker, or take it out of the text"
    return None


def _markers(text: str) -> list[str]:
    return [match.group() for match in MARKER.finditer(text)]


def _malformed(text: str) -> str | None:
    for like in _MARKER_LIKE.findall(text):
        match = MARKER.fullmatch(like)
        if not match:
            return f"{like[:20]!r} is not a marker; write it like [ref#1], with a number from 1 to {MAX_MARKER}"
        if int(match[1]) > MAX_MARKER:
            return f"{like[:20]} is above [ref#{MAX_MARKER}], the last marker with a token; number from [ref#1] on"
    return None


def _pack_text(
    text: str, tokenizer: Tokenizer, length: int, source: str, field: str, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [length] int32, mask [length] bool), cut to length if no marker is lost by it."""
    ids = tokenizer.encode(text)
    if len(ids) > length:
        kept, lost = ids[: length - 1], ids[length - 1 : -1]
        for marker in MARKER.finditer(text):
            if tokenizer.marker_id(int(marker[1])) in lost:
                raise InstructionError(
                    f"{source}: {field}: {len(ids)} tokens do not fit data.{key}={length}, and the cut would lose "
                    f"{marker.group()}; shorten the text, or move the marker to its beginning"
                )
        # The same words each time, so that Python shows the warning once.
        warnings.warn(f"texts of more than data.{key}={length} tokens are cut at the end", stacklevel=3)
        ids = [*kept, tokenizer.eos_id]
    tokens = np.full(length, tokenizer.pad_id, np.int32)
    tokens[: len(ids)] = ids
    return tokens, np.arange(length) < len(ids)


def _read_text(path: str | os.PathLike) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InstructionError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise InstructionError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except OSError as error:
        raise InstructionError(f"{path}: cannot be read ({error.strerror}); give a readable JSON file") from None


def _parse_json(text: str, path: str, line: int = 1) -> dict:
    """`line` is where `text` begins in its file."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}:{error.colno}"
        raise InstructionError(f"{where}: invalid JSON ({error.msg}); mend the file there") from None
    except (ValueError, RecursionError) as error:
        raise InstructionError(f"{path}:{line}: {error}") from None


def _unique_keys(pairs: list[tuple]) -> dict:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} is there twice in one object; keep one")
    return dict(pairs)


def _parse_instruction(fields: object, folder: Path, source: str, extra: tuple[str, ...] = ()) -> Instruction:
    _check_keys(fields, ("text", "references", *extra), source)
    items = fields.get("references", [])
    if not isinstance(items, list):
        raise InstructionError(f"{source}: references: must be a list of objects, not {_kind(items)}")
    for slot, item in enumerate(items):
        _check_keys(item, ("marker", "text", "image"), f"{source}: references[{slot}]")
    strings = [
        {key: _string(item, key, f"{source}: references[{slot}]") for key in ("marker", "text", "image")}
        for slot, item in enumerate(items)
    ]
    text = _string(fields, "text", source)
    if problem := _marker_problem(text, tuple((item["marker"], item["text"]) for item in strings)):
        raise InstructionError(f"{source}: {problem}")  # words first: they are cheaper than pictures
    references = [
        Reference(s["marker"], s["text"], _read_picture(folder, s["image"], f"{source}: references[{slot}].image"))
        for slot, s in enumerate(strings)
    ]
    return Instruction(text, tuple(references), source)


def _read_picture(folder: Path, name: str, where: str) -> np.ndarray:
    try:
        return read_image(folder / name)
    except ImageError as error:
        raise InstructionError(f"{where}: {folder / name}: {error}") from None


def _check_keys(fields: object, known: tuple[str, ...], where: str) -> None:
    if not isinstance(fields, dict):
        raise InstructionError(f"{where}: must be an object with the keys {', '.join(known)}, not {_kind(fields)}")
    for key in fields.keys() - set(known):
        close = difflib.get_close_matches(key, known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        raise InstructionError(f"{where}: unknown key {key!r}; {mend}")


def _string(fields: dict, key: str, where: str) -> str:
    if key not in fields:
        raise InstructionError(f"{where}: {key}: is missing; add it")
    if not isinstance(fields[key], str):
        raise InstructionError(f"{where}: {key}: must be a string, not {_kind(fields[key])}")
    return fields[key]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def main(path: str) -> str:
    """Checks a .json or .jsonl file and says so in one line."""
    if Path(path).suffix == ".jsonl":
        return f"{path}: OK, {sum(1 for _ in load_jsonl(path))} examples"
    return f"{path}: OK, {len(load_instruction(path).references)} references"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m data_pipelines.instruction FILE.json|FILE.jsonl")
    try:
        print(main(sys.argv[1]))
    except InstructionError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
