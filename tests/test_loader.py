"""The loader: example i is a pure function of (seed, i); threads end, errors arrive."""

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.instruction import Layout, pack
from data_pipelines.loader import MARKERS, PREFETCH, LoaderError, make_loader, prefetch
from data_pipelines.tasks import DRAWN
from data_pipelines.text import load_tokenizer
from tests.small_corpus import LAYOUT, SIZE, SUBJECTS, make_corpus, make_memory_loader


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows(batch, part):
    return jax.tree.map(lambda leaf: leaf[part], batch)


def config(**changes):
    data = dict(
        loader="memory", corpus="fixture", records="", tokenizer="", mixture={"edge": 0.5, "text_to_image": 0.5}
    )
    return ConfigDict(data | changes)


@pytest.fixture(scope="module")
def loader():
    return make_memory_loader(*DRAWN)


def test_example_i_is_the_same_from_any_start_and_batch_size(loader):
    whole = loader.batch(100, 24)
    assert_equal(rows(whole, slice(5, 9)), loader.batch(105, 4))
    assert_equal(rows(whole, slice(8, 16)), next(loader.batches(108, 8)))
    again = make_memory_loader(*DRAWN)
    again.example(3)  # what came before leaves no trace
    assert_equal(whole, again.batch(100, 24))


def test_the_subject_is_that_of_the_target():
    memory, names = make_memory_loader("text_to_image"), {subject[1]: [] for subject in SUBJECTS}
    for _, root, _, name, *_ in SUBJECTS:
        names[root].append(name)
    shown = {memory.subject(i, "text_to_image"): memory.example(i).instruction.text for i in range(40)}
    assert len(shown) > 3 and all(any(name in text for name in names[root]) for root, text in shown.items())


def test_resume_continues_at_the_next_example(loader):
    straight = loader.batches(0, 6)
    first = [next(straight) for _ in range(4)]
    resumed = loader.batches(12, 6)
    for batch in first[2:]:
        assert_equal(batch, next(resumed))


def test_seeds_and_positions_differ(loader):
    other = make_memory_loader(*DRAWN, seed=1)
    assert (loader.batch(0, 8, "edge").image != other.batch(0, 8, "edge").image).any()
    images = loader.batch(0, 40).image.reshape(40, -1)
    assert len(np.unique(images, axis=0)) > 30


def test_shapes_types_and_tasks(loader):
    batch = loader.batch(7, 5)
    assert batch.image.shape == (5, SIZE, SIZE, 3) and batch.image.dtype == np.uint8
    assert batch.text.tokens.shape == (5, LAYOUT.text_length) and batch.text.tokens.dtype == np.int32
    assert batch.context.images.shape == (5, 3, SIZE, SIZE, 3)
    assert batch.task.dtype == np.int32 and batch.index.dtype == np.int64
    assert batch.index.tolist() == [7, 8, 9, 10, 11]
    assert [loader.tasks[t] for t in batch.task] == [loader.example(i).task for i in range(7, 12)]
    one = loader.batch(7, 5, task="line")
    assert {loader.tasks[t] for t in one.task} == {"line"} and one.context.mask[:, 0].all()


def test_hosts_share_one_global_batch(loader):
    parts = [next(make_memory_loader(*DRAWN, process=(p, 2)).batches(8, 8)) for p in range(2)]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    assert_equal(whole, loader.batch(8, 8))
    with pytest.raises(LoaderError, match=r"train.batch_size 7 does not divide by 2 hosts"):
        make_memory_loader("edge", process=(0, 2)).batches(0, 7)


def test_prefetch_stays_a_little_ahead_and_ends_with_its_reader():
    made = []
    items = prefetch(made.append(i) or i for i in range(1000))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.2)
    assert len(made) <= 3 + PREFETCH + 1
    items.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]
    assert list(prefetch(iter("abc"))) == ["a", "b", "c"]


def test_prefetch_raises_the_thread_s_error_in_its_place():
    def broken():
        yield 1
        raise ValueError("no more")

    items = prefetch(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_the_fixture_serves_every_task_in_every_split():
    ratios = {task: 1 / len(DRAWN) for task in DRAWN}
    for split in ("train", "validation", "test"):
        made = make_loader(config(mixture=ratios), Layout(8, 3, 64, 24), split, seed=0)
        assert made.tasks == DRAWN
        batch = made.batch(0, 64)
        assert set(batch.task.tolist()) == set(range(len(DRAWN)))


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(loader="disk"), "data.loader 'disk' is none of memory, records"),
        (dict(mixture={"edge": 0.7}), "data.mixture sums to 0.7"),
        (dict(mixture={"edges": 1.0}), "data.mixture.edges: there is no such task"),
        (dict(loader="records"), "data.records is empty"),
    ],
)
def test_bad_settings_are_one_clear_line(changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_loader(config(**changes), LAYOUT, "train", seed=0)
    assert "\n" not in str(caught.value)


def test_seed_outside_its_range_is_refused():
    with pytest.raises(LoaderError, match="seed -1"):
        make_loader(config(), LAYOUT, "train", seed=-1)


def test_the_held_out_style_is_in_no_split_of_the_loader(monkeypatch):
    corpora = {split: make_corpus(split) for split in ("train", "test")}
    assert any(picture.style == "fxemoji" for picture in corpora["test"].pictures)
    for split, corpus in corpora.items():
        monkeypatch.setattr("data_pipelines.loader.load_corpus", lambda path, size, corpus=corpus: corpus)
        shown = make_loader(config(mixture={"style": 1.0}), LAYOUT, split, 0)._maker.corpus.pictures
        assert shown and not any(picture.style == "fxemoji" for picture in shown)


def test_in_training_no_marker_stands_for_a_role():
    tokenizer = load_tokenizer()
    mine = [tokenizer.marker_id(number) for number in range(1, MARKERS + 1)]
    layout = dataclasses.replace(LAYOUT, max_references=2)
    for split, wanted in (("train", (set(mine), set(mine))), ("test", ({mine[0]}, {mine[1]}))):
        loader = make_loader(config(mixture={"style_transfer": 1.0}), layout, split, 0)
        batch, dealt = loader.batch(0, 48), (set(), set())
        for i in range(48):
            _, stored = pack(loader.example(i).instruction, tokenizer, layout)
            np.testing.assert_array_equal(batch.context.images[i], stored.images)
            markers = batch.context.text.tokens[i, :, 0].tolist()  # of the style, of the content
            assert sorted(markers) == sorted(set(batch.text.tokens[i]) & set(mine))
            for role, marker in zip(dealt, markers, strict=True):
                role.add(marker)
        assert dealt == wanted


def test_in_training_some_instructions_tell_once_what_they_show():
    count, tokenizer = 200, load_tokenizer()
    for split, shares in (("train", (0.08, 0.22)), ("test", (0, 0))):
        loader = make_loader(config(mixture={"line": 1.0}), LAYOUT, split, 0)
        batch = loader.batch(0, count)
        packed = [pack(loader.example(i).instruction, tokenizer, LAYOUT) for i in range(count)]
        shorter = batch.text.mask.sum(1) < [text.mask.sum() for text, _ in packed]
        unnamed = batch.context.text.mask[:, 0].sum(1) < [context.text.mask[0].sum() for _, context in packed]
        assert not (shorter & unnamed).any()
        assert all(shares[0] <= share <= shares[1] for share in (shorter.mean(), unnamed.mean()))


def test_in_training_some_subjects_are_told_by_their_pictures_alone():
    for split, shares in (("train", (0.35, 0.65)), ("test", (0, 0))):
        loader = make_loader(config(mixture={"subject": 1.0}), LAYOUT, split, 0)
        named, unnamed = 0, 0
        for i in range(100):
            prepared, told = loader.example(i).instruction, loader.told(i).instruction
            name = prepared.references[0].text
            words = [told.text, *(reference.text for reference in told.references)]
            named += any(name in text for text in words)
            unnamed += any("the subject" in text for text in words) and not any(name in text for text in words)
            for reference, shown in zip(prepared.references, told.references, strict=True):
                np.testing.assert_array_equal(reference.image, shown.image)
        assert named + unnamed == 100 and shares[0] <= unnamed / 100 <= shares[1]


def test_without_instructions_the_same_pictures_come_with_captions_and_bare_markers():
    mixture = {"subject": 0.5, "style_transfer": 0.5}
    told, untold = (
        make_loader(config(mixture=mixture, instructions=on), LAYOUT, "train", seed=0) for on in (True, False)
    )
    for i in range(20):
        full, bare = told.example(i), untold.example(i)
        np.testing.assert_array_equal(full.target, bare.target)
        assert {reference.text for reference in bare.instruction.references} == {"image"}
        if bare.task == "style_transfer":
            assert bare.instruction.text == "[ref#1] [ref#2]"
            first, second = untold.batch(i, 1).context.text.tokens[0, :2, 0]
            assert first > second  # sentinels count down: the markers tell which is which, so they stay
        else:
            assert len(bare.instruction.text) < len(full.instruction.text)
        assert untold.batch(i, 1).context.mask.sum() == len(bare.instruction.references)


def test_without_augmentation_training_pictures_lie_still_on_white():
    moved, still = (
        make_loader(config(mixture={"line": 1.0}, augment=on), LAYOUT, "train", seed=0) for on in (True, False)
    )
    for i in range(20):
        target = still.example(i).target
        assert any(np.array_equal(target, white) for white in still._maker.white)
    assert any(not np.array_equal(moved.example(i).target, still.example(i).target) for i in range(20))


def style_texts(split="train", **changes):
    loader = make_loader(config(mixture={"style": 0.5, "style_transfer": 0.5}, **changes), LAYOUT, split, seed=0)
    return [loader.example(i).instruction.references[0].text for i in range(40)]


def test_a_share_of_the_style_pictures_tell_their_style_in_training():
    assert set(style_texts()) == {"style image"}
    assert all(text.startswith("style image, ") for text in style_texts(told_styles=1.0))
    told = [text != "style image" for text in style_texts(told_styles=0.5)]
    assert 8 < sum(told) < 32
    for untold in (dict(split="test"), dict(augment=False)):
        assert set(style_texts(told_styles=1.0, **untold)) == {"style image"}


def test_a_share_of_told_styles_is_a_share():
    with pytest.raises(LoaderError, match=r"data\.told_styles=2 is no share"):
        make_loader(config(told_styles=2), LAYOUT, "train", seed=0)


@pytest.mark.parametrize(("key", "value"), [("instructions", False), ("augment", False), ("told_styles", 0.4)])
def test_prepared_data_sets_are_as_they_were_prepared(key, value):
    with pytest.raises(LoaderError, match=rf"data\.{key}={value}"):
        make_loader(config(loader="records", **{key: value}), LAYOUT, "train", seed=0)
