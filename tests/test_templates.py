"""Every phrasing of every task is distinct, complete and a valid instruction."""

import re
import string

import numpy as np
import pytest

from data_pipelines import templates
from data_pipelines.instruction import Instruction, Reference, check

PHRASES = {
    "text_to_image": [],
    "line": ["line drawing"],
    "edge": ["edge map"],
    "depth": ["depth map"],
    "mask": ["mask"],
    "subject": ["a dog", "a dog", "a dog"],
    "face": ["reference image", "reference image"],
    "style": ["style"],
    "style_transfer": ["style", "content image"],
    "edit": ["content image"],
    "masked_edit": ["mask", "content image"],
    "neighbors": ["a fox", "a wolf", "a dog"],
}
LINES = [(task, index) for task in PHRASES for index in range(templates.count(task))]


def _fields(task, phrases):
    return {
        "caption": "a red apple" if "caption" in templates.PLACEHOLDERS[task] else "",
        "change": "add a hat" if "change" in templates.PLACEHOLDERS[task] else "",
        "references": [f"[ref#{k}] {phrase}" for k, phrase in enumerate(phrases, start=1)],
    }


def test_tasks():
    assert list(templates.PLACEHOLDERS) == list(PHRASES)


@pytest.mark.parametrize("task", PHRASES)
def test_at_least_twenty_phrasings_that_differ_in_words(task):
    words = {" ".join(re.findall(r"[a-z]+", line.lower())) for line in templates.templates(task)}
    assert len(words) == templates.count(task) >= 20


@pytest.mark.parametrize(("task", "index"), LINES)
def test_exact_placeholders_each_once(task, index):
    parsed = string.Formatter().parse(templates.templates(task)[index])
    assert sorted(name for _, name, _, _ in parsed if name is not None) == sorted(templates.PLACEHOLDERS[task])


@pytest.mark.parametrize(("task", "index"), LINES)
def test_rendered_text_is_a_valid_instruction(task, index):
    image = np.zeros((2, 2, 3), np.uint8)
    text = templates.render(task, index, **_fields(task, PHRASES[task]))
    check(Instruction(text, tuple(Reference(f"[ref#{k}]", p, image) for k, p in enumerate(PHRASES[task], start=1))))
    assert text.endswith((".", "?")) and "  " not in text and ".." not in text


def test_references_become_a_natural_list():
    index = templates.templates("neighbors").index("Study {references} before you compose an image of {caption}.")
    lists = {
        1: "[ref#1] a fox",
        2: "[ref#1] a fox and [ref#2] a wolf",
        3: "[ref#1] a fox, [ref#2] a wolf and [ref#3] a dog",
    }
    for number, expected in lists.items():
        text = templates.render("neighbors", index, **_fields("neighbors", PHRASES["neighbors"][:number]))
        assert text == f"Study {expected} before you compose an image of a red apple."


def test_a_caption_is_taken_literally_but_for_its_full_stop():
    index = templates.templates("text_to_image").index("Draw {caption}.")
    assert templates.render("text_to_image", index, caption="a {curly} brace. ") == "Draw a {curly} brace."


@pytest.mark.parametrize(
    ("task", "index", "fields", "complaint"),
    [
        ("juggle", 0, {"caption": "x"}, "no templates"),
        ("line", 100, {"caption": "x", "references": ["[ref#1] y"]}, "does not exist"),
        ("line", -1, {"caption": "x", "references": ["[ref#1] y"]}, "does not exist"),
        ("line", 0, {"caption": "x"}, "takes caption, ref1; got caption"),
        ("line", 0, {"caption": "x", "references": ["[ref#1] y", "[ref#2] z"]}, "got caption, ref1, ref2"),
        ("edit", 0, {"references": ["[ref#1] y"]}, "takes change, ref1"),
        ("neighbors", 0, {"caption": "x"}, "takes caption, references"),
    ],
)
def test_fields_missing_or_without_use_are_refused(task, index, fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        templates.render(task, index, **fields)
