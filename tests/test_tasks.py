"""Tasks: true pairs, held-out things held out, aligned pictures moved together, words that fit."""

import numpy as np
import pytest

from data_pipelines.edits import find_edits
from data_pipelines.examples import ExampleMaker, Scene, TaskError
from data_pipelines.pairs import STYLES, TONE_EDITS, Pairs
from data_pipelines.retrieval.neighbors import Neighbors
from data_pipelines.tasks import DRAWN
from tests.small_corpus import MODELS, join, make_corpus, make_furniture, make_maker

ALPHA = 8 * np.arange(16)[:, None] + 7 * np.arange(16)
ALIGNED = ("line", "edit", "style_transfer")


def rng(i):
    return np.random.Generator(np.random.Philox(key=i))


@pytest.fixture
def shown(monkeypatch):
    """The numbers of the pictures that went into an example, in the order they were drawn."""
    numbers = []
    picture = Scene.picture
    monkeypatch.setattr(Scene, "picture", lambda self, i: numbers.append(i) or picture(self, i))
    return numbers


def draw(maker: ExampleMaker, task: str, i: int, shown: list):
    """(example, its target's picture, its references' pictures); the target is found by its row."""
    shown.clear()
    row = maker.tables[task].draw(rng(i).random())
    target = row[1] if task in ALIGNED else row[0]
    example = maker.make(task, rng(i))
    references = list(shown)
    references.remove(target)
    pictures = maker.corpus.pictures
    return example, pictures[target], [pictures[j] for j in references]


@pytest.mark.parametrize("task", DRAWN)
def test_training_examples_are_true_pairs_of_training_pictures(task, shown):
    maker = make_maker(task)
    relations = {
        "line": lambda t, r: STYLES[r.style].drawing and STYLES[r.style].house == STYLES[t.style].house,
        "subject": lambda t, r: r.subject == t.subject and STYLES[r.style].house != STYLES[t.style].house,
        "style": lambda t, r: r.style == t.style and r.root != t.root,
        "edit": lambda t, r: r.style == t.style and r.subject != t.subject,
        "style_transfer": lambda t, r: (r.style == t.style) == (r.root != t.root),
    }
    for i in range(300):
        example, target, references = draw(maker, task, i, shown)
        assert all(p.split == "train" and p.style != "fxemoji" for p in (target, *references))
        assert target not in references
        assert len(example.instruction.references) <= maker.max_references
        assert all(relations.get(task, lambda t, r: True)(target, r) for r in references)
        if task == "style_transfer":
            assert target.style != "emojione"
            assert [r.style == target.style for r in references] in ([True, False], [False, True])


@pytest.mark.parametrize("task", ALIGNED)
def test_aligned_pictures_move_together(task):
    # Pictures of one subject have one alpha and no green, so the green of both shows the same background through it.
    maker = make_maker(task)
    maker.tables[task].rows = [row for row in maker.tables[task].rows if _one_subject(maker, row)]
    maker.tables[task]._ends = np.arange(1, len(maker.tables[task].rows) + 1)
    for i in range(100):
        example = maker.make(task, rng(i))
        content = example.instruction.references[-1].image
        np.testing.assert_array_equal(content[..., 1], example.target[..., 1])


def _one_subject(maker, row):
    """Edits join two subjects, which have two alphas: there the second is given the first one's."""
    maker.corpus.images[row[1], ..., 3] = maker.corpus.images[row[0], ..., 3] = ALPHA
    for i in row[:2]:
        maker.white[i] = 255 - ALPHA[..., None]
    return True


def test_mask_is_the_alpha_of_the_target_after_its_move():
    maker = make_maker("mask")
    for i in range(200):
        example = maker.make("mask", rng(i))
        mask = example.instruction.references[0].image[..., 1].astype(float)
        green = example.target[..., 1]
        behind = max(green[mask == 0], default=255)
        np.testing.assert_allclose(green, behind * (255 - mask) / 255, atol=3)


def test_without_augmentation_pictures_lie_still_on_white():
    maker = make_maker("text_to_image", augment=False)
    for i in range(50):
        row = maker.tables["text_to_image"].draw(rng(i).random())
        np.testing.assert_array_equal(maker.make("text_to_image", rng(i)).target, maker.white[row[0]])


def test_clocks_are_not_mirrored():
    maker = make_maker("text_to_image")
    pictures = maker.corpus.pictures
    clocks = [i for i, p in enumerate(pictures) if p.subgroup == "time"]
    apples = [i for i, p in enumerate(pictures) if p.subgroup == "food-fruit"]
    assert not any(maker.scene(rng(i), clocks[0])._geometry.flip for i in range(50))
    assert not any(maker.scene(rng(i), apples[0], clocks[0])._geometry.flip for i in range(50))
    assert any(maker.scene(rng(i), apples[0])._geometry.flip for i in range(50))


@pytest.mark.parametrize("task", ["style", "style_transfer"])
def test_no_word_names_a_style_that_a_reference_shows(task):
    maker = make_maker(task)
    for i in range(200):
        instruction = maker.make(task, rng(i)).instruction
        words = " ".join([instruction.text, *(reference.text for reference in instruction.references)])
        assert not any(style.phrase in words for style in STYLES.values())


def test_subject_mostly_names_the_style_and_the_held_out_style_has_no_name():
    maker = make_maker("subject")
    texts = [maker.make("subject", rng(i)).instruction.text for i in range(200)]
    assert 0.65 < np.mean([any(style.phrase in text for style in STYLES.values()) for text in texts]) < 0.85
    held_out = make_maker("style", split="test")
    targets = {held_out.corpus.pictures[i].style for (i,) in held_out.tables["style"].rows}
    assert "fxemoji" in targets
    assert all("paper" not in held_out.make("style", rng(i)).instruction.text for i in range(50))


@pytest.mark.parametrize("task", ["style_transfer", "edit"])
def test_content_is_called_that_or_by_its_name(task):
    maker, called = make_maker(task), []
    for i in range(100):
        content, *_ = maker.tables[task].draw(rng(i).random())
        called.append(maker.make(task, rng(i)).instruction.references[-1].text)
        assert called[-1] in ("content image", maker.short_name(content))
    assert 0.35 < np.mean([text == "content image" for text in called]) < 0.65


def test_edits_say_what_changes():
    subjects = (
        ("1f34e", "red apple", "food-fruit"),
        ("1f34f", "green apple", "food-fruit"),
        ("1f469-200d-1f33e", "woman farmer", "person-role"),
        ("1f468-200d-1f33e", "man farmer", "person-role"),
        ("1f468-200d-1f373", "man cook", "person-role"),
        ("1f6b6", "person walking", "person-activity"),
        ("1f6b6-200d-27a1", "person walking: facing right", "person-activity"),
        ("1f468-200d-1f9b0", "man: red hair", "person"),
        ("1f468-200d-1f9b2", "man: bald", "person"),
        ("1f550", "one o'clock", "time"),
        ("1f55c", "one-thirty", "time"),
        ("1f408", "cat", "animal-mammal"),
        ("1f408-200d-2b1b", "black cat", "animal-mammal"),
        ("1f600", "grinning face", "face-smiling"),
        ("1f642", "slightly smiling face", "face-smiling"),
        ("1f44b-1f3fb", "waving hand: light skin tone", "hand-fingers-open"),
        ("1f44b-1f3ff", "waving hand: dark skin tone", "hand-fingers-open"),
    )
    changes = {(edit.source, edit.target): edit.change for edit in find_edits(subjects)}
    assert changes["1f34e", "1f34f"] == "change red to green"
    assert changes["1f469-200d-1f33e", "1f468-200d-1f33e"] == "replace the woman by a man"
    assert changes["1f468-200d-1f33e", "1f468-200d-1f373"] == "turn the farmer into a cook"
    assert changes["1f6b6", "1f6b6-200d-27a1"] == "make it face right"
    assert changes["1f6b6-200d-27a1", "1f6b6"] == "make it face left"
    assert changes["1f468-200d-1f9b2", "1f468-200d-1f9b0"] == "give the person red hair"
    assert changes["1f550", "1f55c"] == "set the clock to one-thirty"
    assert changes["1f408", "1f408-200d-2b1b"] == "turn the cat into a black cat"
    assert changes["1f600", "1f642"] == "change the expression to a slightly smiling face"
    assert changes["1f44b-1f3fb", "1f44b-1f3ff"] == "change the skin from light to dark"
    assert len(changes) == 18  # each of the nine both ways, and nothing else


def test_tone_edits_are_capped():
    table = Pairs(make_corpus().pictures).edits()
    tones = sum("skin" in table.draw((i + 0.5) / 5000)[2] for i in range(5000)) / 5000
    assert sum("skin" in row[2] for row in table.rows) > 0.5 * len(table.rows)
    assert tones == pytest.approx(TONE_EDITS, abs=0.01)


def test_neighbors_are_others_of_the_clusters_in_the_stated_shares():
    corpus = make_corpus()
    images = corpus.images[..., :3].copy()
    images[1] = images[0]  # the same pixels under another number
    neighbors = Neighbors(images, corpus.pictures)
    for i in range(200):
        found = neighbors.draw(0, 3, rng(i))
        assert len(found) == len(set(found)) == 3 and not {0, 1} & set(found)
    assert neighbors.exist(0)
    drawn = [corpus.pictures[neighbors.draw(0, 1, rng(i))[0]] for i in range(3000)]
    # Two of the three fruits share the root, and so do all apples; the two pictures above are never drawn.
    own, others = 2 * DESIGNS - 2, DESIGNS
    by_root = 0.3 + 0.2 / 2  # subgroup 0.5, root 0.3, keyword 0.2, of which half say "apple"
    expected = by_root + (1 - by_root) * own / (own + others)
    assert np.mean([p.root == corpus.pictures[0].root for p in drawn]) == pytest.approx(expected, abs=0.025)


DESIGNS = sum(picture.name == "lemon" for picture in make_corpus().pictures)


def test_long_texts_take_another_phrasing_then_fewer_references():
    short = make_maker("neighbors", fits=lambda text: len(text) < 165)
    assert all(len(short.make("neighbors", rng(i)).instruction.text) < 165 for i in range(50))
    counts = {len(short.make("neighbors", rng(i)).instruction.references) for i in range(50)}
    assert min(counts) < 3


@pytest.mark.parametrize(
    "task, changes, words",
    [
        ("oil", {}, "data.mixture.oil: there is no such task"),
        ("style_transfer", {"max_references": 1}, "needs 2 references and data.max_references is 1"),
        ("text_to_image", {"fits": lambda text: len(text) < 40}, "data.text_length is too short"),
    ],
)
def test_impossible_tasks_are_one_clear_line(task, changes, words):
    with pytest.raises(TaskError, match=words) as caught:
        make_maker(task, **changes)
    assert "\n" not in str(caught.value)


def test_a_task_without_pairs_names_the_corpus_and_the_mend():
    corpus = make_corpus()
    few = type(corpus)(corpus.images[:1], corpus.pictures[:1], {})
    for task in ("line", "depth", "subject", "style", "style_transfer", "edit", "neighbors"):
        family = "furniture" if task == "depth" else "emoji"
        with pytest.raises(TaskError, match=f"data.mixture.{task}: the test corpus has no pair.*prepare {family}"):
            make_maker(task, corpus=few)


# furniture


@pytest.mark.parametrize("task", DRAWN)
def test_furniture_beside_the_emoji_leaves_their_pairs_as_they_were(task):
    alone, both = make_maker(task), make_maker(task, corpus=join(make_corpus(), make_furniture()))
    emoji = len(alone.corpus.pictures)
    rows = [row for row in both.tables[task].rows if max(_numbers(row)) < emoji]
    assert rows == alone.tables[task].rows
    others = [row for row in both.tables[task].rows if max(_numbers(row)) >= emoji]
    if task in ("line", "style", "style_transfer", "edit"):
        assert not others
    else:  # of each model eight views, and never a depth map, are drawn
        shown = [both.corpus.pictures[row[0]] for row in others]
        assert len(others) == 8 * len(MODELS) and all(STYLES[picture.style].view for picture in shown)


def _numbers(row):
    """The picture numbers in a row, however deep."""
    return [n for part in row for n in (_numbers(part) if isinstance(part, tuple) else [part]) if isinstance(n, int)]


def test_depth_goes_with_its_own_view_and_moves_with_it():
    maker = make_maker("depth", corpus=make_furniture())
    pictures = maker.corpus.pictures
    sides = {pictures[i].style[-1] + pictures[j].style[-1] for i, j in maker.tables["depth"].rows}
    assert sides == {f"{k}{k}" for k in range(8)} and len(maker.tables["depth"].rows) == 8 * len(MODELS)
    for i in range(100):
        example = maker.make("depth", rng(i))
        (reference,) = example.instruction.references
        assert reference.text == "depth map" and not (reference.image[0] | reference.image[-1]).any()
        source, target = maker.tables["depth"].draw(rng(i).random())
        full = maker.corpus.images[source, 0, 0, 0]
        behind = example.target[reference.image[..., 0] == 0].max(axis=0, initial=0)
        covered = reference.image[..., :1] / full
        expected = covered * maker.corpus.images[target, 0, 0, :3] + (1 - covered) * behind
        np.testing.assert_allclose(example.target, expected, atol=5)


def test_other_views_of_a_model_are_the_references_of_a_view(shown):
    maker = make_maker("subject", corpus=make_furniture())
    counts = set()
    for i in range(200):
        example, target, references = draw(maker, "subject", i, shown)
        assert all(r.subject == target.subject and STYLES[r.style].view for r in references)
        assert len({r.style for r in (target, *references)}) == len(references) + 1
        assert STYLES[target.style].phrase in example.instruction.text  # "seen from the back left"
        assert {reference.text for reference in example.instruction.references} == {target.name}
        counts.add(len(references))
    assert counts == {1, 2, 3}


def test_a_model_is_not_mirrored():
    maker = make_maker("text_to_image", corpus=join(make_corpus(), make_furniture()))
    views = [i for i, picture in enumerate(maker.corpus.pictures) if STYLES[picture.style].view]
    assert not any(maker.scene(rng(i), views[i % len(views)])._geometry.flip for i in range(100))


def test_neighbors_of_a_view_are_views():
    corpus = join(make_corpus(), make_furniture())
    neighbors = Neighbors(corpus.images[..., :3], corpus.pictures)
    first = next(i for i, picture in enumerate(corpus.pictures) if STYLES[picture.style].view)
    found = {corpus.pictures[j].style for i in range(100) for j in neighbors.draw(first, 3, rng(i))}
    assert found and all(STYLES[style].view for style in found)
