"""Captioned data sets that TFDS has prepared, by name: pictures stay encoded, and a part is a shard of a split.

`tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]`; the folder is $TFDS_DATA_DIR, else ~/tensorflow_datasets. Of a set that this
module does not know, the usual feature names are tried.
"""

import os
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.sources.formats.common import (
    Captioned,
    Columns,
    Part,
    make_captioned,
    own_splits,
    resolve,
    tfds_name,
)
from data_pipelines.sources.item import Skip, SourceError

# The feature names in the sources of TFDS 4.9.10.
FEATURES = {
    "coco_captions": Columns("image", "captions/text"),
    "laion400m": Columns("image", "caption"),
    "wit_kaggle": Columns("image", "caption_title_and_reference_description"),
}
_MANUAL = {  # TFDS cannot download these alone
    "laion400m": "put img2dataset's NNNNN.tar and NNNNN.parquet into {folder}/downloads/manual, then ",
    "wit_kaggle": "put the files of its Kaggle competition into {folder}/downloads/manual, then ",
}
_WITHOUT_PICTURES = {
    "wit": "holds the addresses of pictures and no pictures: fetch them with img2dataset --url_col=image_url "
    "--caption_col=caption_reference_description and give its tars, or prepare wit_kaggle"
}


def list_parts(spec: str, columns: Columns) -> list[Part]:
    """A part a shard of every split. Raises SourceError where it is not prepared or lacks a feature."""
    name, _, data_dir = spec.removeprefix("tfds:").partition("@")
    dataset = tfds_name(spec)
    if dataset in _WITHOUT_PICTURES:
        raise SourceError(f"tfds:{dataset} {_WITHOUT_PICTURES[dataset]}")
    folder = _find(name, data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    info = tfds.builder_from_directory(folder).info
    known = FEATURES.get(dataset, Columns())
    wanted = Columns(columns.image or known.image, columns.caption or known.caption)
    columns = resolve(wanted, sorted(_names(info.features)), f"tfds:{name}")
    if columns.image not in info.features or not isinstance(info.features[columns.image], tfds.features.Image):
        raise SourceError(f"tfds:{name}: '{columns.image}' is no picture: give --image_column=NAME")
    return [
        Part("tfds", str(folder), f"{dataset}/{split}", columns, start, stop, (split,), own)
        for split, own in zip(info.splits, own_splits(list(info.splits)), strict=True)
        for start, stop in pairwise(accumulate(info.splits[split].shard_lengths, initial=0))
    ]


def _find(name: str, data_dir: str) -> Path:
    """The folder of the newest version. Raises SourceError, with the command to prepare it, where there is none."""
    name, _, version = name.partition(":")
    root = epath.Path(data_dir).expanduser()
    infos = [path for depth in ("*", "*/*") for path in (root / name).glob(f"{depth}/dataset_info.json")]
    found = [path.parent for path in infos if version in ("", path.parent.name)]
    configs = sorted({folder.parent for folder in found})
    if len(configs) > 1:
        raise SourceError(f"tfds:{name}: prepared as {', '.join(map(str, configs))}: give tfds:{name}/CONFIG")
    if not found:
        manual = _MANUAL.get(name.split("/")[0], "").format(folder=root)
        command = f"tfds.builder('{name}', data_dir='{root}').download_and_prepare()"
        raise SourceError(f"tfds:{name}: not prepared in {root}: {manual}run {command}, or give tfds:{name}@DATA_DIR")
    return max(found, key=lambda folder: tuple(int(number) for number in folder.name.split(".")))


def _names(features: Mapping, above: str = "") -> Iterator[str]:
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a Sequence
        if isinstance(inner, tfds.features.FeaturesDict):
            yield from _names(inner, f"{above}{name}/")
        else:
            yield f"{above}{name}"


def read(part: Part) -> Iterator[Captioned | Skip]:
    """The pictures of one shard as their encoded bytes; a broken file ends in a Skip."""
    builder, seen = tfds.builder_from_directory(part.path), 0
    broken = tf.errors.DataLossError  # by a local name: a reader left unfinished closes when the modules are gone
    examples = builder.as_dataset(
        split=f"{part.members[0]}[{part.start}:{part.stop}]",
        decoders={part.columns.image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
    )
    try:
        for example in tfds.as_numpy(examples):
            yield _captioned(part, dict(_flat(example, builder.info.features)))
            seen += 1
    except broken:
        yield Skip(f"{part.path}: {part.name}, after example {part.start + seen}", "broken TFRecord file")


def _captioned(part: Part, fields: dict) -> Captioned | Skip:
    key, image = fields.pop("tfds_id"), fields.pop(part.columns.image)
    return make_captioned(part.path, key, image, fields.pop(part.columns.caption), fields, part.split)


def _flat(example: Mapping, features: object, above: str = "") -> Iterator[tuple[str, object]]:
    """Every field as Python knows it: texts decoded, class labels by name; a picture stays bytes."""
    for name, value in example.items():
        feature = features[name] if isinstance(features, tfds.features.FeaturesDict) and name in features else None
        if isinstance(value, Mapping):
            yield from _flat(value, getattr(feature, "feature", feature), f"{above}{name}/")
        else:
            yield f"{above}{name}", _plain(value, feature)


def _plain(value: object, feature: object) -> object:
    if isinstance(feature, tfds.features.Image):
        return value
    if isinstance(feature, tfds.features.ClassLabel) and np.ndim(value) == 0:
        return feature.int2str(value) if value >= 0 else ""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each, None) for each in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
