"""The emoji source: names to hexcodes, root subjects and splits, rendering, duplicates, and building all or nothing."""

from collections import Counter

import numpy as np
import pytest

from data_pipelines import prepare
from data_pipelines.corpus import load_corpus
from data_pipelines.sources import duplicates
from data_pipelines.sources.emoji import fixture, names, notice, packages, split, styles
from data_pipelines.sources.emoji.render import Drawing, icon_drawing, render

SQUARE = '<rect width="8" height="16" fill="{}"/>'


def subject(hexcode, name, group="objects", subgroup="tool"):
    return names.Subject(hexcode, name, ("a", "b"), group, subgroup)


def by_code(*subjects):
    return {each.hexcode: each for each in subjects}


# names


@pytest.mark.parametrize(
    ("written", "hexcode"),
    [
        ("1F468", "1f468"),
        ("2764-FE0F", "2764"),
        ("1F468-200D-2695-FE0F", "1f468-200d-2695"),
        ("1f9d1_200d_1f33e", "1f9d1-200d-1f33e"),
    ],
)
def test_hexcode_of(written, hexcode):
    assert names.hexcode_of(written) == hexcode


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("woman\u2019s hat", "womans-hat"),
        ("one o'clock", "one-oclock"),
        ("piñata", "pinata"),
        ("person: medium-dark skin tone", "person-medium-dark-skin-tone"),
    ],
)
def test_slug_of(name, slug):
    assert names.slug_of(name) == slug


def test_read_subjects_takes_tones_and_leaves_ungrouped_out():
    tone = {"label": "ear: light skin tone", "hexcode": "1F442-1F3FB", "group": 1, "subgroup": 22}
    ear = {"label": "ear", "hexcode": "1F442", "tags": ["hear", "body"], "group": 1, "subgroup": 22, "skins": [tone]}
    groups = {"groups": {"1": "people-body"}, "subgroups": {"22": "body-parts"}}
    subjects = names.read_subjects([ear, {"label": "regional indicator A", "hexcode": "1F1E6"}], groups)
    assert list(subjects) == ["1f442", "1f442-1f3fb"]
    assert subjects["1f442-1f3fb"].keywords == ("body", "hear")


@pytest.mark.parametrize(
    ("group", "subgroup", "name", "used"),
    [
        ("objects", "tool", "hammer", True),
        ("flags", "country-flag", "flag: Fiji", False),
        ("symbols", "keycap", "keycap: 1", False),
        ("symbols", "geometric", "red circle", True),
        ("symbols", "geometric", "radio button", False),
        ("component", "hair-style", "red hair", False),
        ("people-body", "family", "couple with heart", False),
        ("people-body", "person-symbol", "family: adult, child", False),
    ],
)
def test_is_used(group, subgroup, name, used):
    assert names.is_used(subject("1f528", name, group, subgroup)) is used


def test_slugs_map_through_present_names_old_names_and_aliases():
    subjects = by_code(subject("1f347", "grapes"), subject("1f6e2", "oil drum"))
    named = {"1F6E2-FE0F": "oil-barrel"}, {"icons": {}, "aliases": {"barrel": {"parent": "oil-barrel"}}}
    table = names.slug_table(subjects, [named])
    assert table == {"grapes": "1f347", "oil-drum": "1f6e2", "oil-barrel": "1f6e2", "barrel": "1f6e2"}
    icons = {"icons": {"grapes": {}, "drum": {}, "unknown": {}}, "aliases": {"barrel": {"parent": "drum"}}}
    assert names.match_slugs(icons, table) == {"1f347": "grapes", "1f6e2": "drum"}


def test_a_mirrored_alias_is_not_another_name_of_its_parent():
    aliases = {"hand-right": {"parent": "hand-left", "hFlip": True}, "old-hand": {"parent": "hand-left"}}
    table = names.slug_table({}, [({"1f448": "hand-left"}, {"icons": {}, "aliases": aliases})])
    assert table == {"hand-left": "1f448", "old-hand": "1f448"}


def test_joined_slugs():
    assert names.match_joined({"icons": {"redapple": {}}}, {"red-apple": "1f34e"}) == {"1f34e": "redapple"}


# roots and splits


@pytest.mark.parametrize(
    ("hexcode", "name", "subgroup", "root"),
    [
        ("1f3c3-1f3fb-200d-2640-200d-27a1", "woman running: facing right", "person-activity", "1f3c3"),
        ("1f468-1f3fb-200d-1f9af-200d-27a1", "man with cane: facing right", "person-activity", "1f9d1-200d-1f9af"),
        ("1f468-1f3fd-200d-1f33e", "man farmer", "person-role", "1f9d1-200d-1f33e"),
        ("1f469-200d-1f9b0", "woman: red hair", "person", "1f9d1"),
        ("1f471-1f3ff-200d-2642", "man: blond hair", "person", "1f9d1"),
        ("1f478", "princess", "person-role", "1fac5"),
        ("1f936-1f3fb", "Mrs. Claus", "person-fantasy", "1f9d1-200d-1f384"),
        ("1f408-200d-2b1b", "black cat", "animal-mammal", "1f408"),
        ("1f431", "cat face", "animal-mammal", "1f408"),
        ("1f31e", "sun with face", "sky-weather", "2600"),
        ("1f563", "eight-thirty", "time", "1f550"),
        ("1f318", "waning crescent moon", "sky-weather", "1f311"),
        ("1f499", "blue heart", "heart", "2764"),
        ("2764-200d-1f525", "heart on fire", "heart", "2764"),
        ("1f7e3", "purple circle", "geometric", "1f534"),
        ("2b1b", "black large square", "geometric", "1f7e5"),
        ("1f4d8", "blue book", "book-paper", "1f4d5"),
        ("1f449-1f3fd", "backhand index pointing right", "hand-single-finger", "1f448"),
        ("1f44e", "thumbs down", "hand-fingers-closed", "1f44d"),
        ("1f468-1f3fb-200d-1f430-200d-1f468-1f3fc", "men with bunny ears", "person-activity", "1f46f"),
        ("1f48c", "love letter", "heart", "1f48c"),
        ("1f600", "grinning face", "face-smiling", "1f600"),
    ],
)
def test_root_of(hexcode, name, subgroup, root):
    known = by_code(
        subject("1f408", "cat"),
        subject("2600", "sun"),
        subject("2764", "red heart", subgroup="heart"),
        subject(hexcode, name, subgroup=subgroup),
    )
    assert split.root_of(known[hexcode], known) == root


def test_split_is_stable_in_shares_and_fair_to_every_subgroup():
    many = [subject(f"{0x20000 + i:x}", f"thing {i}", subgroup=f"kind-{i % 20}") for i in range(2000)]
    found = split.split_roots({each.hexcode: each.hexcode for each in many}, by_code(*many))
    counts = Counter(found[each.hexcode] for each in many)
    assert counts["test"] == pytest.approx(240, abs=4)
    assert counts["validation"] == pytest.approx(120, abs=4)
    for kind in range(20):
        inside = Counter(found[each.hexcode] for each in many[kind::20])
        assert 10 <= inside["test"] <= 14
        assert 4 <= inside["validation"] <= 8


def test_the_order_inside_a_subgroup_is_a_fixed_hash():
    thirty = by_code(*(subject(f"{0x20000 + i:x}", f"thing {i}") for i in range(30)))
    found = split.split_roots({code: code for code in thirty}, thirty)
    assert {code for code in thirty if found[code] == "test"} == {"2000b", "2000e", "20013", "2001b"}


def test_split_of_known_subjects_never_changes():
    found = {picture.name: picture.split for picture in load_corpus("fixture", 8).pictures}
    train = ("person", "blue heart", "rolling on the floor laughing")
    test = ("green apple", "frog", "rocket", "panda")
    validation = ("strawberry", "volcano", "light bulb")
    assert {found[name] for name in train} == {"train"}
    assert {found[name] for name in test} == {"test"}
    assert {found[name] for name in validation} == {"validation"}


def test_whole_edit_families_are_for_training():
    found = split.split_roots({}, {})
    assert {found[root] for root in (split.CLOCK, split.HEART, split.MOON, split.PERSON, split.CIRCLE)} == {"train"}


# rendering


def icons():
    return {
        "width": 16,
        "height": 16,
        "icons": {
            "left": {"body": SQUARE.format("currentColor")},
            "wide": {"body": '<rect width="32" height="16" fill="red"/>', "width": 32},
        },
        "aliases": {"right": {"parent": "left", "hFlip": True}, "same": {"parent": "left"}},
    }


def test_svg_is_drawn_with_ink_and_alpha():
    tile = render(icon_drawing(icons(), "left"), 16)
    assert tile.shape == (16, 16, 4)
    assert (tile[:, :8] == (0, 0, 0, 255)).all()
    assert (tile[:, 8:, 3] == 0).all()


def test_aliases_are_followed_and_mirrored():
    left, right, same = (render(icon_drawing(icons(), name), 16) for name in ("left", "right", "same"))
    np.testing.assert_array_equal(right, left[:, ::-1])
    np.testing.assert_array_equal(same, left)
    with pytest.raises(KeyError):
        icon_drawing(icons(), "up")


def test_a_wide_drawing_is_centred_and_not_stretched():
    alpha = render(icon_drawing(icons(), "wide"), 16)[..., 3]
    assert (alpha[4:12] == 255).all()
    assert (alpha[:4] == 0).all()
    assert (alpha[12:] == 0).all()


# duplicates


def test_near_copies_of_an_earlier_split_are_found_and_only_those():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (6, 32, 32, 4), np.uint8)
    tiles[..., 3] = 255
    tiles[3] = np.clip(tiles[0].astype(int) + 1, 0, 255)  # a test picture almost like a training one
    tiles[4] = tiles[5]  # two test pictures alike: no harm
    tiles[2] = tiles[1]  # a validation picture like a training one
    found = duplicates.duplicated(tiles, np.array([0, 0, 1, 2, 2, 2]))
    assert found.tolist() == [False, False, True, True, False, False]


def test_colour_under_transparency_does_not_hide_a_duplicate():
    tiles = np.zeros((2, 32, 32, 4), np.uint8)
    tiles[1, ..., 0] = 255
    assert duplicates.duplicated(tiles, np.array([0, 2])).tolist() == [False, True]


# building


def small_world():
    """Twelve subjects in two styles: enough for every split, drawn as squares of their own colours."""
    subjects = by_code(*(subject(f"1f5{i:02x}", f"thing {i}", subgroup="tool") for i in range(0x90, 0x9C)))
    drawings = {}
    for style, blue in (("noto", "00"), ("fluent_flat", "ff")):
        drawings[style] = {
            code: Drawing(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><rect width="1" height="1" '
                          f'fill="#{20 * i:02x}{255 - 20 * i:02x}{blue}"/></svg>')
            for i, code in enumerate(subjects)
        }  # fmt: skip
    return subjects, drawings


@pytest.fixture
def emoji_world(monkeypatch):
    subjects, drawings = small_world()
    monkeypatch.setattr(styles, "open_subjects", lambda cache: subjects)
    monkeypatch.setattr(styles, "open_drawings", lambda subjects, cache: drawings)
    return subjects, drawings


def test_prepare_builds_a_corpus_and_does_it_once(emoji_world, tmp_path, capsys):
    subjects, _ = emoji_world
    command = ["emoji", f"--output={tmp_path / 'emoji'}", "--size=32"]
    (tmp_path / "emoji.tmp").mkdir()
    (tmp_path / "emoji.tmp" / "noto-0.webp").write_text("of a run that was killed")
    assert prepare.main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["emoji"] and not (tmp_path / "emoji" / "lock").exists()
    corpus = load_corpus(tmp_path / "emoji", 32)
    assert len(corpus.pictures) == 24
    for image, picture in zip(corpus.images, corpus.pictures, strict=True):
        i = list(subjects).index(picture.subject)
        assert tuple(image[16, 16]) == (20 * i, 255 - 20 * i, 255 * (picture.style == "fluent_flat"), 255)
        assert picture.name == subjects[picture.subject].name
    assert corpus.sources["noto"]["licence"] == "Apache-2.0"
    assert "Apache-2.0" in capsys.readouterr().out
    assert prepare.main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert prepare.main([*command[:2], "--size=64"]) == 2
    assert "holds pictures of 32 px, not 64" in capsys.readouterr().err


def test_a_failed_build_leaves_nothing(emoji_world, tmp_path, capsys):
    _, drawings = emoji_world
    drawings["noto"]["1f590"] = Drawing("not an svg")
    assert prepare.main(["emoji", f"--output={tmp_path / 'emoji'}", "--size=32"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_strange_output_folder_is_not_touched(emoji_world, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert prepare.main(["emoji", f"--output={tmp_path}"]) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_only_mit_and_apache_sets_are_bundled():
    assert {styles.PACKAGES[style].licence for style in fixture.STYLES} <= styles.REDISTRIBUTABLE
    with pytest.raises(ValueError, match="openmoji is under CC-BY-SA"):
        notice.notice(["openmoji"])


def test_every_package_is_pinned():
    pinned = {packages.NAMES, *styles.PACKAGES.values()}
    assert all(len(package.sha256) == 64 and package.version and package.licence for package in pinned)
    assert packages.FLUENT_3D.archive == "lobehub-fluent-emoji-3d-1.1.0.tgz"


def test_the_bundled_drawings_come_from_the_pinned_packages():
    assert all(styles.source(style) == about for style, about in load_corpus("fixture", 8).sources.items())
