"""TFDS in both directions: captioned sets that it has prepared, read by name, and our readers as its builders.

The sets are written here by builders of the same name, version and features as those of TFDS.
"""

import io
import json
import runpy
import sys

import numpy as np
import pytest
from PIL import Image
from test_magicbrush import HOLE, row, write

from data_pipelines.sources.captioned import Captioned, list_parts, read_captioned, read_part
from data_pipelines.sources.item import Skip, SourceError

tfds = pytest.importorskip("tensorflow_datasets")

from data_pipelines import tfds_builders  # noqa: E402, it needs tensorflow_datasets


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (shade, 0, 0)).save(file, "JPEG", quality=95)
    return file.getvalue()


def prepare(data_dir, name, config, version, features, splits, shards=1):
    """Write {split: examples} as the TFDS set of that name. Returns its folder."""

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples):
            yield from ((str(number), example) for number, example in enumerate(examples))

    Written.name = name
    builder = Written(data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return builder.data_path


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tensorflow_datasets")


@pytest.fixture(scope="module")
def coco(data_dir):
    box = {"id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(), "is_crowd": np.bool_}
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "objects": tfds.features.Sequence(box | {"label": tfds.features.ClassLabel(num_classes=80)}),
        "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
    }

    def example(number):
        captions = [{"text": f"picture {number},  said {k}", "id": k} for k in range(5)]
        name = f"COCO_val2014_{number:012}.jpg"
        return {
            "image": io.BytesIO(jpeg(number)),
            "image/filename": name,
            "image/id": number,
            "objects": [],
            "captions": captions,
        }

    splits = {
        "train": [example(number) for number in range(6)],
        "restval": [example(6), example(7)],
        "val": [example(8), example(9)],
    }
    return prepare(data_dir, "coco_captions", "2014", "1.1.0", features, splits, shards=2)


LAION = {
    "caption": tfds.features.Text(),
    "nsfw": tfds.features.ClassLabel(names=["UNLIKELY", "UNSURE", "NSFW", "UNTAGGED"]),
    "similarity": tfds.features.Scalar(np.float64),
    "license": tfds.features.Text(),
    "url": tfds.features.Text(),
    "original_width": tfds.features.Scalar(np.int32),
    "original_height": tfds.features.Scalar(np.int32),
}


def laion(**more):
    fields = {"caption": "a fox", "nsfw": "UNSURE", "similarity": 0.31, "license": "?", "url": "u0"}
    return fields | {"original_width": 640, "original_height": 480} | more


# sets by name


def test_coco_captions(coco, data_dir):
    captioned = list(read_captioned(f"tfds:coco_captions@{data_dir}"))
    assert sorted(int(each.meta["image/id"]) for each in captioned) == list(range(10))
    assert len({each.key for each in captioned}) == 10
    assert list_parts(f"tfds:coco_captions/2014:1.1.0@{data_dir}") == list_parts(f"tfds:coco_captions@{data_dir}")
    for each in captioned:
        number = int(each.meta["image/id"])
        assert each.caption in [f"picture {number}, said {k}" for k in range(5)]
        assert each.image == jpeg(number)  # not decoded, not written anew
        assert each.split == ("validation" if number >= 8 else "train")
    assert len({each.caption[-1] for each in captioned}) > 1  # not always the first of the five


def test_parts_are_shards_and_join_without_overlap(coco, data_dir):
    spec = f"tfds:coco_captions@{data_dir}"
    parts = list_parts(spec)
    assert [(part.name, part.start, part.stop) for part in parts][:2] == [
        *(("coco_captions/train", 0, 3), ("coco_captions/train", 3, 6))
    ]
    train = [list(read_part(part)) for part in parts[:2]]
    assert [len(captioned) for captioned in train] == [3, 3]
    assert len({each.key for captioned in train for each in captioned}) == 6
    assert list(read_part(parts[1])) == train[1]


def test_laion400m_keeps_its_fields(data_dir):
    features = LAION | {"image": tfds.features.Image()}
    prepare(
        data_dir,
        "laion400m",
        "images",
        "1.0.0",
        features,
        {"train": [laion(image=jpeg(9)), laion(image=jpeg(9), caption="")]},
    )
    found = list(read_captioned(f"tfds:laion400m@{data_dir}"))
    fox = next(each for each in found if isinstance(each, Captioned))
    assert (fox.caption, fox.url, fox.licence) == ("a fox", "u0", "?")
    assert (fox.meta["nsfw"], fox.meta["original_width"]) == ("UNSURE", "640")
    assert float(fox.meta["similarity"]) == pytest.approx(0.31)
    assert [each.reason for each in found if isinstance(each, Skip)] == ["no caption"]


def test_a_set_of_ones_own_and_its_feature_names(data_dir):
    features = {"photo": tfds.features.Image(), "about": {"words": tfds.features.Text()}, "title": tfds.features.Text()}
    prepare(
        data_dir,
        "mine",
        "",
        "1.0.0",
        features,
        {"train": [{"photo": jpeg(9), "about": {"words": "a fox"}, "title": "fox"}]},
    )
    spec = f"tfds:mine@{data_dir}"
    with pytest.raises(
        SourceError, match=r"tfds:mine: no image column .* its columns are about/words, photo, title: give"
    ):
        list_parts(spec)
    with pytest.raises(SourceError, match=r"'title' is no picture"):
        list_parts(spec, image_column="title", caption_column="about/words")
    (fox,) = read_captioned(spec, image_column="photo", caption_column="about/words")
    assert fox.caption == "a fox" and fox.image == jpeg(9)


def test_sets_that_cannot_be_read_are_one_line(data_dir, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"wit holds the addresses of pictures .* img2dataset --url_col=image_url"):
        list_parts("tfds:wit")
    with pytest.raises(
        SourceError, match=r"not prepared in .*: put img2dataset's .* then run tfds.builder\('laion400m'"
    ):
        list_parts(f"tfds:laion400m@{tmp_path}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SourceError, match=rf"not prepared in {tmp_path}: run tfds.builder\('coco_captions'"):
        list_parts("tfds:coco_captions")
    embeddings = LAION | {"image_embedding": tfds.features.Tensor(shape=(4,), dtype=np.float16)}
    for config in ("embeddings", "images"):
        example = laion(image_embedding=np.zeros(4, np.float16))
        prepare(tmp_path, "laion400m", config, "1.0.0", embeddings, {"train": [example]})
    with pytest.raises(SourceError, match=r"prepared as .*embeddings, .*images: give tfds:laion400m/CONFIG"):
        list_parts("tfds:laion400m")
    with pytest.raises(SourceError, match=r"no column 'image': its columns are caption, image_embedding"):
        list_parts("tfds:laion400m/embeddings")


def test_a_truncated_file_ends_in_a_skip(tmp_path):
    features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
    examples = [{"image": jpeg(number), "caption": str(number)} for number in range(4)]
    folder = prepare(tmp_path, "cut", "", "1.0.0", features, {"train": examples, "test": examples})
    path = folder / "cut-train.tfrecord-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-300])
    found = list(read_captioned(f"tfds:cut@{tmp_path}"))
    assert [getattr(each, "reason", each.__class__) for each in found] == [Captioned] * 3 + ["broken TFRecord file"] + [
        Captioned
    ] * 4


# our readers as builders


@pytest.fixture(scope="module")
def magicbrush(tmp_path_factory):
    folder = tmp_path_factory.mktemp("MagicBrush") / "data"
    broken = {"bytes": b"no picture", "path": None}
    write(folder / "train-00000-of-00001.parquet", row(), row(turn_index=2), row(), row("9", target_img=broken))
    write(folder / "dev-00000-of-00001.parquet", row("2002"), row("2003", instruction=""))
    return folder.parent


def test_a_builder_of_ours_is_what_tfds_load_gives(magicbrush, tmp_path, capsys):
    arguments = ["magicbrush_masked", f"--input={magicbrush}", f"--data_dir={tmp_path}", "--size=64"]
    assert tfds_builders.main(arguments) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.endswith("train 2, validation 1; left out: 1 a key twice, 1 broken image, 1 no instruction")
    sets, info = tfds.load("instruct_imagen/magicbrush_masked_64", data_dir=tmp_path, with_info=True, download=False)
    assert info.citation.startswith("Zhang") and info.homepage.endswith("MagicBrush")
    stored = json.loads((tmp_path / "instruct_imagen/magicbrush_masked_64/1.0.0/dataset_info.json").read_text())
    assert stored["redistributionInfo"] == {"license": "CC-BY-4.0"}
    first = sorted(tfds.as_numpy(sets["train"]), key=lambda example: example["key"])[0]
    assert (first["key"], first["group"], first["task"]) == (b"1001-1", b"1001", b"masked_edit")
    assert first["change"] == b"replace the chocolate with a berry"
    assert first["references"]["text"].tolist() == [b"mask", b"content image"]
    mask, content = first["references"]["image"]
    assert first["target"].shape == mask.shape == content.shape == (64, 64, 3)
    assert abs(int(first["target"].mean()) - 120) < 3 and abs(int(content.mean()) - 90) < 3
    middle = np.zeros((8, 12), bool)
    middle[HOLE] = True
    middle = middle[:, 2:10].repeat(8, 0).repeat(8, 1)  # the centre square, enlarged
    assert ((mask[..., 0] > 127) == middle).mean() > 0.98
    assert tfds_builders.main(arguments) == 2 and "is there already" in capsys.readouterr().err


def test_a_builder_passes_on_the_readers_one_line(tmp_path, capsys):
    fields = row()
    del fields["mask_img"]
    write(tmp_path / "in/train-0.parquet", row())
    write(tmp_path / "in/train-1.parquet", fields)  # found while writing: nothing half-written stays
    assert tfds_builders.main(["magicbrush", f"--input={tmp_path}/in", f"--data_dir={tmp_path}/out"]) == 2
    assert "train-1.parquet: no column mask_img" in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "magicbrush" in path.name]
    assert tfds_builders.main(["wikiart", f"--input={tmp_path}/nowhere", f"--data_dir={tmp_path}/out"]) == 2
    assert "no folder, or an empty one" in capsys.readouterr().err


def test_a_fault_of_the_disk_or_a_missing_library_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    given = ["wikiart", f"--input={tmp_path}"]
    monkeypatch.setattr(tfds_builders, "InstructImagen", lambda **_: (tmp_path / "file" / "folder").mkdir())
    assert tfds_builders.main(given) == 2
    assert "Not a directory" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "data_pipelines.tfds_builders")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("data_pipelines.tfds_builders", run_name="__main__")
    assert capsys.readouterr().err == "error: tensorflow_datasets is not installed: pip install -e '.[data]'\n"


def test_every_family_has_a_reader_with_its_options(tmp_path):
    for family in tfds_builders.FAMILIES:
        with pytest.raises(SourceError, match=str(tmp_path)):
            next(tfds_builders.read_items(family, tmp_path))
        assert tfds_builders.open_reader(family).ABOUT.licence
    assert {config.name for config in tfds_builders.InstructImagen.BUILDER_CONFIGS} >= {
        "wikiart_128",
        "magicbrush_1024",
    }
