"""WikiArt in miniature: huggan/wikiart's parquet files and the folder of styles, and what is broken in them."""

import argparse
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.sources import wikiart
from data_pipelines.sources.item import Item, Skip, SourceError

NAMES = {
    "artist": ["Unknown Artist", "boris-kustodiev", "vincent-van-gogh", "m.c.-escher"],
    "genre": ["genre_painting", "landscape", "illustration", "Unknown Genre", "sketch_and_study"],
    "style": ["Realism", "Post_Impressionism", "Naive_Art_Primitivism"],
}


def painting(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def write_parquet(path, labels, names=NAMES):
    """As Hugging Face's `datasets` writes it: `labels` are (artist, genre, style) numbers."""
    features = {"image": {"decode": True, "id": None, "_type": "Image"}}
    features |= {
        column: {"num_classes": len(words), "names": words, "_type": "ClassLabel"} for column, words in names.items()
    }
    columns = {"image": [{"bytes": painting(i), "path": None} for i in range(len(labels))]}
    columns |= {
        column: pa.array(list(each), pa.int64())
        for column, each in zip(wikiart.CLASSES, zip(*labels, strict=True), strict=True)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=100)
    return path


def test_parquet_files(tmp_path):
    labels = [(2, 1, 0), (1, 0, 1), (0, 3, 2), (3, 2, 2), (0, 4, -1)]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", labels)
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", labels[:1])
    found = list(wikiart.read_wikiart(tmp_path))
    assert [each.caption for each in found] == [
        "a landscape by Vincent van Gogh in the style of Realism",
        "a genre painting by Boris Kustodiev in the style of Post-Impressionism",
        "a painting in the style of Naive Art",
        "an illustration by M.C. Escher in the style of Naive Art",
        "a sketch",
        "a landscape by Vincent van Gogh in the style of Realism",
    ]
    assert found[0].group == found[5].group != found[3].group  # one file twice
    assert found[0].meta == {"artist": "Vincent van Gogh", "genre": "landscape", "style": "Realism"}
    assert found[1].image == painting(1) and found[5].key == "data/train-00001-of-00002:0"
    assert "non-commercial" in found[0].licence == wikiart.ABOUT.licence
    assert next(wikiart.read_wikiart(tmp_path / "data/train-00001-of-00002.parquet")).caption == found[5].caption


def test_classes_without_names_and_missing_columns_are_one_line(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [(2, 1, 0)], {"artist": NAMES["artist"], "style": NAMES["style"]})
    with pytest.raises(SourceError, match=r"a.parquet: the schema does not name the classes of genre"):
        list(wikiart.read_wikiart(path))
    pq.write_table(pq.read_table(path).drop_columns(["style"]), path)
    with pytest.raises(SourceError, match=r"no column style: its columns are image, artist, genre"):
        list(wikiart.read_wikiart(path))


@pytest.fixture
def folder(tmp_path):
    for name in (
        "Realism/vincent-van-gogh_pine-trees-in-the-fen-1884.jpg",
        "Abstract_Expressionism/gene-davis_untitled-1979(3).jpg",
        "Impressionism/edgar-degas_landscape-on-the-orne.jpg",
        "Realism/thumbnail.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(painting())
    (tmp_path / "readme.md").touch()
    return tmp_path


def test_folder_of_styles(folder):
    found = list(wikiart.read_wikiart(folder))
    skip = found.pop(2)
    assert skip == Skip(str(folder / "Realism/thumbnail.jpg"), "not named artist_title")
    assert [each.caption for each in found] == [
        "a painting by Gene Davis in the style of Abstract Expressionism",
        "a painting by Edgar Degas in the style of Impressionism",
        "a painting by Vincent van Gogh in the style of Realism",
    ]
    assert [(each.meta["title"], each.meta.get("year")) for each in found] == [
        ("untitled", "1979"), ("landscape on the orne", None), ("pine trees in the fen", "1884")
    ]  # fmt: skip
    assert found[2].image == folder / "Realism/vincent-van-gogh_pine-trees-in-the-fen-1884.jpg"


def test_folder_with_lists_of_genres(folder):
    lists = folder / "wikiart_csv"
    lists.mkdir()
    (lists / "genre_train.csv").write_text("Impressionism/edgar-degas_landscape-on-the-orne.jpg,4\n")
    (lists / "genre_val.csv").write_text("Realism/vincent-van-gogh_pine-trees-in-the-fen-1884.jpg,4\n")
    with pytest.raises(SourceError, match=r"genre_class.txt: no such file"):
        list(wikiart.read_wikiart(folder))
    (lists / "genre_class.txt").write_text("0 abstract_painting\n4 landscape\n")
    captions = [each.caption for each in wikiart.read_wikiart(folder) if not isinstance(each, Skip)]
    assert captions[0] == "a painting by Gene Davis in the style of Abstract Expressionism"
    assert captions[1:] == [
        "a landscape by Edgar Degas in the style of Impressionism",
        "a landscape by Vincent van Gogh in the style of Realism",
    ]


def test_a_folder_of_something_else_is_one_line(tmp_path):
    with pytest.raises(SourceError, match=r"no such file or folder"):
        list(wikiart.read_wikiart(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match=r"neither parquet files nor STYLE"):
        list(wikiart.read_wikiart(tmp_path))


def test_broken_files_and_missing_pictures_are_skips(tmp_path):
    path = write_parquet(tmp_path / "b.parquet", [(2, 1, 0)] * 2)
    table = pq.read_table(path)
    images = pa.array([{"bytes": painting(), "path": None}, None], table["image"].type)
    pq.write_table(table.set_column(0, "image", images), path)
    (tmp_path / "a.parquet").write_bytes(path.read_bytes()[:-20])
    found = list(wikiart.read_wikiart(tmp_path))
    assert [getattr(each, "reason", "") for each in found] == ["broken parquet file", "", "no picture"]


def test_items_are_text_to_image_and_one_painting_stays_in_one_split(folder):
    (folder / "Impressionism/vincent-van-gogh_pine-trees-in-the-fen-1884.jpg").write_bytes(painting())
    parser = argparse.ArgumentParser()
    wikiart.add_arguments(parser)
    items = [each for each in wikiart.items(parser.parse_args([f"--input={folder}"])) if isinstance(each, Item)]
    assert {item.task for item in items} == {"text_to_image"} and len({item.key for item in items}) == 4
    twice = [item for item in items if "pine-trees" in item.key]
    assert len(twice) == 2 and twice[0].group == twice[1].group != ""
