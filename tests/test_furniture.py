"""The furniture source: package, catalogue, OBJ and MTL, views and depth as tiles, and building all or nothing."""

import io
import lzma
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import packages, prepare
from data_pipelines.corpus import load_corpus
from data_pipelines.packages import FetchError, cached
from data_pipelines.sources.furniture import build, catalog, drawing, fetch, polygons
from data_pipelines.sources.furniture.catalog import CatalogError, clean_name, family_of, read_catalog
from data_pipelines.sources.furniture.obj import Material, ModelError, read_mtl, read_obj

PACKAGE = cached(packages.FURNITURE)
CUBE = """\
mtllib chair.mtl
v -1 0 -1
v 1 0 -1
v 1 0 1
v -1 0 1
v -1 2 -1
v 1 2 -1
v 1 2 1
v -1 2 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl paint
f 1 2 3 4
f 5 8 7 6
f 1/1 5/2 6/3 2/4
usemtl front
f 3 7 8 4
usemtl paint
f 2 6 7 3
f -8 -5 -1 -4
"""
MTL = "newmtl paint\nKd 0.1 0.2 0.9\nd 1.0\n\nnewmtl front\nKd 1 0 0\nTr 0.0\nmap_Kd -s 1 1 1 C:\\old\\red.png\n"
MODELS = (  # id, name, tags, category, more
    ("Lib#chair1", "Chair", "Blend Swap, Seat", "Living room", ""),
    ("Lib#chair2", "Chair", "", "Living room", "modelRotation={}=-1 0 0 0 1 0 0 0 -1"),
    ("Lib#sofa", "Sofa 2 seats", "Couch, iPad", "Living room", ""),
    ("Lib#imac", "Apple iMac 1998", "Computer", "Office", ""),
    ("Lib#euro", "Bill 10\\u20ac", "", "Office", ""),
    *((f"Lib#lamp{k}", f"Lamp {'abcdefghijkl'[k]}", "", "Lights", "") for k in range(12)),
)


def red_png():
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(data, "PNG")
    return data.getvalue()


def write_library(path: Path, licence="Creative Commons Attribution 3.0 license", models=MODELS, obj=CUBE):
    lines = [f"license={licence}", "# a comment", "version=1"]
    for number, (key, name, tags, category, more) in enumerate(models, start=1):
        fields = dict(id=key, name=name, tags=tags, category=category, creator="Ann", model="/lib/chair.obj")
        size = dict(width=100, depth=50, height=80 + 15 * (number - 1))  # no two alike, or they leave as duplicates
        lines += [f"{field}#{number}={value}" for field, value in (size | fields).items()]
        lines += [more.replace("={}", f"#{number}", 1)] if more else []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(catalog.CATALOG, "\n".join(lines).encode("latin-1"))
        archive.writestr("lib/chair.obj", obj)
        archive.writestr("lib/chair.mtl", MTL)
        archive.writestr("lib/red.png", red_png())
    return path


def write_package(path: Path, *libraries: Path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as files:
        for library in libraries:
            files.add(library, f"./usr/share/sweethome3d/furniture/{library.name}")
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(data.getvalue())}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def test_a_package_unpacks_into_its_libraries(tmp_path):
    library = write_library(tmp_path / "Lib.sh3f")
    package = write_package(tmp_path / "some.deb", library)
    (tmp_path / "out").mkdir()
    (unpacked,) = fetch.unpack(package, tmp_path / "out")
    assert unpacked.read_bytes() == library.read_bytes()


@pytest.mark.parametrize(
    "content, words", [(b"PK", "no ar archive"), (b"!<arch>\n", "no data.tar in it"), (None, "holds no .sh3f")]
)
def test_a_damaged_package_is_one_line(tmp_path, content, words):
    path = write_package(tmp_path / "some.deb")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FetchError, match=words) as caught:
        fetch.unpack(path, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    cut = write_package(tmp_path / "cut.deb", write_library(tmp_path / "Lib.sh3f"))
    cut.write_bytes(cut.read_bytes()[:900])
    with pytest.raises(FetchError, match="unreadable"):
        fetch.unpack(cut, tmp_path)


def test_the_catalogue_names_models_and_leaves_trademarks_out(tmp_path):
    models = {model.subject: model for model in read_catalog(write_library(tmp_path / "Lib.sh3f"))}
    assert "lib-imac" not in models and len(models) == len(MODELS) - 1
    chair, turned, sofa = (models[f"lib-{name}"] for name in ("chair1", "chair2", "sofa"))
    assert (chair.name, chair.category, chair.tags) == ("chair", "living-room", ("seat",))
    assert (chair.licence, chair.author, chair.extent) == ("CC-BY-3.0", "Ann", (1.0, 0.8, 0.5))
    assert turned.family == chair.family == "furniture-chair" and turned.rotation[0, 0] == -1
    assert sofa.tags == ("couch",) and sofa.family == "furniture-sofa"
    assert models["lib-euro"].name == "10 euro bill"


def test_names_read_as_captions_do():
    assert [clean_name(name) for name in ("Sitting male", "TV 16:9", "French fries", "CCTV", "Hashtray")] == [
        "sitting man",
        "widescreen TV",
        "French fries",
        "CCTV",
        "ashtray",
    ]
    assert family_of("concept Sedan 02 Sport") == family_of("concept Sedan 01")
    assert family_of("apples") == "furniture-apples" and not catalog.TRADEMARKS.search("Apples")


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: write_library(path, licence="All rights reserved"), "its licence 'All rights reserved'"),
        (lambda path: path.write_bytes(b"PK"), "no readable furniture library"),
        (lambda path: write_library(path, models=[("a", "B", "", "C", "width#1=wide")]), "model 1: could not convert"),
    ],
)
def test_a_damaged_catalogue_is_one_line(tmp_path, damage, words):
    damage(tmp_path / "Lib.sh3f")
    with pytest.raises(CatalogError, match=words) as caught:
        read_catalog(tmp_path / "Lib.sh3f")
    assert "\n" not in str(caught.value)


def test_an_obj_is_read_with_all_its_ways_to_name_a_corner():
    mesh = read_obj(CUBE, lambda name: {"paint": Material((0, 0, 1.0))} if name == "chair.mtl" else {}, "x.obj")
    assert mesh.corners.shape == (12, 3, 3)
    area = np.linalg.norm(
        np.cross(mesh.corners[:, 1] - mesh.corners[:, 0], mesh.corners[:, 2] - mesh.corners[:, 0]), axis=1
    )
    assert area.sum() / 2 == pytest.approx(24)
    np.testing.assert_array_equal(mesh.uvs[4], [[0, 0], [1, 0], [1, 1]])
    assert [mesh.palette[k].colour for k in mesh.materials[5:8]] == [(0, 0, 1.0), (0.8, 0.8, 0.8), (0.8, 0.8, 0.8)]
    flat = np.abs(mesh.normals).max(axis=-1)
    np.testing.assert_allclose(flat, 1)  # a cube's edges are sharp


def test_shallow_edges_are_shaded_as_curved_unless_told_otherwise():
    roof = "v 0 0 0\nv 1 0 0\nv 1 .1 1\nv 0 .1 1\nv 1 0 2\nv 0 0 2\n{}f 1 4 3 2\nf 4 6 5 3\n"
    curved, flat = (read_obj(roof.format(s), lambda _: {}, "x").normals for s in ("", "s off\n"))
    assert (np.abs(curved[..., 2]) < 0.04).sum() > 3 and np.abs(flat[..., 2]).min() > 0.09
    given = read_obj(roof.format("vn 0 0 3\n").replace("f 1 4 3 2", "f 1//1 4//1 3//1 2//1"), lambda _: {}, "x")
    np.testing.assert_array_equal(given.normals[0], [[0, 0, 1]] * 3)


@pytest.mark.parametrize(
    "text, words",
    [
        ("v 0 0 0\n", "x.obj: has no face"),
        ("v 0 0 a\n", "x.obj:1: could not convert"),
        ("v 0 0 0\nf 1 2 3\n", "x.obj: a face names a vertex that is not there"),
        ("v 0 0 0\nf 1 1 -2\n", "x.obj: a face names a vertex that is not there"),
        ("v 0 0 0\nf 1 b 1\n", "x.obj: a face's corner is not"),
    ],
)
def test_a_damaged_obj_is_one_line(text, words):
    with pytest.raises(ModelError, match=words) as caught:
        read_obj(text, lambda _: {}, "x.obj")
    assert "\n" not in str(caught.value)


def test_materials_have_colour_opacity_and_texture():
    found = read_mtl(MTL + "newmtl glass\nd 0.3\n", lambda name: np.full((1, 1, 4), len(name), np.uint8))
    assert found["paint"] == Material((0.1, 0.2, 0.9))
    assert found["front"].opacity == 1 and found["front"].texture[0, 0, 0] == len("-s 1 1 1 C:\\old\\red.png")
    assert found["glass"].opacity == 0.3


def test_dented_polygons_keep_their_area_and_their_dents():
    outline = np.array([[0, 0], [4, 0], [4, 3], [3, 3], [3, 1], [1, 1], [1, 3], [0, 3]], float)  # a U
    arrow = np.array([[0, 0], [4, 2], [0, 4], [1, 2]], float)
    for points, area in ((outline, 8.0), (outline[::-1], 8.0), (np.roll(arrow, 1, axis=0), 6.0)):
        positions = np.insert(points, 1, 7.0, axis=1)  # in the plane y = 7
        triangles, face = polygons.triangulate(positions, np.arange(len(points)), np.array([len(points)]))
        a, b, c = np.moveaxis(points[triangles], 1, 0)
        parts = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
        assert np.abs(parts).sum() == pytest.approx(area) and (parts >= 0).all() | (parts <= 0).all()
        assert (face == 0).all() and len(triangles) == len(points) - 2


def test_a_model_is_drawn_upright_with_its_front_first(tmp_path):
    library = write_library(tmp_path / "Lib.sh3f")
    chair, turned = read_catalog(library)[:2]
    front = drawing.draw(chair, tmp_path, 32)
    assert front.colour.shape == front.depth.shape == (8, 32, 32, 4)
    red, blue = (front.colour[:, 16, 16, channel].astype(int) for channel in (0, 2))
    assert red[0] > blue[0] and blue[4] > red[4]  # the red side is +z, seen in view 0 and not from behind
    back = drawing.draw(turned, tmp_path, 32)
    assert back.colour[4, 16, 16, 0] > back.colour[4, 16, 16, 2]
    np.testing.assert_array_equal(front.colour[..., 3], front.depth[..., 3])
    grey = front.depth[front.depth[..., 3] > 0]
    assert (grey[:, 0] == grey[:, 1]).all() and grey[:, 0].max() == 255 and grey[:, 0].min() == round(0.2 * 255)
    assert not front.depth[front.depth[..., 3] == 0].any()
    assert 0 < front.near < front.far


def test_grey_gives_back_the_depth():
    inverse = np.linspace(1 / 3, 1 / 2, 50)
    grey = drawing.depth_grey(inverse, 1 / 2, 1 / 3) / 255
    depth = 1 / (1 / 3 + (grey - 0.2) / 0.8 * (1 / 2 - 1 / 3))
    np.testing.assert_allclose(depth, 1 / inverse, rtol=2e-3)
    assert (drawing.depth_grey(np.array([0.4]), 0.4, 0.4) == 51).all()  # a plane straight ahead


def test_a_missing_file_of_a_model_is_one_line(tmp_path):
    library = write_library(tmp_path / "Lib.sh3f")
    (model, *_) = read_catalog(library)
    with zipfile.ZipFile(library, "w") as archive:
        archive.writestr("lib/other.obj", CUBE)
    with pytest.raises(ModelError, match=r"Lib.sh3f: lib/chair.obj: cannot be read") as caught:
        drawing.draw(model, tmp_path, 32)
    assert "\n" not in str(caught.value)


def build_from(tmp_path, monkeypatch, *arguments):
    package = write_package(tmp_path / "some.deb", write_library(tmp_path / "Lib.sh3f"))
    monkeypatch.setattr(packages, "fetch", lambda wanted, cache: package)
    return prepare.main(["furniture", f"--output={tmp_path / 'furniture'}", *arguments])


def test_the_build_writes_a_whole_corpus(tmp_path, monkeypatch, capsys):
    assert build_from(tmp_path, monkeypatch, "--size=32") == 0
    corpus = load_corpus(tmp_path / "furniture", 32)
    shown = Counter(picture.subject for picture in corpus.pictures)
    assert set(shown.values()) == {16} and "lib-chair1" in shown
    assert f"models: CC-BY-3.0 {len(shown)}" in capsys.readouterr().out
    splits = {}
    for picture in corpus.pictures:
        splits.setdefault(picture.root, set()).add(picture.split)
    assert all(len(found) == 1 for found in splits.values()) and {"train", "test"} <= set.union(*splits.values())
    table = {row["subject"]: row for row in build.read_models(tmp_path / "furniture")}
    assert table.keys() == shown.keys()
    chair = table["lib-chair1"]
    assert (chair["author"], chair["licence"], chair["library"]) == ("Ann", "CC-BY-3.0", "Lib.sh3f")
    assert 0 < float(chair["near_m"]) < float(chair["far_m"])
    assert "CC-BY-3.0 (https://creativecommons.org" in (tmp_path / "furniture" / "NOTICE").read_text()
    assert build_from(tmp_path, monkeypatch, "--size=32") == 0 and "nothing to do" in capsys.readouterr().out
    assert build_from(tmp_path, monkeypatch, "--size=64") == 2
    assert "holds pictures of 32 px" in capsys.readouterr().err


def test_a_broken_model_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    broken = write_library(tmp_path / "Lib.sh3f", obj="v 0 0 0\n")
    package = write_package(tmp_path / "some.deb", broken)
    monkeypatch.setattr(packages, "fetch", lambda wanted, cache: package)
    assert prepare.main(["furniture", f"--output={tmp_path / 'furniture'}"]) == 2
    assert "error: Lib.sh3f: lib/chair.obj: has no face" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("furniture")]


@pytest.mark.skipif(PACKAGE is None, reason="the furniture package is not in data/cache")
def test_the_real_package_has_the_models_that_its_licences_count(tmp_path):
    models = [model for library in fetch.unpack(PACKAGE, tmp_path) for model in read_catalog(library)]
    licences = Counter(model.licence for model in models)
    assert licences == {"CC0-1.0": 172, "CC-BY-3.0": 518, "CC-BY-3.0-US": 112}  # of 820, without the trademarks
    assert len({model.subject for model in models}) == len(models)
    split = build.split_families(models)
    shares = Counter(split[model.family] for model in models)
    assert 0.08 < shares["test"] / len(models) < 0.18 and 0.03 < shares["validation"] / len(models) < 0.10
