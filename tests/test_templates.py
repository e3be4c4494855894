"""Every phrasing of every task is distinct, complete, short and a valid instruction."""

import itertools
import re
import statistics
import string

import numpy as np
import pytest

from data_pipelines import templates
from data_pipelines.instruction import Instruction, Reference, check
from data_pipelines.text import load_tokenizer

PHRASES = {
    "text_to_image": [],
    "line": ["sketch"],
    "edge": ["edge map"],
    "depth": ["depth map"],
    "mask": ["mask"],
    "subject": ["a dog", "a dog", "a dog"],
    "face": ["reference image", "reference image"],
    "style": ["Realism style"],
    "style_transfer": ["style image", "content image"],
    "edit": ["content image"],
    "masked_edit": ["mask", "content image"],
    "neighbors": ["a fox", "a wolf", "a dog"],
    "styled_subject": ["a fox", "style image"],
    "line_style": ["line drawing", "style image"],
    "mask_style": ["mask", "style image"],
    "depth_style": ["depth map", "style image"],
    "subject_line": ["line drawing", "a fox"],
    "multi_subject": ["a fox", "a wolf"],
    "styled_subject_line": ["line drawing", "a fox", "style image"],
}
COUNTS = {task: 30 if task in templates.COMPOSED else 100 for task in PHRASES}
CAPTIONS = ("a red apple, flat icon", "red apple", "A man rides a horse.", "two wolves", "What a day!", "who is it?")
CHANGES = ("add a hat", "Put a cat on the fence.", "What if it were night?")
MOST_ALIKE = 0.6  # shared words over all words of two phrasings
ORDINARY = """
    a an the this that it its them their one you your i my me we of in on at to from for with without by as after into
    over so and or but not is are be should would could can let do please what how which who where image picture caption
    text words description following"""


def _fields(task, phrases, caption="a red apple", change="add a hat"):
    return {
        "caption": caption if "caption" in templates.PLACEHOLDERS[task] else "",
        "change": change if "change" in templates.PLACEHOLDERS[task] else "",
        "references": [f"[ref#{k}] {phrase}" for k, phrase in enumerate(phrases, start=1)],
    }


def _words(line):
    return re.findall(r"\{\w+\}|[a-z'-]+", line.lower())


def _skeleton(line):
    """What is left when the words that carry meaning go: equal for 'Draw a picture of X' and 'Make a picture of X'."""
    return " ".join(word for word in _words(line) if word in ORDINARY.split() or word.startswith("{"))


def _find_faults(task, lines):
    """Whatever breaks the rules of a file of phrasings, as words; nothing for a good one."""
    faults = [f"{len(lines)} phrasings"] if len(lines) != COUNTS[task] else []
    for line in lines:
        fields = sorted(name for _, name, _, _ in string.Formatter().parse(line) if name is not None)
        if fields != sorted(templates.PLACEHOLDERS[task]):
            faults.append(f"placeholders of: {line}")
        if not line.isascii() or "  " in line or line != line.strip() or not re.search(r"[.?][\"]?$", line):
            faults.append(f"characters of: {line}")
        if not re.match(r"[A-Z{\"]", line):
            faults.append(f"first letter of: {line}")
    for one, other in itertools.combinations(lines, 2):
        a, b = set(_words(one)), set(_words(other))
        if len(a & b) > MOST_ALIKE * len(a | b):
            faults.append(f"alike: {one} | {other}")
    openings = [tuple(_words(line)[:3]) for line in lines]
    if len(set(openings)) < len(lines):
        faults.append("two open with the same three words")
    if len({_skeleton(line) for line in lines}) < 0.8 * len(lines):
        faults.append("many differ in a word or two only")
    return faults


def test_tasks():
    assert list(templates.PLACEHOLDERS) == list(PHRASES)
    assert set(PHRASES) > templates.COMPOSED and len(templates.COMPOSED) == 7


@pytest.mark.parametrize("task", PHRASES)
def test_the_phrasings_of_a_task_are_complete_and_distinct(task):
    assert _find_faults(task, templates.templates(task)) == []


def test_no_phrasing_serves_two_tasks():
    lines = [" ".join(_words(line)) for task in PHRASES for line in templates.templates(task)]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(
    ("index", "line", "fault"),
    [
        (1, None, "99 phrasings"),
        (1, "Color in {ref1} so that it becomes {caption}.", "alike"),
        (1, "Color in {ref1}, so that it becomes this: {caption}.", "alike"),
        (1, "Color in {ref1} until the page speaks of nothing except {caption}.", "the same three words"),
        (1, "Colorize it, namely {ref1}, please.", "placeholders"),
        (1, "Colorize {ref1} twice, yes {ref1}, as {caption}.", "placeholders"),
        (1, "Colorize the  sheet {ref1} as {caption}.", "characters"),
        (1, "Colorize the sheet {ref1} as {caption}", "characters"),
        (1, "colorize the sheet {ref1} as {caption}.", "first letter"),
    ],
)
def test_a_fault_in_a_file_is_found(index, line, fault):
    lines = list(templates.templates("line"))
    lines[index : index + 1] = [] if line is None else [line]
    assert any(fault in found for found in _find_faults("line", lines))


def test_phrasings_made_by_a_program_are_found():
    verbs, nouns = ("Draw", "Make", "Paint", "Show", "Sketch"), ("cheerful", "detailed", "faithful", "novel", "vivid")
    lines = [f"{verb} a {noun} picture of {{caption}}." for verb, noun in itertools.product(verbs, nouns)]
    assert "many differ in a word or two only" in _find_faults("text_to_image", lines)


@pytest.mark.parametrize("task", PHRASES)
def test_rendered_text_is_a_valid_instruction(task):
    image = np.zeros((2, 2, 3), np.uint8)
    references = tuple(Reference(f"[ref#{k}]", p, image) for k, p in enumerate(PHRASES[task], start=1))
    words = [(caption, change) for caption, change in itertools.zip_longest(CAPTIONS, CHANGES, fillvalue="add a hat")]
    for index in range(templates.count(task)):
        for caption, change in words:
            text = templates.render(task, index, **_fields(task, PHRASES[task], caption, change))
            check(Instruction(text, references))
            assert re.search(r"[.?!]\"?$", text) and "  " not in text and "{" not in text
            assert not re.search(r"\.\.|\?\.|!\.|,\.|:\.", text), text


@pytest.mark.parametrize("task", PHRASES)
def test_no_word_comes_twice_in_a_row_once_the_references_are_named(task):
    """As in "with mask [ref#1] mask": the phrase of a reference says what it is."""
    for index in range(templates.count(task)):
        text = templates.render(task, index, **_fields(task, PHRASES[task]))
        assert not re.search(r"\b(\w+)[ ,]*(\[ref#\d\])? \1\b", text), text


@pytest.mark.parametrize("task", PHRASES)
def test_phrasings_are_short(task):
    """The words of the data must fit beside them: the tiny model reads 48 tokens, in stage 1 64."""
    tokenizer = load_tokenizer()
    lengths = [len(_words(line)) for line in templates.templates(task)]
    tokens = [len(tokenizer.encode(re.sub(r"\{\w+\}", "[ref#1]", line))) for line in templates.templates(task)]
    assert statistics.median(lengths) <= 14 and max(lengths) <= 18
    assert statistics.median(tokens) <= 20 and max(tokens) <= 24
    rendered = [
        templates.render(task, index, **_fields(task, PHRASES[task], "a red apple, thin black outline"))
        for index in range(templates.count(task))
    ]
    assert max(len(tokenizer.encode(text)) for text in rendered) <= 48


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


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a {curly} brace. ", "Draw a {curly} brace."),
        ("a sign that says stop!", "Draw a sign that says stop!"),
        ("a sign that says why?", "Draw a sign that says why?"),
    ],
)
def test_a_caption_is_taken_literally_but_for_its_full_stop(caption, text):
    index = templates.templates("text_to_image").index("Draw {caption}.")
    assert templates.render("text_to_image", index, caption=caption) == text


@pytest.mark.parametrize(
    ("template", "caption", "text"),
    [
        ("Draw {caption}.", "A man rides a horse.", 'Draw "A man rides a horse".'),
        ("Draw {caption}.", "Eiffel Tower", "Draw Eiffel Tower."),
        ("Draw {caption}.", 'A sign that says "stop"', 'Draw A sign that says "stop".'),
        ("Turn these words into an image: {caption}.", "A man rides a horse", None),
        ('Give this phrase a visual form: "{caption}".', "A man rides a horse", None),
    ],
)
def test_a_sentence_inside_another_is_quoted(template, caption, text):
    index = templates.templates("text_to_image").index(template)
    assert templates.render("text_to_image", index, caption=caption) == (text or template.format(caption=caption))


@pytest.mark.parametrize(
    ("task", "needed"), [("text_to_image", 0), ("face", 1), ("masked_edit", 2), ("styled_subject_line", 3)]
)
def test_fewest_references(task, needed):
    assert templates.least_references(task) == needed


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
