"""Judges trained for a few steps on drawings made here: they learn, come back from the cache bit for bit, and say how
good they are; a subject is searched in designs that nobody showed.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
import small_corpus
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from data_pipelines.corpus import Corpus, Picture
from data_pipelines.instruction import Instruction, Reference
from data_pipelines.suites import Case
from data_pipelines.wanted import Wanted
from data_pipelines.wording import Example
from imagen_jax.evaluation import judge_style, measures
from imagen_jax.evaluation import judges as module
from imagen_jax.evaluation.judge_gallery import Gallery
from imagen_jax.evaluation.judge_networks import Depth, Vector
from imagen_jax.evaluation.judge_subject import FEATURES, SubjectJudge
from imagen_jax.evaluation.judge_training import Pool, root_splits, soften
from imagen_jax.evaluation.judges import KINDS, RELEASED, VERSION, JudgeError, digest, open_judges

SIZE = 8
STEPS = {"style": 60, "subject": 4, "depth": 60}
INKS = {"noto": (220, 30, 30), "twemoji": (30, 30, 220), "openmoji": (20, 160, 20), "fxemoji": (200, 180, 20)}


def shape(number: int, ink: tuple[int, int, int]) -> np.ndarray:
    """A drawing of subject `number` [S, S, 4]: its own random blocks in one ink, which is the style."""
    blocks = np.random.default_rng(number).integers(0, 2, (6, 6))
    picture = np.zeros((SIZE, SIZE, 4), np.uint8)
    picture[1:7, 1:7, :3] = ink
    picture[1:7, 1:7, 3] = 255 * blocks
    return picture


def drawings() -> Corpus:
    """Sixteen subjects in three styles and the held-out one; the last four are for tests."""
    pictures, images = [], []
    for number in range(16):
        split = "train" if number < 12 else "test"
        for style, ink in INKS.items():
            shown = "test" if style == "fxemoji" else split
            pictures.append(Picture(f"s{number}", f"r{number}", style, shown, f"thing {number}", (), "group", "sub"))
            images.append(shape(number, ink))
    return Corpus(np.stack(images), tuple(pictures), {})


def models() -> Corpus:
    """Slabs as bright as they are near, for training and for tests."""
    corpus = small_corpus.make_furniture()
    pictures, images = [], []
    for i, picture in enumerate(corpus.pictures):
        image = np.zeros((SIZE, SIZE, 4), np.uint8)
        image[1:7, 1:7, 3] = 255
        turn = -1 if picture.style[-1] in "0246" else 1
        image[1:7, 1:7, :3] = np.linspace(60, 240, 6).astype(np.uint8)[::turn, None, None]
        pictures.append(dataclasses.replace(picture, split="train" if i < len(corpus.pictures) // 2 else "test"))
        images.append(image)
    return Corpus(np.stack(images), tuple(pictures), {})


@pytest.fixture(scope="module")
def corpus():
    return small_corpus.join(drawings(), models())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Pictures of one ink need no large batches."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            patch.setattr(kind, "batch_size", 16)
        yield


@pytest.fixture(scope="module")
def judges(corpus, cache):
    return open_judges(corpus, SIZE, cache, seed=0, steps=STEPS)


def white(number: int, style: str) -> np.ndarray:
    rgba = shape(number, INKS[style])
    return np.where(rgba[..., 3:] > 0, rgba[..., :3], 255).astype(np.uint8)


def test_style_judge_separates_styles_of_new_subjects(judges):
    pictures = np.stack([white(100 + i, style) for i in range(5) for style in INKS])
    assert list(judges.style(pictures)) == list(INKS) * 5
    assert judges.measured["style"]["accuracy"] == 1 and judges.measured["style"]["pictures"] == 4 * 4 + 8
    assert judges.measured["style"]["by_class"].keys() == {*INKS, "model"}


def test_depth_judge_knows_more_than_a_flat_map(judges):
    measured = judges.measured["depth"]
    assert measured["error"] < measured["error_flat"] / 3
    found = judges.depth(np.full((3, SIZE, SIZE, 3), 255, np.uint8))
    assert found.shape == (3, SIZE, SIZE) and found.min() >= 0 and found.max() <= 1


def test_subject_vectors_have_length_one(judges):
    vectors = judges.embed(np.stack([white(i, "noto") for i in range(130)]))  # more than one batch
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(judges.embed(white(3, "noto")[None])[0], vectors[3])


def test_cached_judges_answer_bit_for_bit(judges, corpus, cache):
    files = sorted(path.name for path in cache.iterdir())
    assert len(files) == 6 and not any(name.endswith(".partial") for name in files)
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = open_judges(corpus, SIZE, cache, seed=0, steps=STEPS)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before
    pictures = np.stack([white(i, style) for i in range(4) for style in INKS])
    np.testing.assert_array_equal(again.embed(pictures), judges.embed(pictures))
    np.testing.assert_array_equal(again.depth(pictures), judges.depth(pictures))
    assert again.measured == judges.measured and again.told() == judges.told()


def test_released_judges_come_first_and_are_measured_anew(judges, corpus, cache, tmp_path, monkeypatch):
    for path in cache.iterdir():  # released ones are files of the cache under a shorter name
        (tmp_path / f"{path.stem.rsplit('-', 1)[0]}{path.suffix}").write_bytes(path.read_bytes())
    monkeypatch.setattr(module, "RELEASED", tmp_path)
    images = corpus.images.copy()
    images[..., :3] = images[..., :3] // 2  # rendered in another way, which no judge here was trained on
    pictures = np.stack([white(i, style) for i in range(4) for style in INKS])
    found = open_judges(Corpus(images, corpus.pictures, {}), SIZE, tmp_path / "none")
    np.testing.assert_array_equal(found.embed(pictures), judges.embed(pictures))
    assert found.measured["style"]["accuracy"] < 1 and not (tmp_path / "none").exists()
    for kind in KINDS:
        monkeypatch.setattr(kind, "steps", 1)
    renamed = (dataclasses.replace(corpus.pictures[0], name="another"), *corpus.pictures[1:])
    open_judges(Corpus(corpus.images, renamed, {}), SIZE, tmp_path / "anew")
    assert len(list((tmp_path / "anew").iterdir())) == 6


def test_the_released_judges_are_those_of_this_code():
    listings = set()
    for kind, network in {"style": Vector(13), "subject": Vector(FEATURES), "depth": Depth()}.items():
        facts = json.loads((RELEASED / f"{kind}-32px.json").read_text())
        assert (facts["version"], facts["size"], facts["seed"]) == (VERSION, 32, 0)
        listings.add(facts["listing"])
        weights = unflatten_dict(load_file(RELEASED / f"{kind}-32px.safetensors"), sep="/")
        shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
        assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, shapes)
    assert len(listings) == 1


def test_training_is_a_function_of_corpus_and_seed():
    one, same = (jax.tree.leaves(SubjectJudge(Pool(drawings())).train(SIZE, seed=1, steps=2)) for _ in range(2))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_corpus_has_another_key(corpus):
    images, pictures = corpus.images.copy(), list(corpus.pictures)
    images[0, 0, 0, 0] ^= 1
    pictures[0] = dataclasses.replace(pictures[0], split="validation")
    changed = [Corpus(images, corpus.pictures, {}), Corpus(corpus.images, tuple(pictures), {})]
    assert len({digest(each) for each in (corpus, *changed)}) == 3
    assert digest(Corpus(corpus.images.copy(), corpus.pictures, {"other": {}})) == digest(corpus)


def test_it_is_told_in_a_line_each(judges):
    lines = judges.told().splitlines()
    assert [line.split(":")[0] for line in lines] == ["style judge", "subject judge", "depth judge"]
    assert "100.0%" in lines[0]
    assert judges.accuracies.keys() == {"style accuracy", "subject recall", "depth error"}


def test_a_judge_that_a_corpus_cannot_train_is_missed_with_a_reason(tmp_path):
    every = drawings()
    ids = [i for i, picture in enumerate(every.pictures) if picture.style == "noto"]
    few = open_judges(Corpus(every.images[ids], tuple(every.pictures[i] for i in ids), {}), SIZE, tmp_path)
    assert few.missing == {
        "style": "the corpus has no two styles in its training split",
        "subject": "the corpus has no two training subjects in several designs",
        "depth": "the corpus has no views of models with their depth maps",
    }
    assert "no style judge: the corpus has no two styles" in few.told()
    assert measures.left_out(few)["style"] == few.missing["style"] and not any(tmp_path.iterdir())
    with pytest.raises(JudgeError, match="there is no style judge: the corpus has no two styles"):
        few.style(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_bad_input_is_one_line(judges, corpus, cache):
    with pytest.raises(JudgeError, match="loaded at 8 px, judges of 32 px") as caught:
        open_judges(corpus, 32, cache)
    assert "\n" not in str(caught.value)
    weights = next(cache.glob("style-*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:40])
    with pytest.raises(JudgeError, match=r"style-.*: unreadable .*: delete style-") as caught:
        open_judges(corpus, SIZE, cache, seed=0, steps=STEPS)
    assert "\n" not in str(caught.value)
    weights.write_bytes(whole)


def test_weights_without_their_facts_are_no_judge(tmp_path):
    open_judges(models(), SIZE, tmp_path, steps={"depth": 1})
    (facts,) = tmp_path.glob("*.json")
    assert json.loads(facts.read_text())["steps"] == 1
    facts.unlink()  # as if killed between the two files
    open_judges(models(), SIZE, tmp_path, steps={"depth": 1})
    assert facts.exists()


def test_the_held_out_style_is_split_by_the_other_pictures_of_its_root():
    pictures = drawings().pictures
    split = root_splits(pictures[::-1])  # the held-out style comes first
    assert split == root_splits(pictures)
    assert [split[f"r{i}"] for i in (0, 11, 12, 15)] == ["train", "train", "test", "test"]
    judge = judge_style.StyleJudge(Pool(drawings()))
    assert "fxemoji" in judge.classes
    labels = judge.batch(np.random.default_rng(0))["labels"]
    assert set(labels) == set(range(4))


def test_softening_is_slight_and_keeps_half_as_it_is():

    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), np.uint8)
    moved = np.abs(np.asarray(soften(images, jax.random.key(0))) - (images / 127.5 - 1)).max((1, 2, 3))
    assert 0.15 < (moved < 1e-6).mean() < 0.35  # neither blurred nor noisy
    flat = np.asarray(soften(np.full((50, 8, 8, 3), 128, np.uint8), jax.random.key(1)))
    assert 0.005 < np.abs(flat).max() < 0.2  # blur changes nothing flat, and noise is a few grey levels


class ByRoot:
    """A perfect embedding: the vector of a picture is where its blocks are."""

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        x = (pictures.min(-1) < 250).reshape(len(pictures), -1) - 0.5
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_gallery_leaves_out_the_designs_that_were_shown():
    gallery = Gallery(Pool(drawings()), ByRoot())
    assert set(gallery.roots) == {"r12", "r13", "r14", "r15"}  # never a held-out style of a training root
    shown = gallery.looks_shown([white(12, "noto"), white(99, "noto")], "twemoji")
    assert shown == {"noto", "twemoji"}  # the first by its pixels; the second is no real picture
    pictures = np.stack([white(12, "noto"), white(13, "noto"), white(12, "noto")])
    found = gallery.find(pictures, [("r12",), ("r12",), ("r12",)], [shown, shown, set(INKS)])
    np.testing.assert_array_equal(found, [1, 0, np.nan])
    assert gallery.recall() == (1.0, 16)


def test_two_subjects_must_both_stand_where_they_belong():
    gallery = Gallery(Pool(drawings()), ByRoot())
    large = np.full((2 * SIZE, 2 * SIZE, 3), 255, np.uint8)
    large[4:12, :8], large[4:12, 8:] = white(12, "noto"), white(13, "noto")
    gallery._embed = lambda parts: ByRoot()(parts[:, ::2, ::2])  # back to the gallery's size
    pair = large[None]
    assert gallery.find(pair, [("r12", "r13")], [set()]) == 1
    assert gallery.find(pair, [("r13", "r12")], [set()]) == 0
    assert gallery.find(pair, [("r12", "r14")], [set()]) == 0
    assert np.isnan(gallery.find(pair, [()], [set()]))


def case(target: np.ndarray, reference: np.ndarray, **wanted) -> Case:
    instruction = Instruction("Draw [ref#1] it.", (Reference("[ref#1]", "it", reference),))
    return Case("subject", 0, Example(instruction, target, "subject"), Wanted(**wanted))


def test_scores_of_judges(judges):
    cases = [
        case(white(12, "noto"), white(12, "twemoji"), roots=("r12",), style="noto"),
        case(white(13, "noto"), white(13, "twemoji"), roots=("r13",), style="twemoji"),
        case(white(14, "noto"), white(14, "twemoji")),
    ]
    pictures = np.stack([white(i, "noto") for i in (12, 13, 14)])
    scores = measures.scores_of(pictures, cases, judges)
    np.testing.assert_array_equal(scores["style"], [1, 0, np.nan])
    assert np.isfinite(scores["subject"][:2]).all() and np.isnan(scores["subject"][2])
    assert set(measures.left_out(judges)) == {"vgg_distance", "clip_i", "clip_t"}
