"""Captioned pictures: every layout in miniature, as its own tool writes it, and what is broken in it."""

import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.corpus import FIXTURE
from data_pipelines.images import read_image
from data_pipelines.sources.captioned import Captioned, list_parts, read_captioned, read_part
from data_pipelines.sources.formats import folder as folder_format
from data_pipelines.sources.formats import parquet as parquet_format
from data_pipelines.sources.formats.common import make_captioned, own_splits, split_of
from data_pipelines.sources.item import Skip, SourceError


def encoded(shade: int = 0, form: str = "JPEG", size=(8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(file, form)
    return file.getvalue()


def save(path, shade: int = 0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(shade, "PNG"))
    return path


def read(spec, **options):
    """(captioned, skips) of a spec."""
    found = list(read_captioned(str(spec), **options))
    return [each for each in found if isinstance(each, Captioned)], [each for each in found if isinstance(each, Skip)]


def reasons(skips):
    return [skip.reason for skip in skips]


# an image folder


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "a fox", "url": "here"}\n\n{"image": "b/b.png", "caption": "an owl"}\n',
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a  fox", "URL": "here"}\n{"file_name": "b/b.png", "text": "an owl"}\n',
        ),
        ("all.csv", 'caption,image,url\n"a\nfox",a.png,here\nan owl,b/b.png,\n'),
    ],
)
def test_folder_with_a_caption_file(tmp_path, name, lines):
    save(tmp_path / "a.png", 200), save(tmp_path / "b/b.png")
    (tmp_path / name).write_text(lines)
    fox, owl = read(tmp_path)[0]
    assert (fox.caption, fox.url, fox.image) == ("a fox", "here", tmp_path / "a.png")
    assert (owl.caption, owl.url) == ("an owl", "")
    assert read_image(fox.image)[0, 0, 0] == 200
    assert read(tmp_path / name)[0] == [fox, owl]  # the file itself, too


def test_folder_with_a_text_beside_each_picture(tmp_path):
    """img2dataset's layout `files`, metadata parquet included."""
    for number in range(3):
        save(tmp_path / f"train/00000/{number:09}.jpg", number)
        (tmp_path / f"train/00000/{number:09}.txt").write_text(f"picture {number}")
        (tmp_path / f"train/00000/{number:09}.json").write_text(
            json.dumps({"url": f"u{number}", "width": 8, "exif": None})
        )
    (tmp_path / "train/00000/000000001.txt").unlink()
    pq.write_table(
        pa.table({"url": ["u0"], "caption": ["picture 0"], "status": ["success"]}), tmp_path / "00000.parquet"
    )
    (first, last), skips = read(tmp_path)
    assert (first.key, first.caption, first.url, first.meta["width"]) == (
        "train/00000/000000000.jpg",
        "picture 0",
        "u0",
        "8",
    )
    assert first.group == "u0" and last.key == "train/00000/000000002.jpg"
    assert reasons(skips) == ["no caption"]


def test_broken_lines_and_missing_pictures_are_skips(tmp_path):
    save(tmp_path / "a.png")
    good = '{"image": "a.png", "caption": "a fox"}\n'
    (tmp_path / "captions.jsonl").write_text(
        good + '{"image": \n[1]\n' + good.replace("a.png", "b.png") + good.replace("a fox", " ")
    )
    captioned, skips = read(tmp_path)
    assert len(captioned) == 1
    assert reasons(skips) == ["broken line", "broken line", "no such picture", "no caption"]
    assert skips[0].where == f"{tmp_path}/captions.jsonl:2"
    (tmp_path / "captions.jsonl").unlink()
    quote = 'a.png,"' + "x" * 200_000 + "\n"  # never closed
    (tmp_path / "a.csv").write_text("image,caption\na.png,a fox\na.png\na.png,a fox,3\n" + quote)
    captioned, skips = read(tmp_path)
    assert len(captioned) == 1 and set(reasons(skips)) == {"broken line"} and len(skips) >= 3


def test_half_characters_of_json_become_question_marks(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "caption": "a fox \\ud83d", "url": "u\\ud83d"}\n')
    ((fox,), _) = read(tmp_path)
    assert (fox.caption, fox.url, fox.group) == ("a fox ?", "u?", "u?")


def test_columns_by_name(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "words": "a fox", "caption": "no"}\n')
    assert read(tmp_path, caption_column="words")[0][0].caption == "a fox"
    with pytest.raises(SourceError, match=r"'words' cannot be both"):
        read(tmp_path, caption_column="words", image_column="words")
    with pytest.raises(SourceError, match=r"no column 'word': its columns are image, words, caption: give --caption"):
        read(tmp_path, caption_column="word")


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("nowhere", "no such file or folder"),
        ("", "no captioned pictures"),
        ("*.tar", "no file has such a name"),
        ("a.*", "holds .txt files"),
        ("empty.csv", "holds no caption"),
    ],
)
def test_a_set_that_cannot_be_read_is_one_line(tmp_path, spec, line):
    save(tmp_path / "b.png")
    (tmp_path / "a.txt").touch()
    if spec:
        (tmp_path / "empty.csv").touch()
    with pytest.raises(SourceError, match=line) as error:
        read(f"{tmp_path}/{spec}")
    assert "\n" not in str(error.value)


# parts


def test_parts_share_the_set_without_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_format, "ROWS_PER_PART", 2)
    for number in range(7):
        save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(str(number))
    whole = [each.key for each in read(tmp_path)[0]]
    assert whole == [f"{number}.png" for number in range(7)]
    shares = [[each.key for each in read(tmp_path, shard=(i, 3))[0]] for i in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2] and sorted(key for share in shares for key in share) == whole
    parts = pickle.loads(pickle.dumps(list_parts(str(tmp_path))))
    assert [each.key for part in parts for each in read_part(part)] == whole
    (tmp_path / "captions.jsonl").write_text("".join(f'{{"image": "{n}.png", "caption": "{n}"}}\n' for n in range(7)))
    assert [[each.caption for each in read_part(part)] for part in list_parts(str(tmp_path))] == [
        list("01"),
        list("23"),
        list("45"),
        ["6"],
    ]
    monkeypatch.setattr(folder_format, "MOST_PARTS", 3)  # or a file of millions would be read thousands of times
    assert [(part.start, part.stop) for part in list_parts(str(tmp_path))] == [(0, 3), (3, 6), (6, 7)]
    with pytest.raises(SourceError, match="shard 3 of 3"):
        read(tmp_path, shard=(3, 3))


def test_split_of():
    assert [split_of(name) for name in ("train-00000-of-00072", "dev-0.parquet", "val/00001", "00000", "testing")] == [
        *("train", "validation", "validation", "", "")
    ]
    coco = [split_of(f"coco/{folder}") for folder in ("train2017", "val2017", "train2014", "test2015")]
    assert coco == ["train", "validation", "train", "test"]


def test_train_alone_is_no_split_for_then_nothing_is_held_out(tmp_path):
    def splits():
        return {each.key: each.split for each in read(tmp_path)[0]}

    for name in ("train2017/a", "train2017/b"):
        save(tmp_path / f"{name}.png").with_suffix(".txt").write_text("a fox")
    assert set(splits().values()) == {""}
    save(tmp_path / "val2017/a.png").with_suffix(".txt").write_text("a fox")
    assert splits() == {"train2017/a.png": "train", "train2017/b.png": "train", "val2017/a.png": "validation"}
    (tmp_path / "train2017/captions.jsonl").write_text('{"image": "a.png", "caption": "a fox"}\n')
    assert set(splits().values()) == {""}  # the caption file decides what is read
    for name, found in (("train-0", {""}), ("test-0", {"train", "test"})):
        pq.write_table(pa.table({"image": [encoded()], "text": ["a fox"]}), tmp_path / f"{name}.parquet")
        assert set(splits().values()) == found


def test_validation_alone_is_dealt_too_and_test_alone_stays_held_out():
    assert own_splits(["val2017/a", "val2017/b"]) == ["", ""]
    assert own_splits(["train-0", "val-0"]) == ["train", "validation"]
    assert own_splits(["test2017/a"]) == ["test"]


def test_a_picture_is_one_group_under_all_its_captions(tmp_path):
    save(tmp_path / "pictures/a.png"), (tmp_path / "b").mkdir()
    (tmp_path / "all.csv").write_text("image,caption,url\npictures/a.png,one,\npictures/a.png,two,\n")
    (tmp_path / "b/b.csv").write_text("image,caption\n../pictures/a.png,three\n")
    assert [each.group for each in read(tmp_path)[0]] == ["pictures/a.png"] * 3
    (tmp_path / "all.csv").write_text("image,caption,url\npictures/a.png,one,there\n")
    assert read(tmp_path / "all.csv")[0][0].group == "there"
    table = pa.table({"image": [encoded(1), encoded(1), encoded(2)], "text": ["one", "two", "three"]})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second, other = read(tmp_path / "a.parquet")[0]
    assert first.group == second.group != other.group and len(first.group) == 32
    save(tmp_path / "c.png"), shutil.copy(tmp_path / "c.png", tmp_path / "d.png")
    paths = [{"bytes": None, "path": name} for name in ("c.png", "d.png", "none.png")]
    pq.write_table(pa.table({"image": paths, "text": ["one", "two", "three"]}), tmp_path / "p.parquet")
    first, second, missing = (each.group for each in read(tmp_path / "p.parquet")[0])
    assert first == second != missing, "by what the files hold, however --input spells their folder"
    (tmp_path / "a.parquet").rename(tmp_path / "test.parquet")
    assert {each.group for each in read(tmp_path / "test.parquet")[0]} == {""}  # its own split says where it belongs


# WebDataset tars


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tar(path, samples, ending="jpg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in samples:
            meta = {"url": f"u{number}", "caption": f"picture {number}", "original_width": 640, "status": "success"}
            add(tar, f"{number:09}.{ending}", encoded(number, "PNG" if ending == "png" else "JPEG"))
            add(tar, f"{number:09}.txt", f"picture {number}".encode())
            add(tar, f"{number:09}.json", json.dumps(meta).encode())
    return path


def test_tars_as_img2dataset_writes_them(tmp_path):
    write_tar(tmp_path / "00000.tar", range(3))
    write_tar(tmp_path / "00001.tar", range(3, 5), "png")
    pq.write_table(pa.table({"url": ["u0"], "status": ["success"]}), tmp_path / "00000.parquet")  # beside each tar
    captioned, skips = read(tmp_path)
    assert not skips and [each.caption for each in captioned] == [f"picture {number}" for number in range(5)]
    third = captioned[3]
    assert (third.key, third.url, third.meta["original_width"]) == ("00001/000000003", "u3", "640")
    (tmp_path / "third.png").write_bytes(third.image)
    assert read_image(tmp_path / "third.png").shape == (6, 8, 3)
    assert read(tmp_path / "*.tar")[0] == captioned and read(tmp_path / "00001.tar")[0] == captioned[3:]


def test_a_truncated_tar_yields_what_is_whole_wherever_it_was_cut(tmp_path):
    whole = write_tar(tmp_path / "00000.tar", range(4)).read_bytes()
    counts = []
    for end in (0, 100, *range(512, 512 * 26, 512 * 3 + 256), 512 * 27):
        (tmp_path / "00000.tar").write_bytes(whole[:end])
        captioned, skips = read(tmp_path)
        assert reasons(skips) == ["truncated tar"], end
        counts.append(len(captioned))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 4  # all but the end mark


def test_a_broken_tar_does_not_stop_the_others(tmp_path):
    (tmp_path / "00000.tar").write_bytes(b"no tar" * 1000)
    write_tar(tmp_path / "00001.tar", range(2))
    captioned, skips = read(tmp_path)
    assert len(captioned) == 2 and skips == [Skip(f"{tmp_path}/00000.tar", "truncated tar")]


def test_samples_without_a_picture_or_caption_are_skips(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.jpg", encoded())
        add(tar, "2.txt", b"no picture")
        add(tar, "3.webp", encoded())
        add(tar, "3.json", b'{"caption": "by its field", "words": "others"}')
        add(tar, "4.jpg", encoded())
        add(tar, "4.json", b'{"caption": "x", "status": "failed_to_resize"}')
        add(tar, "5.seg.png", encoded())
        add(tar, "5.txt", b"a map, not the picture")
    captioned, skips = read(tmp_path)
    assert [each.caption for each in captioned] == ["by its field"]
    assert reasons(skips) == ["no caption", "no picture", "not downloaded", "no picture"]


def test_columns_of_tars(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "5.jpg", encoded(1))
        add(tar, "5.seg.png", encoded(2))
        add(tar, "5.txt", b"of the picture")
        add(tar, "5.json", b'{"words": "others", "url": "u"}')
    ((of_jpg,), _), ((of_map,), _) = read(tmp_path), read(tmp_path, image_column="seg.png", caption_column="words")
    assert (of_jpg.image, of_jpg.caption) == (encoded(1), "of the picture")
    assert (of_map.image, of_map.caption) == (encoded(2), "others")
    with pytest.raises(
        SourceError, match=r"a.tar: no column 'png': its columns are jpg, seg.png, txt, json: give --image"
    ):
        read(tmp_path, image_column="png")
    with pytest.raises(SourceError, match=r"no column 'word': its columns are words, url: give --caption_column"):
        read(tmp_path, caption_column="word")


# parquet


def test_parquet_as_img2dataset_writes_it(tmp_path):
    columns = {
        "url": ["u0", "u1", "u2"],
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "failed_to_download", "success"],
        "original_width": [640, None, 480],
        "caption": ["a fox", "an owl", None],
        "jpg": [encoded(9), None, encoded()],
    }
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    (fox,), skips = read(tmp_path)
    assert (fox.key, fox.caption, fox.url, fox.meta["original_width"]) == ("00000/000000000", "a fox", "u0", "640")
    assert fox.image == encoded(9)
    assert reasons(skips) == ["not downloaded", "no caption"]


def hugging_face(path, columns: dict, features: dict, rows_per_group: int = 2):
    """A parquet file as Hugging Face's `datasets` writes it: its features in the schema's metadata."""
    table = pa.table(columns)
    entry = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": entry}), path, row_group_size=rows_per_group)
    return path


IMAGES = [{"bytes": encoded(n), "path": None} for n in range(4)] + [{"bytes": None, "path": "kept.jpg"}, None]
HUGGING_FACE = dict(
    columns={"image": IMAGES, "text": ["a fox", "b", "c", "d", "e", "f"], "kind": [1, 0, -1, 7, 0, 0]},
    features={"image": {"_type": "Image"}, "kind": {"names": ["owl", "fox"], "_type": "ClassLabel"}},
)


def test_parquet_of_hugging_face(tmp_path):
    hugging_face(tmp_path / "data/validation-00000-of-00001.parquet", **HUGGING_FACE)
    captioned, skips = read(tmp_path)
    assert [each.meta["kind"] for each in captioned] == ["fox", "owl", "", "", "owl"]
    assert captioned[0].image == encoded(0) and captioned[4].image == tmp_path / "data/kept.jpg"
    assert captioned[1].key == "data/validation-00000-of-00001:1" and captioned[1].split == ""  # alone, it is dealt
    assert reasons(skips) == ["no picture"]


def test_of_several_captions_one_is_taken_and_always_the_same(tmp_path):
    captions = [["a", "b", "c"], ["d"], []]
    pq.write_table(pa.table({"image": [encoded()] * 3, "captions": captions}), tmp_path / "a.parquet")
    captioned, skips = read(tmp_path)
    assert captioned[0].caption in captions[0] and captioned[1].caption == "d" and reasons(skips) == ["no caption"]
    assert read(tmp_path)[0] == captioned


def test_a_wrong_column_is_one_line_with_those_found(tmp_path):
    pq.write_table(pa.table({"img": [encoded()], "words": ["a fox"]}), tmp_path / "a.parquet")
    with pytest.raises(
        SourceError, match=r"a.parquet: no image column .* its columns are img, words: give --image_col"
    ):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"no caption column"):
        read(tmp_path, image_column="img")
    assert read(tmp_path, image_column="img", caption_column="words")[0][0].caption == "a fox"


def test_broken_parquet_files_and_row_groups_are_skips(tmp_path):
    path = hugging_face(tmp_path / "b.parquet", **HUGGING_FACE)
    where = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[where : where + 40] = bytes(range(200, 240))
    path.write_bytes(data)
    (tmp_path / "a.parquet").write_bytes(data[:1000])
    captioned, skips = read(tmp_path)
    assert [each.caption for each in captioned] == ["a fox", "b", "e"]
    assert reasons(skips) == ["broken parquet file", "broken row group", "no picture"]


def test_a_name_that_is_not_utf8_has_a_caption_and_a_group(tmp_path):
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    (found, again) = (make_captioned("", name, tmp_path / name, ["one", "two"], {}) for _ in range(2))
    assert found == again and len(found.group) == 32


def test_text_that_is_not_utf8_costs_one_row(tmp_path):
    words = pa.Array.from_buffers(pa.utf8(), 3, pa.array([b"a fox", b"\xff\xfe", b"an owl"]).buffers())
    pq.write_table(pa.table({"image": [encoded()] * 3, "text": words}), tmp_path / "a.parquet")
    captioned, skips = read(tmp_path)
    assert [each.caption for each in captioned] == ["a fox", "an owl"]
    assert skips == [Skip(f"{tmp_path}/a.parquet: row 1", "text not in UTF-8")]


def test_a_file_is_read_batch_by_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_format, "ROWS_PER_BATCH", 2)
    pq.write_table(pa.table({"image": [encoded()] * 5, "text": list("abcde")}), tmp_path / "a.parquet")
    assert "".join(each.caption for each in read(tmp_path)[0]) == "abcde"


# a corpus of this project


def test_a_corpus_gives_every_drawing_with_its_name():
    parts = list_parts("fixture")
    assert parts == list_parts(str(FIXTURE))
    assert {part.name.rpartition("-")[0] for part in parts} >= {"fluent_3d", "noto"}
    drawings = list(read_part(parts[0]))
    lines = [line.split("\t") for line in (FIXTURE / "index.tsv").read_text().splitlines()[1:]]
    assert len(drawings) == sum("fluent_3d:" in line[-1] for line in lines)
    first = drawings[0]
    assert first.image.dtype == np.uint8 and first.image.shape == (64, 64, 3)
    assert (first.caption, first.split) == next(
        (line[3], line[2]) for line in lines if line[0] == first.meta["subject"]
    )
    assert first.image[0, 0].tolist() == [255, 255, 255] and first.image.std() > 10


def test_a_damaged_corpus_is_one_line(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "index.tsv").touch()
    with pytest.raises(SourceError, match=r"manifest.json: unreadable"):
        read(tmp_path)
