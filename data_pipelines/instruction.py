"""Multi-modal instructions: a text with `[ref#k]` markers and the pictures they name (paper section 3, figure 2).

    {"text": "Draw [ref#1] in the style of [ref#2].",
     "references": [{"marker": "[ref#1]", "text": "a fox", "image": "fox.png"},
                    {"marker": "[ref#2]", "text": "flat", "image": "style.png"}]}

Image paths are relative to the file. A line of training JSONL adds "target" (an image) and "task" (a name), and may
add "group" (lines of one group lie in one split) and "split"; `python -m data_pipelines.prepare instructions` makes it
a data set. Training and sampling go through the same `pack`. `python -m data_pipelines.instruction FILE` checks a file.
"""

import dataclasses
import difflib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipelines import features
from data_pipelines.images import fit_image, read_image
from data_pipelines.markers import InstructionError, at, check_markers
from data_pipelines.text import MARKER, Tokenizer
from imagen_jax.types import Context, Text

OPTIONAL = ("group", "split")  # keys of a line of training JSONL


@dataclasses.dataclass(frozen=True)
class Reference:
    """One entry of the multi-modal context."""

    marker: str  # "[ref#1]"
    text: str  # "a fox"; may name the marker itself: "reference image [ref#1]"
    image: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """The text and its references. The order of the references carries no meaning: markers do."""

    text: str
    references: tuple[Reference, ...] = ()
    source: str = dataclasses.field(default="instruction", compare=False)  # "file" or "file:line", for messages
    # [n, D] of the text, then of each reference's, where a text encoder has run already; or None.
    features: tuple[np.ndarray, ...] | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of training JSONL, checked, before its pictures are read."""

    text: str
    references: tuple[tuple[str, str, Path], ...]  # marker, text, picture
    target: Path
    task: str
    group: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The fixed array sizes of packed instructions."""

    image_size: int  # S
    max_references: int  # K
    text_length: int  # L
    reference_text_length: int  # Lr
    feature_width: int = 0  # D of text features that are read beside the tokens; 0: tokens alone


def layout_of(config) -> Layout:
    """The Layout of a whole experiment config: its model's picture size and its data's lengths."""
    data, encoder = config.data, config.text_encoder
    width = encoder.emb if encoder.get("precomputed", False) else 0
    return Layout(config.model.image_size, data.max_references, data.text_length, data.reference_text_length, width)


def check(instruction: Instruction) -> None:
    """Raises InstructionError unless every marker is well formed and the text and the references name the same ones."""
    with at(instruction.source):
        check_markers(instruction.text, tuple((r.marker, r.text) for r in instruction.references))


def pack(instruction: Instruction, tokenizer: Tokenizer, layout: Layout) -> tuple[Text, Context]:
    """The model's input arrays for one instruction, the same in training and at sampling; numpy, without batch axis.

    Returns:
      Text of [L] and Context with images [K, S, S, 3], text [K, Lr], mask [K]. References fill the slots in list order;
      empty slots hold zeros. A reference's text is read with its marker before it, "[ref#1] a fox", unless it has it.
      Too long a text is cut, EOS kept, with a warning once; pictures are fitted as `images.fit_image` says. The texts
      carry the instruction's features where it has some and layout.feature_width asks for them.
    Raises:
      InstructionError: what `check` finds; more than K references; a picture that is not [h, w, 3] uint8; a cut that
        would lose a marker. FeatureError: features that are not of these tokens.
    """
    check(instruction)
    with at(instruction.source):
        context = _pack_context(instruction.references, tokenizer, layout)
        with at("text"):
            text = Text(*_pack_text(instruction.text, tokenizer, layout.text_length, "text_length"))
    if layout.feature_width and instruction.features is not None:
        return features.pack(instruction.features, text, context, layout.feature_width)
    return text, context


def context_text(reference: Reference) -> str:
    """What the text encoder reads beside the picture: "[ref#1] a fox"."""
    return reference.text if reference.marker in reference.text else f"{reference.marker} {reference.text}"


def load_instruction(path: str | os.PathLike) -> Instruction:
    """Reads one instruction from a JSON file. Raises InstructionError, one line with the file and the field."""
    fields = _parse_json(_read_text(path), path)
    with at(path):
        text, references = _parse_instruction(fields, Path(path).parent)
        return Instruction(text, _open_references(references), source=str(path))


def load_jsonl(path: str | os.PathLike) -> Iterator[tuple[Instruction, np.ndarray, str]]:
    """Yields (instruction, target [h, w, 3] uint8, task) of each line of a training file; blank lines are skipped.

    Raises InstructionError, one line with file:line and the field.
    """
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            yield parse_line(line, path, number)


def parse_line(line: str, path: str | os.PathLike, number: int) -> tuple[Instruction, np.ndarray, str]:
    """Line `number`, from 1 on, of the training file `path`, as `load_jsonl` gives it and with its errors."""
    words, source = read_words(line, path, number), f"{path}:{number}"
    with at(source):
        references = _open_references(words.references)
        return Instruction(words.text, references, source), _open("target", words.target), words.task


def read_words(line: str, path: str | os.PathLike, number: int) -> Line:
    """As `parse_line`, but no picture is opened."""
    fields = _parse_json(line, path, number)
    with at(f"{path}:{number}"):
        words = _parse_instruction(fields, Path(path).parent, ("target", "task", *OPTIONAL))
        options = {key: _string(fields, key) for key in OPTIONAL if key in fields}
        return Line(*words, Path(path).parent / _string(fields, "target"), _string(fields, "task"), **options)


def to_json(instruction: Instruction, images: Sequence[str]) -> dict:
    """The JSON form, with the pictures' file names given; add "target" and "task" for a training line."""
    names = zip(instruction.references, images, strict=True)
    references = [{"marker": r.marker, "text": r.text, "image": image} for r, image in names]
    return {"text": instruction.text, "references": references}


def _pack_context(references: tuple[Reference, ...], tokenizer: Tokenizer, layout: Layout) -> Context:
    slots, size, length = layout.max_references, layout.image_size, layout.reference_text_length
    if len(references) > slots:
        wrong = f"{len(references)} are more than the model's data.max_references={slots}"
        raise InstructionError(f"references: {wrong}; leave some out, or train with a larger data.max_references")
    images = np.zeros((slots, size, size, 3), np.uint8)
    tokens = np.full((slots, length), tokenizer.pad_id, np.int32)
    token_mask = np.zeros((slots, length), bool)
    for slot, reference in enumerate(references):
        with at(f"references[{slot}]"):
            images[slot] = fit_image(_checked_image(reference.image), size)
            tokens[slot], token_mask[slot] = _pack_text(
                context_text(reference), tokenizer, length, "reference_text_length"
            )
    return Context(images=images, text=Text(tokens, token_mask), mask=np.arange(slots) < len(references))


def _checked_image(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InstructionError(f"image: is {image.dtype} {list(image.shape)}; give uint8 [height, width, 3]")
    return image


def _pack_text(text: str, tokenizer: Tokenizer, length: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [length] int32, mask [length] bool), cut to length if no marker is lost by it."""
    ids = tokenizer.encode(text)
    if len(ids) > length:
        kept = ids[: length - 1]
        for marker in MARKER.finditer(text):
            if tokenizer.marker_id(int(marker[1])) not in kept:
                wrong = f"has {len(ids)} tokens; cut to data.{key}={length} it would lose {marker[0]}"
                raise InstructionError(f"{wrong}; shorten it, begin with {marker[0]}, or raise data.{key}")
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


def _parse_json(text: str, path: str | os.PathLike, line: int | None = None) -> object:
    """`text` is line number `line` of the file, or all of it."""
    try:
        with at(f"{path}:{line}" if line else path):
            return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        where = f"{path}:{line or error.lineno}:{error.colno}"
        raise InstructionError(f"{where}: invalid JSON ({error.msg}); mend the file there") from None


def _unique_keys(pairs: list[tuple]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InstructionError(f"an object has one of the keys {', '.join(key for key, _ in pairs)} twice; keep one")
    return fields


def _parse_instruction(fields: object, folder: Path, extra: tuple[str, ...] = ()) -> tuple[str, tuple]:
    """The text, and (marker, text, picture) of each reference; no picture is opened."""
    _check_keys(fields, ("text", "references", *extra))
    text, items = _string(fields, "text"), fields.get("references", [])
    if not isinstance(items, list):
        raise InstructionError(f"references: is {_kind(items)}; give a list of objects")
    references = []
    for slot, item in enumerate(items):
        with at(f"references[{slot}]"):
            _check_keys(item, ("marker", "text", "image"))
            references.append((_string(item, "marker"), _string(item, "text"), folder / _string(item, "image")))
    check_markers(text, tuple((marker, phrase) for marker, phrase, _ in references))
    return text, tuple(references)


def _open_references(references: Sequence[tuple[str, str, Path]]) -> tuple[Reference, ...]:
    opened = []
    for slot, (marker, phrase, picture) in enumerate(references):
        with at(f"references[{slot}]"):
            opened.append(Reference(marker, phrase, _open("image", picture)))
    return tuple(opened)


def _open(key: str, path: Path) -> np.ndarray:
    with at(f"{key}: {path}"):
        return read_image(path)


def _check_keys(fields: object, known: tuple[str, ...]) -> None:
    if not isinstance(fields, dict):
        raise InstructionError(f"is {_kind(fields)}; give an object with the keys {', '.join(known)}")
    for key in fields.keys() - set(known):
        close = difflib.get_close_matches(key, known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        raise InstructionError(f"unknown key {key!r}; {mend}")


def _string(fields: dict, key: str) -> str:
    if key not in fields:
        raise InstructionError(f"{key}: is missing; add it")
    if not isinstance(fields[key], str):
        raise InstructionError(f"{key}: is {_kind(fields[key])}; give a string")
    return fields[key]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def main(path: str) -> str:
    """Checks a .json or .jsonl file and says so in one line."""
    if Path(path).suffix == ".jsonl":
        return f"{path}: OK (examples: {sum(1 for _ in load_jsonl(path))})"
    return f"{path}: OK (references: {len(load_instruction(path).references)})"


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m data_pipelines.instruction FILE.json|FILE.jsonl")
    try:
        print(main(sys.argv[1]))
    except InstructionError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
