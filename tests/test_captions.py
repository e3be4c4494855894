"""The family `captions`: items from any captioned set, its filters, and the licence that it tells."""

import argparse
import io
import json

import pytest
from PIL import Image

from data_pipelines.corpus import FIXTURE
from data_pipelines.sources import captions
from data_pipelines.sources.item import Item, Skip
from data_pipelines.splits import Splitter


def parse(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    captions.add_arguments(parser)
    return parser.parse_args(options)


def encoded(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures, with the sizes and similarities that the filters look at."""
    sizes = {"good": (80, 100), "small": (400, 63), "long": (301, 100), "unlike": (80, 80), "untold": (80, 80)}
    rows = []
    for name, size in sizes.items():
        (tmp_path / f"{name}.png").write_bytes(encoded(*size))
        rows.append(
            {
                "image": f"{name}.png",
                "caption": f"a {name} one",
                "similarity": {"unlike": 0.2, "untold": -1.0}.get(name, 0.4),
            }
        )
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows.append({"image": "broken.png", "caption": "for the runner to find"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n")
    return tmp_path


def test_items_and_filters(pictures):
    found = list(captions.items(parse(f"--input={pictures}", "--min_similarity=0.3")))
    items = [each for each in found if isinstance(each, Item)]
    assert [item.caption for item in items] == ["a good one", "a untold one", "for the runner to find"]
    assert all(item.task == "text_to_image" and not item.references for item in items)
    reasons = {skip.where.split(": ")[-1]: skip.reason for skip in found if isinstance(skip, Skip)}
    assert list(reasons.values()) == ["small picture", "long picture", "low similarity", "broken line"]


def test_the_captions_of_a_picture_lie_in_one_split(pictures):
    rows = [{"image": "good.png", "caption": f"sentence {i}"} for i in range(40)]
    (pictures / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = list(captions.items(parse(f"--input={pictures}")))
    assert len({item.key for item in items}) == 40 and {item.group for item in items} == {"good.png"}
    assert len({Splitter((0.4, 0.3, 0.3)).split(item) for item in items}) == 1


def test_a_huge_picture_is_left_to_the_runner(pictures, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert captions.picture_size(pictures / "good.png") is None


def test_filters_can_be_opened(pictures):
    found = list(captions.items(parse(f"--input={pictures}", "--min_size=1", "--max_aspect=9")))
    assert [type(each) for each in found] == [Item] * 6 + [Skip]
    found = captions.items(parse(f"--input={pictures}", "--caption_column=similarity"))
    assert {each.reason for each in found if isinstance(each, Skip)} >= {"no caption"}  # a number is none


def test_a_corpus_keeps_its_splits():
    items = list(captions.items(parse(f"--input={FIXTURE}")))
    assert len({item.key for item in items}) == len(items) > 1000
    assert {item.split for item in items} == {"train", "validation", "test"}


def test_the_licence_is_told_where_it_is_known(tmp_path):
    assert "Flickr" in captions.about(parse("--input=tfds:coco_captions/2014:1.1.0@/data")).licence
    assert captions.about(parse("--input=tfds:laion400m")).title == "LAION-400M"
    assert captions.about(parse(f"--input={FIXTURE}")).licence == "Apache-2.0, MIT"
    for unknown in ("tfds:mine", str(tmp_path), "x/*.tar"):
        assert captions.about(parse(f"--input={unknown}")) == captions.ABOUT
    assert captions.ABOUT.licence == "unknown: yours to check"
