"""Instructions: what is packed, what is read from files, and what is refused in which words."""

import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import instruction as instructions
from data_pipelines.images import fit_image
from data_pipelines.instruction import Instruction, InstructionError, Layout, Reference, pack
from data_pipelines.text import load_tokenizer
from data_pipelines.wording import renumber, tell_once, unname

ROOT = Path(__file__).parents[1]
LAYOUT = Layout(image_size=8, max_references=3, text_length=32, reference_text_length=12)
TOKENIZER = load_tokenizer()
FOX_PNG = {"marker": "[ref#1]", "text": "a fox", "image": "fox.png"}


def _image(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


FOX, FLAT = Reference("[ref#1]", "a fox", _image(1)), Reference("[ref#2]", "flat", _image(2, 20, 10))
DRAW = Instruction("Draw [ref#1] in the style of [ref#2].", (FOX, FLAT))


def _leaves(packed):
    text, context = packed
    return [text.tokens, text.mask, context.images, context.text.tokens, context.text.mask, context.mask]


def test_pack_of_the_paper_example():
    text, context = pack(DRAW, TOKENIZER, LAYOUT)
    ids = [19183, 32099, 16, 8, 869, 13, 32098, 5, 1]
    assert text.tokens.tolist() == ids + [0] * (32 - len(ids))
    assert text.mask.tolist() == [True] * len(ids) + [False] * (32 - len(ids))
    assert context.text.tokens[0, :6].tolist() == [32099, *TOKENIZER.encode("a fox")]
    assert context.text.tokens[1, :3].tolist() == [32098, *TOKENIZER.encode("flat")]
    assert context.text.mask.sum(1).tolist() == [6, 3, 0]
    assert context.mask.tolist() == [True, True, False]
    np.testing.assert_array_equal(context.images[0], FOX.image)
    np.testing.assert_array_equal(context.images[1], fit_image(FLAT.image, 8))
    assert not context.images[2].any()
    shapes = [(32,), (32,), (3, 8, 8, 3), (3, 12), (3, 12), (3,)]
    assert [leaf.shape for leaf in _leaves((text, context))] == shapes
    dtypes = ["int32", "bool", "uint8", "int32", "bool", "bool"]
    assert [leaf.dtype.name for leaf in _leaves((text, context))] == dtypes


def test_pack_without_references_and_with_as_many_as_slots():
    _, none = pack(Instruction("Draw a fox."), TOKENIZER, LAYOUT)
    assert not none.mask.any() and not none.text.mask.any() and not none.images.any()
    three = tuple(Reference(f"[ref#{k}]", "a fox", FOX.image) for k in (1, 2, 3))
    assert pack(Instruction("[ref#3] [ref#1] [ref#2]", three), TOKENIZER, LAYOUT)[1].mask.all()


def test_list_order_only_permutes_the_slots():
    text, context = pack(DRAW, TOKENIZER, LAYOUT)
    other_text, other = pack(dataclasses.replace(DRAW, references=(FLAT, FOX)), TOKENIZER, LAYOUT)
    np.testing.assert_array_equal(text.tokens, other_text.tokens)
    np.testing.assert_array_equal(context.images[[1, 0, 2]], other.images)
    np.testing.assert_array_equal(context.text.tokens[[1, 0, 2]], other.text.tokens)
    assert not np.array_equal(context.images, other.images)


def test_other_markers_say_the_same():
    face = Reference("[ref#1]", "reference image [ref#1]", FOX.image)
    told = Instruction("[ref#1] as in [ref#2], but not [ref#1]'s hat.", (face, FLAT))
    swapped = renumber(told, (2, 1))
    assert swapped.text == "[ref#2] as in [ref#1], but not [ref#2]'s hat."
    assert [(r.marker, r.text) for r in swapped.references] == [
        ("[ref#2]", "reference image [ref#2]"),
        ("[ref#1]", "flat"),
    ]
    assert [r.image for r in swapped.references] == [r.image for r in told.references]
    assert renumber(swapped, (1, 2)) == told
    with pytest.raises(InstructionError, match="has no reference"):
        renumber(Instruction("[ref#1] as in [ref#2].", (FOX,)), (2,))


def test_what_is_told_twice_can_be_told_once():
    twice = Instruction("Draw [ref#1] a fox like [ref#2].", (FOX, FLAT))
    in_text, beside = tell_once(twice, in_text=True), tell_once(twice, in_text=False)
    assert (in_text.text, [r.text for r in in_text.references]) == (twice.text, ["image", "flat"])
    assert (beside.text, beside.references) == ("Draw [ref#1] like [ref#2].", twice.references)


def test_an_unnamed_subject_is_nowhere_named():
    looks = tuple(Reference(f"[ref#{k}]", "man", FOX.image) for k in (2, 1))
    named = Instruction("As in [ref#2] man and [ref#1] man, for many a woman: man: light skin tone, icon.", looks)
    told = unname(named)
    assert (
        told.text == "As in [ref#2] subject and [ref#1] subject, for many a woman: the subject: light skin tone, icon."
    )
    assert [(r.marker, r.text) for r in told.references] == [("[ref#2]", "subject"), ("[ref#1]", "subject")]
    assert unname(Instruction("As in [ref#1].", (Reference("[ref#1]", "", FOX.image),))).text == "As in [ref#1]."


def test_context_text_has_its_marker_once():
    assert instructions.context_text(FOX) == "[ref#1] a fox"
    face = Reference("[ref#1]", "reference image [ref#1]", FOX.image)
    assert instructions.context_text(face) == "reference image [ref#1]"


def test_pack_leaves_its_input_alone_and_shares_nothing_with_it():
    before = FOX.image.copy()
    _, context = pack(DRAW, TOKENIZER, LAYOUT)
    context.images[:] = 0
    np.testing.assert_array_equal(FOX.image, before)
    np.testing.assert_array_equal(pack(DRAW, TOKENIZER, LAYOUT)[1].images[0], before)


def test_a_long_text_is_cut_with_one_warning_and_keeps_eos():
    layout = dataclasses.replace(LAYOUT, text_length=6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for word in ("red", "blue"):
            text, _ = pack(Instruction(f"Draw a {word} fox in the deep snow."), TOKENIZER, layout)
            assert text.mask.all() and text.tokens[-1] == 1 and text.tokens[0] == 19183
    [warning] = caught
    assert str(warning.message) == "texts of more than data.text_length=6 tokens are cut at the end"


def test_a_cut_never_loses_a_marker():
    layout = dataclasses.replace(LAYOUT, text_length=6)
    with pytest.raises(InstructionError, match=r"data.text_length=6 it would lose \[ref#2\]"):
        pack(DRAW, TOKENIZER, layout)
    phrase = Reference("[ref#1]", "a portrait of an old fox in the snow with [ref#1]", FOX.image)
    with pytest.raises(
        InstructionError, match=r"references\[0\].*data.reference_text_length=12 it would lose \[ref#1\]"
    ):
        pack(Instruction("Draw [ref#1].", (phrase,)), TOKENIZER, LAYOUT)


def test_too_many_references_name_the_config_key():
    with pytest.raises(InstructionError, match=r"2 are more than the model's data\.max_references=1"):
        pack(DRAW, TOKENIZER, dataclasses.replace(LAYOUT, max_references=1))


@pytest.mark.parametrize("image", [FOX.image[..., :1], FOX.image.astype(np.float32), FOX.image[0], FOX.image[:0]])
def test_pack_refuses_what_is_no_picture(image):
    with pytest.raises(InstructionError, match=r"references\[0\]: image: is .*; give uint8"):
        pack(Instruction("Draw [ref#1].", (Reference("[ref#1]", "a fox", image),)), TOKENIZER, LAYOUT)


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(FOX.image).save(tmp_path / "fox.png")
    return tmp_path


def _write(folder, content, name="i.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_json_round_trip(folder):
    loaded = instructions.load_instruction(
        _write(folder, instructions.to_json(Instruction("[ref#1]", (FOX,)), ["fox.png"]))
    )
    assert (loaded.text, loaded.references[0].marker, loaded.references[0].text) == ("[ref#1]", "[ref#1]", "a fox")
    np.testing.assert_array_equal(loaded.references[0].image, FOX.image)
    assert instructions.load_instruction(_write(folder, {"text": "A fox."})) == Instruction("A fox.")


def test_training_and_sampling_pack_the_same_bytes(folder):
    fields = {"text": "Draw [ref#1].", "references": [FOX_PNG]}
    line = json.dumps({**fields, "target": "fox.png", "task": "subject"})
    [(training, target, task)] = instructions.load_jsonl(_write(folder, f"\n{line}\n\n", "t.jsonl"))
    sampling = instructions.load_instruction(_write(folder, json.dumps(fields, indent=2)))
    for left, right in zip(*(_leaves(pack(i, TOKENIZER, LAYOUT)) for i in (training, sampling)), strict=True):
        assert left.tobytes() == right.tobytes()
    np.testing.assert_array_equal(target, FOX.image)
    assert (task, training.source) == ("subject", f"{folder / 't.jsonl'}:2")


def _with(**changes):
    return {"text": "Draw [ref#1].", "references": [{**FOX_PNG, **changes}]}


BAD = {
    "dangling": ({"text": "Draw [ref#1] and [ref#2].", "references": [FOX_PNG]}, "text: [ref#2] has no reference; add"),
    "unused": (
        {"text": "Draw a fox.", "references": [FOX_PNG]},
        "references[0]: marker: [ref#1] is not in the text; name",
    ),
    "repeated": (
        {"text": "[ref#1]", "references": [FOX_PNG] * 2},
        "references[1].marker: [ref#1] is taken by references[0]",
    ),
    "no hash": ({"text": "Draw [ref1]."}, "text: '[ref1]' is not a marker; write it like [ref#1]"),
    "zero": ({"text": "Draw [ref#0]."}, "text: '[ref#0]' is not a marker"),
    "no brackets": ({"text": "Draw ref#1."}, "text: 'ref#1' is not a marker"),
    "not closed": ({"text": "Draw [ref#1 now."}, "text: '[ref#1 now.' is not a marker"),
    "capital": ({"text": "Draw [Ref #1]."}, "text: '[Ref #1]' is not a marker"),
    "above 100": ({"text": "Draw [ref#101]."}, "text: [ref#101] is above the last marker, [ref#100]"),
    "malformed marker": (_with(marker="ref 1"), "references[0]: marker: 'ref 1' is not a marker"),
    "foreign marker": (_with(text="like [ref#2]"), "references[0]: text: names [ref#2], but its own marker is [ref#1]"),
    "empty text": ({"text": " "}, "text: is empty; say what to draw"),
    "empty phrase": (_with(text="[ref#1] "), "references[0]: text: is empty; say"),
    "missing image": (_with(image="cat.png"), "cat.png: no such image file; check the path"),
    "corrupt image": (_with(image="cut.png"), "cut.png: the image file is broken or cut off"),
    "foreign image": (_with(image="i.json"), "i.json: not an image"),
    "unknown key": ({"text": "a", "refrences": []}, "unknown key 'refrences'; did you mean 'references'?"),
    "unknown reference key": (_with(img="a"), "references[0]: unknown key 'img'; "),
    "training key": ({"text": "a", "task": "edit"}, "unknown key 'task'; "),
    "missing key": ({"references": []}, "text: is missing; add it"),
    "missing reference key": ({"text": "a", "references": [{}]}, "references[0]: marker: is missing"),
    "text type": ({"text": 3}, "text: is a number; give a string"),
    "references type": ({"text": "a", "references": {}}, "references: is an object; give a list of objects"),
    "reference type": (
        {"text": "a", "references": ["fox.png"]},
        "references[0]: is a string; give an object with the keys marker",
    ),
    "top type": ([], "is a list; give an object with the keys text, references"),
    "key twice": ('{"text": "a", "text": "b"}', "keys text, text twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_instruction_is_one_line_with_file_field_and_mend(folder, case):
    content, complaint = BAD[case]
    (folder / "cut.png").write_bytes((folder / "fox.png").read_bytes()[:90])
    path = _write(folder, content)
    with pytest.raises(InstructionError) as caught:
        instructions.load_instruction(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and complaint in message and "\n" not in message and ";" in message


def test_words_are_checked_in_memory_as_in_files():
    with pytest.raises(InstructionError, match=r"^instruction: text: \[ref#2\] has no reference"):
        instructions.check(dataclasses.replace(DRAW, references=(FOX,)))
    with pytest.raises(InstructionError, match="is not in the text"):
        pack(dataclasses.replace(DRAW, text="Draw [ref#1]."), TOKENIZER, LAYOUT)
    instructions.check(Instruction("Draw [ref#1] beside [ref#1], as a [reference] ref.", (FOX,)))


def test_syntax_errors_name_line_and_column(folder):
    path = _write(folder, '{"text": "a",\n "references": [}')
    with pytest.raises(InstructionError, match=r"i\.json:2:17: invalid JSON"):
        instructions.load_instruction(path)
    path = _write(folder, '\n\n{"text": }', "t.jsonl")
    with pytest.raises(InstructionError, match=r"t\.jsonl:3:10: invalid JSON"):
        list(instructions.load_jsonl(path))


def test_jsonl_errors_name_the_line(folder):
    good = {"text": "a", "target": "fox.png", "task": "edit"}
    for bad, complaint in [
        ({"target": "no.png"}, "target: .*no.png: no such"),
        ({"task": 1}, "task: is a number; give a string"),
    ]:
        path = _write(folder, f"{json.dumps(good)}\n{json.dumps(good | bad)}\n", "t.jsonl")
        with pytest.raises(InstructionError, match=rf"t\.jsonl:2: {complaint}"):
            list(instructions.load_jsonl(path))


def test_files_that_are_no_text(folder):
    for name, complaint in [("none.json", "no such file"), ("fox.png", "not UTF-8"), (".", "cannot be read")]:
        with pytest.raises(InstructionError, match=complaint):
            instructions.load_instruction(folder / name)


def test_command_line_says_ok_or_exits_with_2(folder):
    def run(path):
        command = [sys.executable, "-m", "data_pipelines.instruction", str(path)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    good = run(_write(folder, {"text": "Draw [ref#1].", "references": [FOX_PNG]}))
    assert (good.returncode, good.stdout) == (0, f"{folder / 'i.json'}: OK (references: 1)\n")
    bad = run(_write(folder, {"text": ""}))
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == f"{folder / 'i.json'}: text: is empty; say what to draw\n"
