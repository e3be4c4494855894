"""The common runner: what a reader yields becomes records that stream; what is broken is counted or stops it."""

import argparse
import io
import json
import types

import numpy as np
import pytest

pytest.importorskip("array_record")

from data_pipelines import prepare, prepare_dataset, records, templates
from data_pipelines.corpus import SPLITS
from data_pipelines.images import encode_image, fit_image
from data_pipelines.instruction import Instruction, check
from data_pipelines.records import RecordReader
from data_pipelines.shortening import plain, shorten
from data_pipelines.sources.groups import choose_references
from data_pipelines.sources.item import About, Item, Skip, SourceError
from data_pipelines.splits import Splitter, stable_hash
from data_pipelines.text import load_tokenizer

ABOUT = About("Squares", "CC0-1.0", "A. Square, Flatland, 1884", "a shelf")


def picture(number, shape=(24, 20)):
    return np.full((*shape, 3), number % 256, np.uint8)


def item(number, **changes):
    given = dict(key=f"item/{number}", task="text_to_image", target=picture(number), caption=f"square number {number}")
    return Item(**given | changes)


def prepare_items(tmp_path, found, *options, name="squares"):
    """Runs the runner over a reader module made here; returns the folder of the data set."""
    reader = types.SimpleNamespace(ABOUT=ABOUT, HELP="squares", items=lambda arguments: iter(found))
    parser = argparse.ArgumentParser()
    prepare_dataset.add_arguments(parser, tmp_path, name)
    prepare_dataset.run(reader, parser.parse_args(["--size=16", *options]))
    return tmp_path / name


def examples(folder, split="train"):
    """Key -> example."""
    reader = RecordReader(folder / split, split)
    reader.verify()
    found = [reader.read(i) for i in range(len(reader))]
    keys = [records.parse_header(records.split_parts(record)[0])["key"] for record in found]
    return dict(zip(keys, map(records.decode, found), strict=True))


def manifest(folder, split="train"):
    return json.loads((folder / split / "manifest.json").read_text())


def test_items_become_worded_examples_of_all_splits(tmp_path, capsys):
    found = [item(i) for i in range(60)]
    folder = prepare_items(tmp_path, found, "--splits=0.6,0.2,0.2")
    counts = {split: len(examples(folder, split)) for split in SPLITS}
    assert sum(counts.values()) == 60 and 25 <= counts["train"] <= 45 and min(counts.values()) > 3
    for number, example in ((i, e) for split in SPLITS for i, e in enumerate(examples(folder, split).values())):
        assert example.target.shape == (16, 16, 3) and "square number" in example.instruction.text, number
    told = capsys.readouterr().out
    assert "Squares" in told and "CC0-1.0" in told and "A. Square" in told and "wrote 60 examples" in told
    about = manifest(folder)
    assert about["source"]["licence"] == "CC0-1.0" and about["size"] == 16 and about["kind"] == "examples"
    assert about["counts"]["read"] == 60 and about["counts"]["written"] == {"text_to_image": counts["train"]}
    longest = max(len(load_tokenizer().encode(e.instruction.text)) for e in examples(folder).values())
    assert about["longest"] == {"text": longest, "reference_text": 0, "references": 0}


def test_a_second_run_gives_the_same_bytes_and_another_seed_other_phrasings(tmp_path):
    found = [item(i) for i in range(40)]
    first, second = (prepare_items(tmp_path, found, name=name) for name in ("first", "second"))
    for split in SPLITS:
        for path in (first / split).iterdir():
            assert path.read_bytes() == (second / split / path.name).read_bytes().replace(b"second", b"first")
    other = examples(prepare_items(tmp_path, found, "--seed=1", name="other"))
    assert {k: e.instruction.text for k, e in examples(first).items()} != {
        k: e.instruction.text for k, e in other.items()
    }
    assert other.keys() == examples(first).keys()  # the split is the group's alone


def test_every_form_of_pixels_is_decoded_cut_and_resized(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (10, 200, 30)
    (tmp_path / "wide.png").write_bytes(encode_image(wide, "png"))
    forms = [wide, encode_image(wide, "png"), tmp_path / "wide.png"]
    references = [("a green square", form) for form in forms]
    found = [item(0, task="subject", target=wide, references=references, split="train")]
    (example,) = examples(prepare_items(tmp_path, found)).values()
    for reference in example.instruction.references:
        np.testing.assert_array_equal(reference.image, fit_image(wide, 16))
    assert [reference.marker for reference in example.instruction.references] == ["[ref#1]", "[ref#2]", "[ref#3]"]


def test_broken_items_are_counted_by_reason_and_strict_stops_at_the_first(tmp_path, capsys):
    whole = encode_image(picture(1, (64, 64)), "jpeg")
    broken = [
        item(10, target=whole[: len(whole) // 2]),
        item(11, target=tmp_path / "nowhere.png"),
        item(12, caption="  "),
        item(1, caption="the same key again"),
        Skip("part-3.tar", "truncated tar"),
    ]
    folder = prepare_items(tmp_path, [*(item(i) for i in range(10)), *broken])
    skipped = {"broken image": 2, "no words": 1, "a key twice": 1, "truncated tar": 1}
    counts = manifest(folder)["counts"]
    assert counts["skipped"] == skipped and counts["read"] == 15
    assert counts["written in all splits"] + sum(skipped.values()) == counts["read"]
    assert "2 broken image" in capsys.readouterr().out
    with pytest.raises(SourceError, match=r"part-3.tar: truncated tar"):
        prepare_items(tmp_path, [item(0), broken[-1], broken[0]], "--strict", name="strict")
    with pytest.raises(SourceError, match="item/10: broken image"):
        prepare_items(tmp_path, [item(0), broken[0]], "--strict", name="strict")
    with pytest.raises(SourceError, match=r"nothing to write: 2 items read, 1 broken image, 1 truncated tar"):
        prepare_items(tmp_path, [broken[0], broken[-1]], name="strict")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["squares"]


def test_long_words_are_cut_at_a_word_and_counted(tmp_path):
    long = "a very long story of squares, " * 40
    references = [(f"a square among {long}", picture(1))]
    found = [
        item(0, caption=long, split="train"),
        item(1, task="subject", references=references, split="train"),
        item(2, split="train"),
    ]
    folder = prepare_items(tmp_path, found, "--text_length=48", "--reference_text_length=16")
    encode, told = load_tokenizer().encode, examples(folder)
    for example in told.values():
        assert len(encode(example.instruction.text)) <= 48
        for reference in example.instruction.references:
            assert len(encode(f"{reference.marker} {reference.text}")) <= 16
            assert reference.text.split()[-1] in {"a", *long.replace(",", "").split()}
    assert manifest(folder)["counts"]["captions shortened"] == 2
    with pytest.raises(SourceError, match="nothing to write: 3 items read, 3 a text too long"):
        prepare_items(tmp_path, found, "--text_length=2", name="short")
    assert manifest(folder)["longest"]["reference_text"] <= 16 and manifest(folder)["longest"]["text"] <= 48


def test_captions_that_look_like_markers_or_span_lines_are_made_plain(tmp_path):
    found = [item(0, caption="a bolt,\n Ref #12 [ref#3] of {steel}", split="train")]
    (example,) = examples(prepare_items(tmp_path, found)).values()
    assert "a bolt, Ref 12 ref 3 of {steel}" in example.instruction.text


def test_too_many_references_are_left_out_and_too_few_are_an_error(tmp_path):
    references = [(f"square {k}", picture(k)) for k in range(5)]
    found = [item(0, task="subject", references=references, split="train")]
    (example,) = examples(prepare_items(tmp_path, found, "--max_references=2")).values()
    assert len(example.instruction.references) == 2
    found = [item(0, task="style_transfer", caption="", references=references[:1])]
    with pytest.raises(SourceError, match="item/0: task style_transfer needs 2 references, and has 1"):
        prepare_items(tmp_path, found, name="few")
    with pytest.raises(SourceError, match="there is no task 'dance'"):
        prepare_items(tmp_path, [item(0, task="dance")], name="few")


def test_groups_never_straddle_splits(tmp_path):
    found = [item(i, group=f"person {i % 9}") for i in range(90)]
    folder = prepare_items(tmp_path, found, "--splits=0.5,0.25,0.25")
    groups = {split: {int(key.split("/")[1]) % 9 for key in examples(folder, split)} for split in SPLITS}
    assert sum(len(group) for group in groups.values()) == 9 and len(groups["train"]) < 9
    mixed = [item(0, group="ann", split="test"), item(1, group="ann"), item(2, group="bob", split="train")]
    assert set(examples(prepare_items(tmp_path, mixed, name="mixed"), "test")) == {"item/0", "item/1"}
    leak = [*mixed, item(3, group="ann", split="train")]
    with pytest.raises(SourceError, match="identity leak: group 'ann' is in test and, with item/3, in train"):
        prepare_items(tmp_path, leak, name="leak")
    with pytest.raises(SourceError, match="split 'dev' is none of train, validation, test"):
        prepare_items(tmp_path, [item(0, split="dev")], name="leak")


def test_the_deal_of_groups_is_even_and_the_same_everywhere():
    dealt = [Splitter((0.8, 0.1, 0.1)).split(item(i, group=f"g{i}")) for i in range(2000)]
    shares = [dealt.count(split) / 2000 for split in SPLITS]
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.03)
    assert stable_hash("ann") == 10176691957563388837  # in every process and version


def test_a_name_that_is_not_utf8_costs_nothing(tmp_path):
    name = b"caf\xe9".decode(errors="surrogateescape")
    found = [item(0, key=name, group=name, split="train")]
    assert list(examples(prepare_items(tmp_path, found))) == ["caf?"]
    assert choose_references(name, [1], 1, seed=0) == [1]


def test_an_empty_split_is_told_with_its_mend(tmp_path, capsys):
    prepare_items(tmp_path, [item(0, split="train")])
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("nothing is in validation and test: ") and told.endswith(", or more groups")
    prepare_items(tmp_path, [item(i, split=split) for i, split in enumerate(SPLITS)], name="all")
    assert "nothing is in" not in capsys.readouterr().out


def test_limit_reads_no_further(tmp_path):
    read = []
    found = (read.append(i) or item(i) for i in range(1000))
    folder = prepare_items(tmp_path, found, "--limit=7")
    assert manifest(folder)["counts"]["read"] == len(read) == 7


def test_the_reader_is_not_read_far_ahead(tmp_path):
    read = []

    def found():
        for i in range(300):
            read.append(i)
            yield item(i, target=b"")  # all broken: nothing is written, and the count below is of what was read
        raise SourceError("the end was reached")

    with pytest.raises(SourceError, match="item/0: broken image"):
        prepare_items(tmp_path, found(), "--strict")
    assert len(read) < 100


def test_words_are_cut_only_between_words():
    assert shorten("one two three", lambda text: len(text) <= 7) == "one two"
    assert shorten("one two, three", lambda text: len(text) <= 8) == "one two"
    assert shorten("one two", lambda text: len(text) <= 2) == "on"  # no word fits
    assert shorten("one", lambda text: False) == ""
    assert shorten("- https://long tail", lambda text: len(text) <= 8) == "- https:"  # '-' alone is nothing
    assert plain("[[ref#1]] and [ [[Ref2] ]") == "ref 1 and Ref2"
    pieces = np.random.default_rng(0).choice(["[", "]", "ref", "#", " ", "1", "x"], (2000, 12))
    for caption in map("".join, pieces):  # whatever was in it, it names no reference
        check(Instruction(f"x {plain(caption)}"))
    assert plain("  [ref#1] and [Ref # 2 see\nref #3") == "ref 1 and Ref 2 see ref 3"


def test_families_are_imported_only_when_chosen(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in prepare.FAMILIES) and "magicbrush" in told
    assert prepare.main(["records", "--examples=0"]) == 2
    assert capsys.readouterr().err == "error: --examples=0: at least one\n"


def test_every_task_s_phrasings_can_be_cut(tmp_path):
    """A caption of any length fits whatever the phrasing, for each task that has words."""
    worded = [task for task, wanted in templates.PLACEHOLDERS.items() if {"caption", "change"} & wanted]
    long = "one more word " * 80
    found = []
    for i, task in enumerate(worded):
        words = {"change": long, "caption": ""} if "change" in templates.PLACEHOLDERS[task] else {"caption": long}
        count = templates.least_references(task)
        references = [("content image", io.BytesIO(encode_image(picture(k))).getvalue()) for k in range(count)]
        found.append(item(i, task=task, references=references, split="train", **words))
    folder = prepare_items(tmp_path, found, "--text_length=64")
    assert {example.task for example in examples(folder).values()} == set(worded)
