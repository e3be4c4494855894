"""The corpus format and the bundled fixture: it loads, is what it claims, and damage gives one line with a mend."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines.corpus import FIXTURE, SPLITS, CorpusError, SheetWriter, load_corpus, write_index

FIXTURE_LIMIT = 2_200_000  # bytes
SOURCE = {"licence": "MIT", "held_out": False}
ROW = ["1f34e", "1f34e", "train", "red apple", "fruit|red", "food-drink", "food-fruit", "noto:0"]


@pytest.fixture(scope="module")
def fixture():
    return load_corpus("fixture", 32)


def rows_of(corpus, style):
    return {picture.subject: i for i, picture in enumerate(corpus.pictures) if picture.style == style}


def intersection_over_union(corpus, a, b):
    a_rows, b_rows = rows_of(corpus, a), rows_of(corpus, b)
    both = sorted(a_rows.keys() & b_rows.keys())
    one = corpus.images[[a_rows[code] for code in both], ..., 3] > 127
    other = corpus.images[[b_rows[code] for code in both], ..., 3] > 127
    return (one & other).sum((1, 2)) / (one | other).sum((1, 2))


def tiny_corpus(folder, tiles, row=ROW, sources=None):
    writer = SheetWriter(folder, "noto", tiles[0].shape[0], lossless=True)
    for tile in tiles:
        writer.add(tile)
    writer.flush()
    write_index(folder, tiles[0].shape[0], sources or {"noto": SOURCE}, {}, [row])
    return folder


def test_fixture_arrays_match_the_pictures(fixture):
    assert fixture.images.shape == (len(fixture.pictures), 32, 32, 4)
    assert fixture.images.dtype == np.uint8
    assert (fixture.images[..., 3].max((1, 2)) > 127).all()  # no empty tile
    assert len({(p.subject, p.style) for p in fixture.pictures}) == len(fixture.pictures)


def test_fixture_no_root_in_two_splits(fixture):
    splits = {}
    for picture in fixture.pictures:
        splits.setdefault(picture.root, set()).add(picture.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(("split", "least"), [("train", 500), ("validation", 40), ("test", 40)])
def test_fixture_has_enough_roots_in_every_style(fixture, split, least):
    roots = {}
    for picture in fixture.pictures:
        if picture.split == split:
            roots.setdefault(picture.style, set()).add(picture.root)
    assert len(set.intersection(*roots.values())) >= least
    assert roots.keys() == fixture.sources.keys()


def test_fixture_names_are_the_subjects(fixture):
    names = {picture.subject: picture.name for picture in fixture.pictures}
    assert names["1f34f"] == "green apple"
    assert names["1f499"] == "blue heart"
    assert next(p for p in fixture.pictures if p.subject == "1f499").root == "2764"


def test_fluent_renderings_are_aligned_and_other_houses_are_not(fixture):
    assert np.median(intersection_over_union(fixture, "fluent_flat", "fluent_color")) > 0.9
    assert np.median(intersection_over_union(fixture, "fluent_flat", "fluent_3d")) > 0.9
    assert np.median(intersection_over_union(fixture, "fluent_flat", "noto")) < 0.9


def test_high_contrast_style_is_black(fixture):
    drawn = fixture.images[list(rows_of(fixture, "fluent_hc").values())]
    assert drawn[..., :3][drawn[..., 3] > 200].max() < 16


def test_fixture_stays_small():
    assert sum(path.stat().st_size for path in FIXTURE.rglob("*") if path.is_file()) <= FIXTURE_LIMIT


def test_notice_names_every_source(fixture):
    notice = (FIXTURE / "NOTICE").read_text(encoding="utf-8")
    for style, source in fixture.sources.items():
        assert f"{style}: {source['name']} {source['version']}, {source['author']}, {source['licence']}" in notice
        assert source["licence"] in {"MIT", "Apache-2.0"}
    assert "Permission is hereby granted" in notice
    assert "Licensed under the Apache License, Version 2.0" in notice


def test_scaling_is_by_area_with_premultiplied_colour(tmp_path):
    tile = np.zeros((8, 8, 4), np.uint8)
    tile[:, :4] = (255, 0, 0, 255)  # left half red, right half transparent black
    corpus = load_corpus(tiny_corpus(tmp_path, [tile]), 2)
    assert corpus.images[0, 0, 0, 0] == 255
    assert 225 <= corpus.images[0, 0, 0, 3] <= 255
    mixed = load_corpus(tmp_path, 1).images[0, 0, 0]
    assert tuple(mixed[:3]) == (255, 0, 0)  # not darkened by the transparent half
    assert mixed[3] == pytest.approx(128, abs=1)


def another_corpus(folder, subject):
    tile = np.full((8, 8, 4), 255, np.uint8)
    sources = {"noto": SOURCE | {"licence": "CC0-1.0"}}
    return tiny_corpus(folder, [tile], [subject, subject, *ROW[2:]], sources)


@pytest.mark.parametrize("named", ["with commas", "as a sequence"])
def test_several_folders_are_one_corpus(tmp_path, named):
    folders = [another_corpus(tmp_path / "one", "chair"), another_corpus(tmp_path / "two", "table")]
    both = load_corpus(f"{folders[0]}, {folders[1]}" if named == "with commas" else folders, 4)
    assert [picture.subject for picture in both.pictures] == ["chair", "table"]
    assert both.images.shape == (2, 4, 4, 4) and (both.images == 255).all()
    mixed = load_corpus(f"fixture,{folders[1]}", 8)
    alone = load_corpus("fixture", 8)
    np.testing.assert_array_equal(mixed.images[:-1], alone.images)
    assert mixed.pictures[:-1] == alone.pictures
    assert mixed.sources.keys() == alone.sources.keys()


def test_a_subject_of_two_folders_is_refused(tmp_path):
    folders = [another_corpus(tmp_path / name, "chair") for name in ("one", "two")]
    with pytest.raises(CorpusError, match=f"subject 'chair' is in {folders[0]} and again in {folders[1]}"):
        load_corpus(folders, 4)
    with pytest.raises(CorpusError, match="no corpus is named"):
        load_corpus([], 4)
    with pytest.raises(CorpusError, match=r"prepare furniture --output=.*furniture-64"):
        load_corpus(f"fixture,{tmp_path / 'furniture-64'}", 4)


def test_own_size_is_exact_and_tiles_keep_their_numbers(tmp_path):
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (1030, 4, 4, 4), np.uint8)  # one sheet and six tiles
    tiles[..., 3] = 255
    tiny_corpus(tmp_path, list(tiles), [*ROW[:-1], "noto:0 noto:33 noto:1023 noto:1024 noto:1029"])
    np.testing.assert_array_equal(load_corpus(tmp_path, 4).images, tiles[[0, 33, 1023, 1024, 1029]])


def test_held_out_style_is_test_whatever_its_root(tmp_path):
    tile = np.full((4, 4, 4), 255, np.uint8)
    folder = tiny_corpus(tmp_path, [tile], sources={"noto": SOURCE | {"held_out": True}})
    assert [picture.split for picture in load_corpus(folder, 4).pictures] == ["test"]
    assert "test" in SPLITS


def damaged(tmp_path):
    return tiny_corpus(tmp_path / "corpus", [np.full((4, 4, 4), 255, np.uint8)])


def replace_row(folder, position, value):
    row = [*ROW[:position], value, *ROW[position + 1 :]]
    header = (folder / "index.tsv").read_text().splitlines()[0]
    (folder / "index.tsv").write_text(f"{header}\n" + "\t".join(row) + "\n")


DAMAGE = {
    "missing folder": (shutil.rmtree, "is no corpus: it has no manifest.json"),
    "broken manifest": (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: unreadable"),
    "other format": (lambda f: (f / "manifest.json").write_text('{"format": 9}'), "not a corpus of format 1"),
    "missing index": (lambda f: (f / "index.tsv").unlink(), "index.tsv: unreadable"),
    "no header": (lambda f: (f / "index.tsv").write_text("x\n"), "index.tsv:1: the header"),
    "short line": (lambda f: replace_row(f, 7, "a\tb"), "index.tsv:2: 9 tab-separated fields, expected 8"),
    "bad subject": (lambda f: replace_row(f, 0, "an apple"), "index.tsv:2: 'an apple'"),
    "bad split": (lambda f: replace_row(f, 2, "dev"), "index.tsv:2: split 'dev'"),
    "unknown style": (lambda f: replace_row(f, 7, "oil:0"), "index.tsv:2: tile 'oil:0'"),
    "bad tile": (lambda f: replace_row(f, 7, "noto:x"), "index.tsv:2: tile 'noto:x'"),
    "no such tile": (lambda f: replace_row(f, 7, "noto:999"), "noto-0.webp: has no tile 999"),
    "missing sheet": (lambda f: (f / "sheets" / "noto-0.webp").unlink(), "noto-0.webp: no such file"),
    "broken sheet": (lambda f: (f / "sheets" / "noto-0.webp").write_bytes(b"RIFF"), "noto-0.webp: not a readable"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_gives_one_line_with_the_place_and_the_mend(tmp_path, damage):
    folder = damaged(tmp_path)
    load_corpus(folder, 4)  # whole before the damage
    inflict, expected = DAMAGE[damage]
    inflict(folder)
    with pytest.raises(CorpusError) as caught:
        load_corpus(folder, 4)
    message = str(caught.value)
    assert expected in message
    assert str(folder) in message
    assert f"python -m data_pipelines.prepare emoji --output={folder}" in message
    assert "\n" not in message


def test_a_truncated_sheet_is_reported(tmp_path):
    folder = damaged(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    path = folder / "sheets" / "noto-0.webp"
    Image.fromarray(noise).save(path, lossless=True)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorpusError, match="not a readable picture"):
        load_corpus(folder, 4)


@pytest.mark.parametrize("size", [0, 65])
def test_a_size_the_tiles_cannot_give_is_refused(size):
    with pytest.raises(CorpusError, match="64 px"):
        load_corpus("fixture", size)
