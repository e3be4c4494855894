"""The steps of stage 1's data, each alone: quality, domains, clusters, near-duplicates, blocks, check of records."""

import argparse
import dataclasses
import json
import weakref
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("array_record")

from data_pipelines.corpus import SPLITS
from data_pipelines.images import encode_image, read_image
from data_pipelines.record_writer import SplitWriter
from data_pipelines.retrieval import (
    clustering,
    domains,
    duplicates,
    manifest,
    pairs,
    precomputed,
    quality,
    selection,
    verify,
    writing,
)
from data_pipelines.retrieval.blocks import Block, Pair, Row, WorkError, WorkFolder, block_name
from data_pipelines.retrieval.clusters import Cluster, Member, encode_cluster
from data_pipelines.retrieval.duplicates import Marks, Sameness
from data_pipelines.retrieval.quality import Limits
from data_pipelines.retrieval.settings import Settings, same_marks, split_of
from data_pipelines.sources import captions
from data_pipelines.sources.captioned import Captioned, Part, list_parts
from data_pipelines.splits import Splitter
from tests.small_pairs import make_pairs

SETTINGS = Settings("in", "out", "work", "", "cache", None)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)


# quality


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a red fox", ""),
        ("狐狸和葡萄", ""),
        ("ox", "caption too short"),
        ("x" * 401, "caption too long"),
        ("12 / 2019", "caption without words"),
        ("IMG_1234.jpg", "caption is a file name or an address"),
        ("DSC_0042", "caption is a file name or an address"),
        ("https://somewhere/a/b", "caption is a file name or an address"),
    ],
)
def test_captions_are_texts(caption, reason):
    assert quality.fault_of_caption(caption, Limits()) == reason


@pytest.mark.parametrize(
    ("shape", "reason"), [((64, 64), ""), ((63, 80), "side below 64 px"), ((64, 193), "aspect ratio above 3")]
)
def test_pictures_have_size_and_shape(shape, reason):
    picture = np.resize(NOISE, (*shape, 3))
    assert quality.fault_of_picture(picture, Limits()) == reason
    assert quality.fault_of_picture(np.full((64, 64, 3), 200, np.uint8), Limits()) == "blank picture"


def test_what_does_not_decode_is_broken_and_a_large_jpeg_is_judged_at_its_own_size():
    assert quality.open_picture(b"no picture", Limits(), 64) == "broken picture"
    large = encode_image(np.tile(NOISE[0], (16, 16, 1)), "jpeg")
    assert min(quality.open_picture(large, Limits(min_side=64), 64).shape[:2]) >= 64


# domains


def test_a_row_belongs_to_its_nearest_prompt():
    prompts = {"a": np.eye(4, dtype=np.float32)[:2], "b": np.eye(4, dtype=np.float32)[2:3]}
    [(first, near), (second, _), (third, far)] = domains.match(
        np.array([[0, 2, 0, 0], [0, 0, 3, 1], [0, 0, 0, 1]]), prompts
    )
    assert (first, second, near, far) == ("a", "b", 1, 0) and third == "a"  # of equal ones the first


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.json", b"{", "unreadable"),
        ("d.json", b"[]", "prompts"),
        ("d.json", b'{"a": []}', "without prompts"),
        ("d.npz", b"", "unreadable"),
        ("none.json", None, "unreadable"),
    ],
)
def test_bad_files_of_domains_are_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(domains.DomainError, match=words):
        domains.load_domains(tmp_path / name, None)


# clusters


def blobs(count=6, each=20, width=8):
    rng = np.random.default_rng(1)
    centres = clustering.unit(rng.normal(size=(count, width)))
    rows = clustering.unit(np.repeat(centres, each, axis=0) + 0.05 * rng.normal(size=(count * each, width)))
    return rows, np.repeat(np.arange(count), each)


def test_kmeans_moves_towards_the_rows_and_is_the_same_each_time():
    rows, _ = blobs()
    start = np.random.default_rng(0)
    first = rows[np.sort(start.choice(len(rows), 12, replace=False))]
    centroids = clustering.kmeans(rows, 12, seed=0)
    assert clustering.nearest(rows, centroids)[1].mean() > clustering.nearest(rows, first)[1].mean()
    np.testing.assert_array_equal(centroids, clustering.kmeans(rows, 12, seed=0))
    assert len(clustering.kmeans(rows[:3], 12, seed=0)) == 3


def test_seeds_are_the_most_central_rows_one_for_each_cluster():
    rows, blob = blobs()
    centroids = clustering.unit(np.stack([rows[blob == b].mean(axis=0) for b in range(6)]))
    seeds = clustering.seeds(rows, centroids)
    assert [blob[seed] for seed in seeds] == list(range(6)) and list(seeds) == sorted(set(seeds))
    for b, seed in enumerate(seeds):
        assert rows[seed] @ centroids[b] == pytest.approx(max(rows[blob == b] @ centroids[b]), abs=1e-6)


def test_a_large_domain_is_dealt_out_and_no_row_is_lost():
    rows = [row(f"{i}", vector) for i, vector in enumerate(blobs()[0])]
    _, centroids = selection.train_coarse(("train/a", rows), {"train/a": len(rows)}, most=40, seed=0)
    groups = Counter(selection.assign(("train/a", each), {"train/a": centroids})[0] for each in rows)
    assert 1 < len(groups) <= 3 and sum(groups.values()) == len(rows)
    _, none = selection.train_coarse(("train/a", rows), {"train/a": len(rows)}, most=120, seed=0)
    assert selection.assign(("train/a", rows[0]), {"train/a": none}) == ("train/a", rows[0])


# near-duplicates


def marks(i, embedding, same=(), picture=None):
    picture = NOISE[i] if picture is None else picture
    return Marks(np.asarray(embedding, float), duplicates.thumbnail(picture), duplicates.pixel_hash(picture), same)


def row(key, embedding, split="train", i=None, **fields):
    i = int(key) % len(NOISE) if i is None else i
    return Row(Pair(key, f"text {key}", "", "", split, key), marks(i, embedding, **fields), np.zeros(0))


def test_members_are_held_against_every_other_and_each_fault_has_its_name():
    e = np.eye(12)
    found = [
        marks(0, e[0]),
        marks(1, e[0] + 0.1 * e[1]),  # alike to the seed
        marks(2, e[2], same=("url=a",)),
        marks(3, e[3], same=("url=a",)),  # the URL of another member
        marks(0, e[4], picture=NOISE[2]),  # its pixels
        marks(5, e[5], picture=np.clip(NOISE[2].astype(int) + 2, 0, 255).astype(np.uint8)),  # nearly
        marks(6, e[2] + 0.1 * e[6]),  # alike to another member than the seed
        *(marks(10 + i, e[7 + i]) for i in range(5)),
    ]
    kept, dropped = duplicates.prune(found, 5, Sameness())
    assert kept == [0, 2, 7, 8, 9]
    alike = "similarity of 0.9 or more"
    assert dropped == {
        alike: 2, "same metadata": 1, "identical pixels": 1, "nearly equal pixels": 1, "beyond the 5 nearest": 2,
    }  # fmt: skip


def test_similarities_are_symmetric_and_as_precise_as_a_record():
    table = duplicates.similarities([marks(i, vector) for i, vector in enumerate(blobs()[0][:30])])
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_array_equal(table, np.round(table, 6))
    assert (np.diag(table) == 1).all()


def test_the_same_metadata_are_fields_that_are_there():
    pair = Captioned("k", b"", "a fox", url="u", meta={"root": "r", "house": "h", "empty": ""})
    assert same_marks(pair, ("url", "root+house", "empty", "missing", "root+empty")) == ("url=u", "root+house=r+h")


def test_splits_follow_the_set_itself_then_the_named_group_then_the_picture():
    assert split_of(Captioned("k", b"", "t", split="test"), SETTINGS) == "test"
    grouped = dataclasses.replace(SETTINGS, group="who")
    of_groups = {split_of(Captioned(str(i), b"", "t", meta={"who": "x"}, group=f"{i}"), grouped) for i in range(50)}
    assert len(of_groups) == 1
    found = Counter(split_of(Captioned("k", b"", "t", group=str(i)), SETTINGS) for i in range(5000))
    assert abs(found["test"] - 100) < 40 and abs(found["validation"] - 100) < 40


def test_both_stages_deal_a_picture_to_the_same_split_whatever_the_seed(tmp_path):
    rows = [json.dumps({"image": f"{i % 40}.png", "caption": f"a thing, {i}"}) for i in range(80)]
    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(encode_image(NOISE[i]))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    given = dict(input=str(tmp_path), image_column="", caption_column="")
    found = captions.items(argparse.Namespace(**given, min_size=1, max_aspect=3, min_similarity=0))
    splitter = Splitter((0.5, 0.25, 0.25))
    second = {item.key: splitter.split(item) for item in found}
    settings = dataclasses.replace(SETTINGS, size=16, limits=Limits(min_side=8), splits=(0.5, 0.25, 0.25), seed=7)
    [block] = pairs.read_blocks(list_parts(str(tmp_path))[0])
    screened = pairs.screen(block, WorkFolder(tmp_path / "work"), settings)
    assert {row.pair.key: row.pair.split for row in screened.rows} == second
    assert len(second) == 80 and set(second.values()) == set(SPLITS)


def test_clusters_have_exactly_five_and_no_two_have_the_same_members():
    rows = [row(str(i), vector) for i, vector in enumerate(np.eye(6))]
    [draft], counts = selection.drop_duplicates(("g", rows), SETTINGS)
    assert len(draft.pairs) == 5 and counts[selection.SIZE, pairs.KEPT] == 1
    drafts, counts = selection.drop_duplicates(("g", rows[:4]), SETTINGS)
    assert not drafts and counts[selection.SIZE, "fewer than 5 members"] == 1
    turned = selection.Draft("g", draft.pairs[::-1], draft.similarity)
    assert selection.members_of(draft) == selection.members_of(turned)
    [kept], counts = selection.one_cluster(("m", [turned, draft]))
    assert kept is draft and counts[selection.CLUSTERS, "the same members as another"] == 1


def test_copies_of_a_picture_or_caption_are_counted_and_not_gathered():
    alive, most = [], 0

    def copies():
        nonlocal most
        for key in ("3", "1", "2", *map(str, range(4, 30))):
            copy = row(key, [1.0], i=0)
            alive.append(weakref.ref(copy))
            yield copy
            del copy
            most = max(most, sum(ref() is not None for ref in alive))

    [first], counts = selection.first_picture(("pixels", copies()))
    assert first.pair.key == "1" and counts == {
        (selection.PICTURES, pairs.KEPT): 1,
        (selection.PICTURES, "identical pixels"): 28,
    }
    kept, counts = selection.few_captions(("caption", copies()), most=2)
    assert len(kept) == 2 and sorted(counts.values()) == [2, 27]
    assert most < 8


def test_a_number_that_comes_twice_among_tables_is_one_line(tmp_path):
    for name in ("a/img_emb_0.npy", "a/metadata_0.parquet", "b/img_emb_0.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(precomputed.list_tables(tmp_path / "a")) == 1
    with pytest.raises(precomputed.EmbeddingsError, match=r"b/img_emb_0.npy: .*a/img_emb_0.npy has the same number"):
        precomputed.list_tables(tmp_path)


# blocks


def test_a_block_is_kept_whole_and_belongs_to_its_settings_and_its_file(tmp_path):
    work = WorkFolder(tmp_path / "work")
    assert work.start({"size": 16}) == 0
    rows = [row("1", np.arange(4)), row("2", np.ones(4), same=("url=a",))]
    counts = Counter({("read", "kept"): 2, ("read", "broken"): 1})
    work.write("b-0", Block(rows, counts), [b"one", b"two"])
    assert work.start({"size": 16}) == 1 and work.read_pairs("b-0") == 3
    found = work.read("b-0")
    assert found.counts == counts and [each.pair.key for each in found.rows] == ["1", "2"]
    assert found.rows[1].marks.same == ("url=a",) and work.picture("b-0", found.rows[1].pair.number) == b"two"
    np.testing.assert_array_equal(found.rows[0].marks.embedding, np.arange(4))
    with pytest.raises(WorkError, match="was begun with size=16, not 32"):
        work.start({"size": 32})
    path = tmp_path / "a.tar"
    path.write_bytes(b"1")
    before = block_name(Part("webdataset", str(path), "a"), 0)
    path.write_bytes(b"22")
    assert before != block_name(Part("webdataset", str(path), "a"), 0)


def test_a_damaged_block_is_one_line_and_a_name_that_is_not_utf8_none(tmp_path):
    work = WorkFolder(tmp_path)
    work.start({})
    for name in ("cut", "other"):
        work.write(name, Block([row("1", [1.0])], Counter()), [b"one"])
        path = tmp_path / "blocks" / f"{name}.zip"
        path.write_bytes(path.read_bytes()[:100])
    for read in (work.read, work.counts, lambda name: work.picture(name, 0)):
        with pytest.raises(WorkError, match=r"blocks/cut.zip: damaged: delete it and run again"):
            read("cut")
    work.write("name", Block([row("caf\udce9", [1.0], i=1)], Counter()), [b"one"])
    assert work.read("name").rows[0].pair.key == "caf?"


def test_a_shard_that_fails_leaves_nothing_in_the_output(tmp_path):
    draft = selection.Draft("g", [row("1", [1.0]).pair], np.eye(1))  # of a picture whose block is gone
    with pytest.raises(FileNotFoundError):
        writing.write_shard((("train", 0, 1), [draft]), WorkFolder(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["records", "train"]


@pytest.mark.parametrize("joint", [True, False])
def test_a_part_is_read_screened_and_embedded_once(tmp_path, joint):
    make_pairs(tmp_path)
    work = WorkFolder(tmp_path / "work")
    work.start({})
    settings = dataclasses.replace(SETTINGS, size=16, limits=Limits(min_side=8))
    calls = []

    def of_pictures(pictures):
        calls.append(len(pictures))
        return clustering.unit(np.stack([picture.mean(axis=(0, 1)) for picture in pictures]))

    def of_texts(texts):
        return clustering.unit(np.array([[len(text), text.count("dish")] for text in texts]))

    def rows_of(part):
        for block in pairs.read_blocks(part):
            rows, counts = pairs.embed(pairs.screen(block, work, settings), work, embedders)
            assert sum(n for (step, _), n in counts.items() if step == "read") == len(block[1])
            assert counts["embed", "kept"] == counts["quality", "kept"] == len(rows)
            yield from rows

    embedders = pairs.Embedders(of_pictures, of_texts, joint)
    part = list_parts(f"{tmp_path}/pairs/*.tar")[0]
    first, second = list(rows_of(part)), list(rows_of(part))
    assert calls == [27] and len(second) == 27  # of 30: a file name, a broken and a small picture
    for a, b in zip(first, second, strict=True):
        assert a.pair == b.pair and a.marks.embedding.dtype == np.float16
        np.testing.assert_array_equal(a.marks.embedding, b.marks.embedding)
        assert a.match.size == (0 if joint else 2)
        stored = duplicates.thumbnail(read_image(work.picture(a.pair.block, a.pair.number)))
        assert duplicates.pixel_distance(stored, a.marks.thumbnail) < 4  # it may be a JPEG


def test_a_loss_between_two_steps_is_an_error():
    counts = {("read", "kept"): 3, ("quality", "kept"): 2}
    with pytest.raises(manifest.CountError, match="'read' kept 3, 'quality' read 2"):
        manifest.flow(counts)


# the check of finished records


def write_clusters(folder, clusters, split="train", same=("url",)):
    """A finished folder of `clusters`, lists of (key, picture, url), all 0.5 alike or as given."""
    promises = {"threshold": 0.9, "pixel_distance": 8.0, "members": 2, "size": 16, "settings": {"same": same}}
    for name in SPLITS:
        (folder / name).mkdir(parents=True)
        writer = SplitWriter(folder / name, name)
        for members, alike in clusters if name == split else ():
            made = tuple(Member(f"text {key}", encode_image(picture, "png"), url, key) for key, picture, url in members)
            writer.write(encode_cluster(Cluster(made, np.array([[1, alike], [alike, 1]]))))
        writer.finish(kind="clusters", **promises)
    numbers = {name: len(clusters) if name == split else 0 for name in SPLITS}
    (folder / "manifest.json").write_text(json.dumps(promises | {"clusters": numbers}))


GOOD = [("a", NOISE[0], "u"), ("b", NOISE[1], "v")]


def test_a_good_folder_passes_and_is_embedded_again(tmp_path):
    write_clusters(tmp_path, [(GOOD, 0.5), ([("c", NOISE[2], ""), ("b", NOISE[1], "v")], 0.3)])
    assert verify.verify(tmp_path) == (2, 3, 0.5)
    largest, deviation = verify.embed_again(tmp_path, lambda pictures: np.tile([0.6, 0.8], (len(pictures), 1)) * 0.9)
    assert largest == pytest.approx(0.81) and deviation == pytest.approx(0.51)
    with pytest.raises(verify.VerifyError, match=r"00000.array_record: record 0: embedded anew, .* 1.0000 alike"):
        verify.embed_again(tmp_path, lambda pictures: np.tile([0.6, 0.8], (len(pictures), 1)))


@pytest.mark.parametrize(
    ("clusters", "words"),
    [
        ([(GOOD, 0.95)], "similarity 0.95"),
        ([([GOOD[0], ("b", NOISE[1], "u")], 0.5)], "one URL"),
        ([([GOOD[0], ("b", NOISE[0], "v")], 0.5)], "identical pixels"),
        ([([GOOD[0], ("b", NOISE[0] // 2 * 2, "v")], 0.5)], "differ by"),
        ([([GOOD[0], ("b", NOISE[1][:8, :8], "v")], 0.5)], "shape"),
        ([(GOOD, 0.5), (GOOD[::-1], 0.5)], "come twice"),
        ([([GOOD[0], GOOD[0]], 0.5)], "identical pixels|one URL"),
    ],
)
def test_a_broken_promise_is_found(tmp_path, clusters, words):
    write_clusters(tmp_path, clusters)
    with pytest.raises(verify.VerifyError, match=words) as caught:
        verify.verify(tmp_path)
    assert "00000.array_record: record" in str(caught.value) and "\n" not in str(caught.value)


def test_one_url_is_a_fault_only_where_the_settings_say_so(tmp_path):
    write_clusters(tmp_path, [([GOOD[0], ("b", NOISE[1], "u")], 0.5)], same=("url+house",))
    assert verify.verify(tmp_path) == (1, 2, 0.5)


def test_a_picture_in_two_splits_is_found(tmp_path):
    write_clusters(tmp_path, [(GOOD, 0.5)])
    verifier = verify.Verifier(verify.read_manifest(tmp_path))
    record = encode_cluster(next(cluster for _, cluster in verify._clusters(tmp_path)))
    verifier.split = "test"
    verifier.check(record)
    verifier.split, verifier._seeds, verifier._members = "train", set(), set()
    with pytest.raises(verify.RecordError, match="the picture is also in test"):
        verifier.check(record)


def test_a_folder_that_is_none_is_one_line(tmp_path):
    with pytest.raises(verify.VerifyError, match="unreadable"):
        verify.verify(tmp_path)
