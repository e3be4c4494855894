"""CelebA and CelebA-HQ on miniatures of their real layouts: folders as published, and TFDS's own builders."""

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder
from tensorflow_datasets.datasets.celeb_a_hq import celeb_a_hq_dataset_builder

from data_pipelines.images import read_image
from data_pipelines.sources import celeba, celeba_hq, celeba_tables, faces
from data_pipelines.sources.item import Item, Skip, SourceError
from data_pipelines.splits import Splitter

IDENTITY = {1: 7, 2: 8, 3: 7, 4: 9, 5: 7, 6: 8, 12: 7}  # photograph -> person; nobody else shows person 9
HEADINGS = celeb_a_dataset_builder.ATTR_HEADINGS  # as published


def jpeg(number: int, size=(178, 218)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (20 * number, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def number_of(picture) -> int:
    """Which photograph of `jpeg` it is, by its red."""
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        return round(np.asarray(image)[..., 0].mean() / 20)


def write_celeba(folder: Path) -> Path:
    (folder / "Img" / "img_align_celeba").mkdir(parents=True)
    (folder / "Anno").mkdir()
    signs = ["1" if name in ("Young", "Smiling") else "-1" for name in HEADINGS]
    for number in IDENTITY:
        (folder / f"Img/img_align_celeba/{number:06}.jpg").write_bytes(jpeg(number))
    rows = [f"{number:06}.jpg {'  '.join(signs)}" for number in IDENTITY]
    attributes = "\n".join([str(len(rows)), " ".join(HEADINGS) + " ", *rows])
    (folder / "Anno/list_attr_celeba.txt").write_text(attributes + "\n")
    (folder / "Anno/identity_CelebA.txt").write_text("".join(f"{n:06}.jpg {who}\n" for n, who in IDENTITY.items()))
    (folder / "list_eval_partition.txt").write_text("".join(f"{n:06}.jpg {n % 3}\n" for n in IDENTITY))
    landmarks = "\n".join(["7", "lefteye_x lefteye_y", *(f"{n:06}.jpg 1 2" for n in IDENTITY)])
    (folder / "Anno/list_landmarks_align_celeba.txt").write_text(landmarks + "\n")
    return folder


MAPPING = {0: 3, 1: 12, 2: 4, 3: 2, 4: 6}  # number in CelebA-HQ -> photograph of CelebA


def write_hq(folder: Path, name="{}.jpg") -> Path:
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for index, number in MAPPING.items():
        (folder / "CelebA-HQ-img" / name.format(index)).write_bytes(jpeg(number, (64, 64)))
    rows = [f"{index}           {number - 1}      {number:06}.jpg" for index, number in MAPPING.items()]
    (folder / celeba_tables.MAPPING).write_text("\n".join(["idx         orig_idx    orig_file", *rows]))
    return folder


@pytest.fixture(scope="module")
def celeba_folder(tmp_path_factory):
    return write_celeba(tmp_path_factory.mktemp("celeba"))


@pytest.fixture(scope="module")
def hq_folder(tmp_path_factory):
    return write_hq(tmp_path_factory.mktemp("hq"))


def read(family, *options, seed=0) -> tuple[list[Item], list[Skip]]:
    parser = argparse.ArgumentParser()
    family.add_arguments(parser)
    parser.set_defaults(seed=seed)
    found = list(family.items(parser.parse_args([str(option) for option in options])))
    return [item for item in found if isinstance(item, Item)], [item for item in found if isinstance(item, Skip)]


def read_hq(folder, tables, *options):
    where = [
        f"--identities={tables / 'Anno/identity_CelebA.txt'}",
        f"--attributes={tables / 'Anno/list_attr_celeba.txt'}",
    ]
    return read(celeba_hq, folder, *where, *options)


def check_portraits(items: list[Item]):
    """Every target with references of its own person, and never itself."""
    for item in items:
        target, references = number_of(item.target), [number_of(picture) for _, picture in item.references]
        assert item.task == "face"
        assert item.group == f"celeba:{IDENTITY[target]}"
        assert {text for text, _ in item.references} == {"reference image"}
        assert {IDENTITY[number] for number in references} == {IDENTITY[target]}
        assert target not in references and len(set(references)) == len(references) <= 3


# captions


@pytest.mark.parametrize(
    ("attributes", "caption"),
    [
        (
            "Smiling Young Wavy_Hair Brown_Hair Eyeglasses",
            "a smiling young woman with wavy brown hair, wearing glasses",
        ),
        ("Male No_Beard", "an older man"),
        ("Male Smiling Bald Goatee", "a smiling older man with a bald head and a goatee"),
        ("Male Young Black_Hair", "a young man with black hair and a beard"),
        (
            "Young No_Beard Blond_Hair Bangs Wearing_Lipstick Wearing_Earrings Wearing_Hat",
            "a young woman with blond hair and bangs, wearing a hat, earrings and lipstick",
        ),
        ("Straight_Hair Black_Hair Gray_Hair No_Beard", "an older woman with straight black and gray hair"),
        (
            "Male Young Sideburns Mustache 5_o_Clock_Shadow Wearing_Necktie",
            "a young man with a mustache, sideburns and stubble, wearing a necktie",
        ),
        ("Attractive Big_Nose Blurry Chubby", "an older woman"),
    ],
)
def test_attributes_become_english(attributes, caption):
    assert faces.describe(attributes.split()) == caption


# CelebA


def test_celeba_folder(celeba_folder):
    items, skips = read(celeba, f"--input={celeba_folder}")
    assert [number_of(item.target) for item in items] == [1, 2, 3, 5, 6, 12]
    check_portraits(items)
    assert skips == [Skip("000004.jpg", "only photograph of its identity")]
    assert {item.caption for item in items} == {"a smiling young woman"}
    assert all(isinstance(item.target, Path) for item in items)


def test_the_plan_is_a_function_of_the_seed(celeba_folder):
    first, again, other = (read(celeba, f"--input={celeba_folder}", seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert [item.references for item in first] != [item.references for item in other]


def test_no_more_references_than_asked_for(celeba_folder):
    items, _ = read(celeba, f"--input={celeba_folder}", "--references=1")
    assert {len(item.references) for item in items} == {1}


def test_every_count_of_references_comes_up():
    album = faces.Album(
        [f"{i}" for i in range(300)], np.arange(300) % 3, np.zeros((300, len(faces.USED)), bool), lambda i: b""
    )
    counts = np.bincount([len(item.references) for item in faces.make_items(album, 3, seed=0)])
    assert counts[0] == 0 and (counts[1:] > 70).all()


def test_a_corrupt_photograph_is_left_to_the_runner(tmp_path):
    folder = write_celeba(tmp_path)
    (folder / "Img/img_align_celeba/000001.jpg").write_bytes(b"no picture")
    items, _ = read(celeba, f"--input={folder}")
    assert items[0].key == "000001.jpg"
    with pytest.raises(ValueError):
        read_image(items[0].target)


def test_a_photograph_without_identity_is_counted(tmp_path):
    folder = write_celeba(tmp_path)
    (folder / "Img/img_align_celeba/000099.jpg").write_bytes(jpeg(1))
    items, skips = read(celeba, f"--input={folder}")
    assert len(items) == 6
    assert Skip("000099.jpg", "no identity or attributes") in skips


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda anno: (anno / "identity_CelebA.txt").unlink(), "no identity_CelebA.txt there: it is published on"),
        (
            lambda anno: (anno / "list_attr_celeba.txt").write_text("1\nMale Blurry\n1.jpg 1 1"),
            "columns are Male, Blurry",
        ),
        (lambda anno: (anno / "identity_CelebA.txt").write_text("000001.jpg 7\n000002.jpg\n"), "identity_CelebA.txt:2"),
        (lambda anno: (anno / "identity_CelebA.txt").write_text("000001.jpg Tom\n"), "'Tom' is not the number"),
    ],
)
def test_what_is_wrong_with_celeba_is_one_line(tmp_path, spoil, expected):
    folder = write_celeba(tmp_path)
    spoil(folder / "Anno")
    with pytest.raises(SourceError, match=expected) as caught:
        read(celeba, f"--input={folder}")
    assert "\n" not in str(caught.value)


# CelebA-HQ


@pytest.mark.parametrize("name", ["{}.jpg", "{:05}.jpg", "imgHQ{:05}.png"])
def test_hq_pictures_get_the_identity_of_their_original(tmp_path, celeba_folder, name):
    items, skips = read_hq(f"--input={write_hq(tmp_path, name)}", celeba_folder)
    assert sorted(number_of(item.target) for item in items) == [2, 3, 6, 12]
    check_portraits(items)
    assert skips == [Skip(name.format(2), "only photograph of its identity")]


def test_an_identity_is_in_one_split_across_both_sets(celeba_folder, hq_folder):
    both = read(celeba, f"--input={celeba_folder}")[0], read_hq(f"--input={hq_folder}", celeba_folder)[0]
    for shares in ((0.5, 0.25, 0.25), (0.1, 0.1, 0.8), (0.96, 0.02, 0.02)):
        splits = {}
        for items in both:
            splitter = Splitter(shares)  # of one run of prepare
            for item in items:
                splits.setdefault(IDENTITY[number_of(item.target)], set()).add(splitter.split(item))
        assert {identity: len(found) for identity, found in splits.items()} == {7: 1, 8: 1}


def test_hq_named_by_celeba(tmp_path, celeba_folder):
    folder = write_hq(tmp_path)
    for index, number in MAPPING.items():
        (folder / f"CelebA-HQ-img/{index}.jpg").rename(folder / f"CelebA-HQ-img/{number:06}.jpg")
    check_portraits(read_hq(f"--input={folder}", celeba_folder, "--names=original")[0])
    with pytest.raises(SourceError, match="give --names=original"):
        read_hq(f"--input={folder}", celeba_folder)


def test_hq_without_its_mapping_says_where_it_is_published(tmp_path, celeba_folder):
    (write_hq(tmp_path) / celeba_tables.MAPPING).unlink()
    with pytest.raises(SourceError, match=r"published on the page of CelebAMask-HQ.*--mapping"):
        read_hq(f"--input={tmp_path}", celeba_folder)
    (tmp_path / celeba_tables.MAPPING).write_text("idx file\n0 000003.jpg\n")
    with pytest.raises(SourceError, match="no column orig_file: its columns are idx, file"):
        read_hq(f"--input={tmp_path}", celeba_folder)


# TFDS: the real builders write the files, from the miniatures


@pytest.fixture(params=["tfrecord", "array_record"])
def tfds_dir(request, tmp_path, celeba_folder, monkeypatch):
    anno, pictures = celeba_folder / "Anno", celeba_folder / "Img/img_align_celeba"
    files = {
        "list_eval_partition": celeba_folder / "list_eval_partition.txt",
        "list_attr_celeba": anno / "list_attr_celeba.txt",
        "landmarks_celeba": anno / "list_landmarks_align_celeba.txt",
        "identity_celeba": anno / "identity_CelebA.txt",
    }
    images = {path.name: path for path in pictures.iterdir()}

    def splits_of_celeba(builder, _):
        names = ("train", "validation", "test")
        return {name: builder._generate_examples(i, files, images) for i, name in enumerate(names)}

    def splits_of_hq(builder, _):
        faces_of_hq = ((f"imgHQ{i:05}.png", io.BytesIO(jpeg(number, (256, 256)))) for i, number in MAPPING.items())
        return {"train": builder._generate_examples(faces_of_hq)}

    monkeypatch.setattr(celeb_a_dataset_builder, "LANDMARK_HEADINGS", ["lefteye_x", "lefteye_y"])
    monkeypatch.setattr(celeb_a_dataset_builder.Builder, "_split_generators", splits_of_celeba)
    monkeypatch.setattr(celeb_a_hq_dataset_builder.Builder, "_split_generators", splits_of_hq)
    options = dict(data_dir=str(tmp_path), file_format=request.param)
    celeb_a_dataset_builder.Builder(**options).download_and_prepare()
    celeb_a_hq_dataset_builder.Builder(config="256", **options).download_and_prepare()
    return tmp_path


def test_tfds_gives_what_the_folders_give(tfds_dir, celeba_folder):
    items, skips = read(celeba, f"--data_dir={tfds_dir}")
    assert sorted(number_of(item.target) for item in items) == [1, 2, 3, 5, 6, 12]
    check_portraits(items)
    assert {item.caption for item in items} == {"a smiling young woman"}
    assert [skip.reason for skip in skips] == ["only photograph of its identity"]
    hq, skips = read_hq(
        f"--data_dir={tfds_dir}", celeba_folder, f"--mapping={write_hq(tfds_dir / 'x') / celeba_tables.MAPPING}"
    )
    assert sorted(number_of(item.target) for item in hq) == [2, 3, 6, 12]
    check_portraits(hq)
    assert skips == [Skip("imgHQ00002.png", "only photograph of its identity")]


def test_a_cut_off_or_missing_tfds_file_is_one_line(tfds_dir):
    shard = next(tfds_dir.glob("celeb_a/2.1.0/*-00000-of-*"))
    for spoil in (lambda: shard.write_bytes(shard.read_bytes()[:-10]), shard.unlink):
        spoil()
        with pytest.raises(SourceError, match="prepare the data set again") as caught:
            read(celeba, f"--data_dir={tfds_dir}")
        assert "\n" not in str(caught.value)


def test_tfds_that_is_not_prepared_is_one_line(tmp_path):
    with pytest.raises(SourceError, match="no TFDS data set there: prepare it with"):
        read(celeba, f"--data_dir={tmp_path}")
