"""Evaluation suites: fixed cases, of unseen subjects, that show neither the answer nor a word for a shown style."""

import dataclasses
import warnings

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from data_pipelines import composed, suites, templates
from data_pipelines.corpus import Corpus
from data_pipelines.instruction import pack
from data_pipelines.pairs import STYLES, Table
from data_pipelines.suites import IN_DOMAIN, ZERO_SHOT, SuiteError, main, open_suites
from data_pipelines.text import load_tokenizer
from data_pipelines.transforms import WHITE, composite
from tests.small_corpus import LAYOUT, join, make_corpus, make_furniture

SMALL = dataclasses.replace(LAYOUT, image_size=32)
UNSEEN = {"1f353", "1f98a", "1f550", "furniture-table"}  # strawberry, fox, two clocks; a table
STYLED = ("style", "style_transfer", "styled_subject", "line_style", "mask_style", "styled_subject_line")
CASES = 24


def open_at(corpus="fixture", layout=SMALL, seed=0):
    data = ConfigDict(dict(corpus=corpus, tokenizer="", max_references=layout.max_references))
    return open_suites(data, layout, seed)


@pytest.fixture(scope="module")
def fixture():
    return open_at()


@pytest.fixture(scope="module")
def made():
    """A corpus that has all suites: subjects of both splits in every style, two models; and its suites."""
    whole = join(make_corpus("train"), make_corpus("test"), make_furniture())
    pictures = tuple(
        dataclasses.replace(p, split="test" if p.style == "fxemoji" or p.root in UNSEEN else "train")
        for p in whole.pictures
    )
    corpus = Corpus(whole.images, pictures, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load_corpus", lambda path, size: corpus)
        return corpus, open_at("made", LAYOUT)


def shown(corpus, image):
    """The picture of the corpus that an image shows on white, or None: it is a map, or two of them."""
    found = [
        p for p, own in zip(corpus.pictures, composite(corpus.images, WHITE[1]), strict=True) if (own == image).all()
    ]
    return found[0] if found else None


def same(one, other):
    """Whether two cases agree in every word and pixel."""
    a, b = one.example, other.example
    pictures = zip(
        [r.image for r in a.instruction.references], [r.image for r in b.instruction.references], strict=True
    )
    words = [(e.instruction.text, [r.text for r in e.instruction.references], e.task) for e in (a, b)]
    facts = [dataclasses.replace(case.wanted, control_map=None) for case in (one, other)]
    return (
        words[0] == words[1]
        and facts[0] == facts[1]
        and (a.target == b.target).all()
        and all((x == y).all() for x, y in pictures)
    )


def test_a_corpus_of_drawings_and_models_gives_every_suite(made):
    assert made[1].names == (*IN_DOMAIN, *ZERO_SHOT) and not made[1].missing
    assert set(ZERO_SHOT) == templates.COMPOSED | {"held_out_style"}
    assert not set(composed.ZERO_SHOT) & set(IN_DOMAIN)


def test_the_fixture_lacks_depth_and_the_held_out_style(fixture):
    assert set(fixture.missing) == {"depth", "depth_style", "held_out_style"}
    assert "furniture" in fixture.missing["depth"] and "'fixture'" in fixture.missing["held_out_style"]
    assert set(fixture.names) | set(fixture.missing) == {*IN_DOMAIN, *ZERO_SHOT}


def test_a_case_is_a_function_of_seed_and_index_alone(fixture):
    again, other = open_at(layout=SMALL), open_at(seed=1)
    for name in reversed(fixture.names):
        assert all(same(again.case(name, i), fixture.case(name, i)) for i in (7, 0, 300))
        assert not all(same(other.case(name, i), fixture.case(name, i)) for i in range(3))


def test_a_trained_task_has_no_more_references_than_in_training(fixture):
    data = ConfigDict(dict(corpus="fixture", tokenizer="", max_references=1))
    fewer = open_suites(data, SMALL, 0)
    most = [
        max(len(each.case("subject", i).example.instruction.references) for i in range(40)) for each in (fewer, fixture)
    ]
    assert most == [1, 2] and len(fewer.case("styled_subject_line", 0).example.instruction.references) == 3


def test_more_references_elsewhere_change_no_case_of_a_suite(fixture):
    fewer = open_at(layout=dataclasses.replace(SMALL, max_references=2))
    assert set(fixture.names) - set(fewer.names) == {"styled_subject_line"}
    for name in set(fewer.names) - {"subject"}:  # which shows as many looks as there are slots
        assert all(same(fewer.case(name, i), fixture.case(name, i)) for i in range(3))


@pytest.mark.parametrize("name", [*IN_DOMAIN, *ZERO_SHOT])
def test_pictures_are_of_unseen_subjects_and_never_the_answer(made, name):
    corpus, opened = made
    for i in range(CASES):
        case = opened.case(name, i)
        pictures = [r.image for r in case.example.instruction.references]
        assert not any((picture == case.example.target).all() for picture in pictures)
        seen = [p for p in (shown(corpus, image) for image in [*pictures, case.example.target]) if p]
        assert seen and {p.root for p in seen} <= UNSEEN and set(case.wanted.roots) <= UNSEEN
        assert all((p.style == "fxemoji") == (name == "held_out_style") for p in seen)


@pytest.mark.parametrize("name", [*STYLED, "held_out_style"])
def test_a_style_is_shown_by_another_subject_and_named_by_no_word(made, name):
    corpus, opened = made
    for i in range(CASES):
        case = opened.case(name, i)
        instruction, target = case.example.instruction, shown(corpus, case.example.target)
        (style,) = [shown(corpus, r.image) for r in instruction.references if r.text == "style image"]
        assert style.style == target.style == case.wanted.style and style.root != target.root
        words = " ".join([instruction.text, *(r.text for r in instruction.references)])
        assert not any(each.phrase in words for each in STYLES.values())


@pytest.mark.parametrize("name", ["subject", "styled_subject", "subject_line", "multi_subject", "styled_subject_line"])
def test_the_subject_is_shown_as_another_house_draws_it(made, name):
    corpus, opened = made
    for i in range(CASES):
        case = opened.case(name, i)
        looks = [r for r in case.example.instruction.references if r.text not in ("style image", "line drawing")]
        target = shown(corpus, case.example.target)
        for reference, root in zip(looks, case.wanted.roots * (1 if name == "multi_subject" else 3), strict=False):
            look = shown(corpus, reference.image)
            own = STYLES[case.wanted.style or target.style].house
            assert look.root == root
            assert STYLES[look.style].house != own or (STYLES[look.style].view and look.style != target.style)


def test_three_conditions_come_from_three_houses(made):
    corpus, opened = made
    for i in range(CASES):
        pictures = [
            shown(corpus, r.image) for r in opened.case("styled_subject_line", i).example.instruction.references
        ]
        assert len({STYLES[p.style].house for p in pictures}) == 3


def test_lines_of_a_styled_picture_are_another_house_s(made):
    corpus, opened = made
    for i in range(CASES):
        case = opened.case("line_style", i)
        line = shown(corpus, case.example.instruction.references[0].image)
        assert line.style in ("openmoji_line", "emojione_mono") and not case.wanted.aligned
        assert STYLES[line.style].house != STYLES[case.wanted.style].house


def test_a_view_in_a_drawn_style_claims_depth_and_style_only(made):
    corpus, opened = made
    styles = set()
    for i in range(CASES):
        case = opened.case("depth_style", i)
        _, style = case.example.instruction.references
        assert STYLES[shown(corpus, case.example.target).style].view
        assert shown(corpus, style.image).style == case.wanted.style
        assert case.wanted.control == "depth" and not case.wanted.roots and not case.wanted.aligned
        styles.add(case.wanted.style)
    assert len(styles) > 2 and not any(STYLES[style].view for style in styles)


@pytest.mark.parametrize("name", [*IN_DOMAIN, *ZERO_SHOT])
def test_the_facts_are_those_of_the_references(made, name):
    corpus, opened = made
    controls = {"line drawing": "line", "edge map": "edge", "mask": "mask", "depth map": "depth"}
    for i in range(CASES):
        case = opened.case(name, i)
        references, facts = case.example.instruction.references, case.wanted
        maps = [r for r in references if r.text in controls]
        assert [controls[r.text] for r in maps] == ([facts.control] if facts.control else [])
        assert all((r.image == facts.control_map).all() for r in maps)
        assert facts.copy < max(1, len(references))
        copied = shown(corpus, references[facts.copy].image) if references else None
        if copied and name not in ("style", "mask_style", "depth_style", "held_out_style", "edit"):
            assert copied.root in facts.roots


def test_a_style_in_words_is_wanted_and_a_side_is_no_style(made):
    _, opened = made
    for name in ("text_to_image", "edge", "subject", "multi_subject"):
        for i in range(CASES):
            case = opened.case(name, i)
            named = {key for key, style in STYLES.items() if case.example.instruction.text.count(style.phrase)}
            assert {case.wanted.style} - {""} == {key for key in named if not STYLES[key].view}


def silhouette(picture):
    return (picture < 250).any(-1)


def test_what_is_called_aligned_is(fixture):
    seen = set()
    for i in range(CASES):
        case = fixture.case("style_transfer", i)
        content, target = (silhouette(p) for p in (case.example.instruction.references[1].image, case.example.target))
        seen.add(case.wanted.aligned)
        if case.wanted.aligned:
            assert (content & target).sum() > 0.8 * (content | target).sum()
        for name in ("mask", "mask_style"):
            case = fixture.case(name, i)
            inside = case.wanted.control_map[..., 0] > 0
            assert case.wanted.aligned and not (silhouette(case.example.target) & ~inside).any()
        assert not any(
            fixture.case(name, i).wanted.aligned for name in ("line", "subject", "styled_subject", "multi_subject")
        )
    assert seen == {True, False}


def test_only_lines_drawn_over_the_same_outlines_are_aligned(made, fixture):
    for i in range(CASES):
        assert made[1].case("line", i).wanted.aligned and made[1].case("subject_line", i).wanted.aligned
        assert not fixture.case("subject_line", i).wanted.aligned  # the fixture has loose pairs only


def test_cases_spread_over_all_subjects_before_any_comes_again(fixture):
    for name in fixture.names:
        count = fixture.subjects(name)
        roots = [fixture.case(name, i).wanted.roots[-1] for i in range(2 * count)]
        assert len(set(roots[:count])) == count, name
    targets = [fixture.case("mask_style", i).example.target.tobytes() for i in range(fixture.count("mask_style"))]
    assert len(set(targets)) == len(targets) > 3 * fixture.subjects("mask_style")


def test_an_order_is_a_weighted_draw_that_leaves_nothing_out():
    table = Table([("a", 1), ("a", 2), ("b", 3), ("b", 4)], [3, 1, 1, 1])
    orders = [table.order(np.random.default_rng(i).random(4)) for i in range(2000)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert np.mean([order[0] == 0 for order in orders]) == pytest.approx(0.5, abs=0.04)
    spread = [table.order(np.random.default_rng(i).random(4), lambda row: row[0]) for i in range(200)]
    assert all({table.rows[number][0] for number in order[:2]} == {"a", "b"} for order in spread)
    assert {tuple(order[:2]) for order in spread} == {(a, b) for a in (0, 1) for b in (2, 3)} | {
        (b, a) for a in (0, 1) for b in (2, 3)
    }


def test_instructions_fit_the_layout(made, fixture):
    tokenizer = load_tokenizer()
    with warnings.catch_warnings(action="error"):
        for opened, layout in ((made[1], LAYOUT), (fixture, SMALL)):
            for name in opened.names:
                for i in range(CASES):
                    pack(opened.case(name, i).example.instruction, tokenizer, layout)


def test_one_slot_and_short_texts_name_what_they_cannot_hold(fixture):
    one = open_at(layout=dataclasses.replace(SMALL, max_references=1))
    needing = {"style_transfer", *ZERO_SHOT} - {"held_out_style"}
    assert {name for name, why in one.missing.items() if "data.max_references is 1" in why} == needing
    assert "needs 3 references" in one.missing["styled_subject_line"]
    short = open_at(layout=dataclasses.replace(SMALL, text_length=16))
    assert "data.text_length=16" in short.missing["multi_subject"] and "style_transfer" in short.names
    assert not any("\n" in why for opened in (one, short) for why in opened.missing.values())
    with pytest.raises(SuiteError, match="'multi_subject' is not to be had: its longest text"):
        short.case("multi_subject", 0)
    with pytest.raises(SuiteError, match="no suite 'oil'; the suites are text_to_image"):
        fixture.case("oil", 0)
    with pytest.raises(SuiteError, match="case -1 of suite 'line'"):
        fixture.case("line", -1)
    with pytest.raises(SuiteError, match="seed -1"):
        open_at(seed=-1)


def test_a_root_of_validation_counts_as_unseen_though_the_held_out_style_draws_it(made, monkeypatch):
    corpus, opened = made
    moved = tuple(
        dataclasses.replace(p, split="validation") if p.root in UNSEEN and p.style != "fxemoji" else p
        for p in corpus.pictures
    )
    monkeypatch.setattr(suites, "load_corpus", lambda path, size: dataclasses.replace(corpus, pictures=moved))
    data = ConfigDict(dict(corpus="made", tokenizer="", max_references=3))
    validation = open_suites(data, LAYOUT, 0, "validation")
    assert set(opened.names) - set(validation.names) == {"held_out_style"}
    assert all(validation.count(name) == opened.count(name) for name in validation.names)


def test_a_look_that_equals_the_answer_is_no_reference(made, monkeypatch):
    corpus, _ = made
    images = corpus.images.copy()
    front, back = (
        next(i for i, p in enumerate(corpus.pictures) if p.root == "furniture-table" and p.style == style)
        for style in ("view_0", "view_4")
    )
    images[back] = images[front]
    images[back, ..., 2] += 1  # a table that looks the same from behind
    monkeypatch.setattr(suites, "load_corpus", lambda path, size: dataclasses.replace(corpus, images=images))
    opened, views = open_at("made", LAYOUT), 0
    for i in range(4 * CASES):
        case = opened.case("subject", i)
        target = case.example.target.astype(float)
        views += case.wanted.aligned
        assert all(np.square(r.image - target).mean() > 50 for r in case.example.instruction.references)
    assert views > 8


def test_what_cannot_be_seen_on_white_is_left_out(made, monkeypatch):
    corpus, opened = made
    images = corpus.images.copy()
    faint = [i for i, p in enumerate(corpus.pictures) if p.name == "strawberry" and p.style in ("noto", "fxemoji")]
    images[faint, ..., :3] = 240
    monkeypatch.setattr(suites, "load_corpus", lambda path, size: dataclasses.replace(corpus, images=images))
    fewer = open_at("made", LAYOUT)
    assert fewer.count("text_to_image") == opened.count("text_to_image") - 1
    assert fewer.count("held_out_style") == opened.count("held_out_style") - 1


def test_two_subjects_lie_side_by_side_on_white():
    red, blue = (np.full((8, 8, 4), colour, np.uint8) for colour in ((255, 0, 0, 255), (0, 0, 255, 255)))
    blue[:4, :, 3] = 0
    both = composed.paste(red, blue)
    assert (both[:2] == 255).all() and (both[6:] == 255).all()
    assert (both[2:6, :4] == (255, 0, 0)).all() and (both[5, 4:] == (0, 0, 255)).all() and (both[2, 4:] == 255).all()


def test_left_and_right_are_those_of_the_words(made):
    corpus, opened = made
    for i in range(CASES):
        case = opened.case("multi_subject", i)
        left, right = (reference.text for reference in case.example.instruction.references)
        assert f"{left} left of {right}, {STYLES[case.wanted.style].phrase}" in case.example.instruction.text
        names = {picture.root: picture.name for picture in corpus.pictures if picture.name in (left, right)}
        assert [names[root] for root in case.wanted.roots] == [left, right]


def test_the_command_prints_its_table_and_draws_a_case_of_each(tmp_path, capsys):
    assert main([f"--picture={tmp_path}/suites.png"]) == 0
    printed = capsys.readouterr().out
    assert "| styled_subject_line |" in printed and "no depth: split 'test'" in printed
    with Image.open(tmp_path / "suites.png") as picture:
        assert picture.height > 14 * 100
    assert main([f"--corpus={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is no corpus")
    with pytest.raises(SystemExit):
        main(["--split=all"])
