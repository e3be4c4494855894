"""DreamBench, CustomConcept101, MagicBrush and KITTEN in miniatures of their published layouts, with random weights."""

import argparse
import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.item import Skip
from imagen_jax import release
from imagen_jax.benchmarks import customconcept101, dreambench, kitten, magicbrush, metrics, ratings, scoring, tables
from imagen_jax.benchmarks.__main__ import main
from imagen_jax.benchmarks.generation import BenchmarkError, keep_record, open_artist, settings_of
from imagen_jax.benchmarks.scoring import Encoders, Judged
from tests.small_run import SIDE, write_run
from tests.test_dino import write_folder
from tests.test_networks import VOCAB, clip_folder


def draw(path: Path, colour=(0, 0, 0), size=(16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def split(found) -> tuple[list, list[str]]:
    """What was found, and why the rest was left out."""
    found = list(found)
    return [each for each in found if not isinstance(each, Skip)], [e.reason for e in found if isinstance(e, Skip)]


def of(data: Path, **options) -> argparse.Namespace:
    return argparse.Namespace(data=data, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


# Measures and means, with an encoder whose vectors are known


def colour(pictures) -> np.ndarray:
    """The mean colour of each picture."""
    return np.stack([picture.mean((0, 1)) for picture in pictures])


def test_similarity_is_the_mean_cosine_of_all_pairs():
    found = metrics.similarity(np.float32([[2, 0]]), np.float32([[5, 0], [0, 1], [3, 4]]))
    assert found == pytest.approx((1 + 0 + 0.6) / 3)
    assert (metrics.clip_score(0.3), metrics.clip_score(-0.1)) == (pytest.approx(0.75), 0)


def test_distances_are_at_the_target_s_size_in_0_to_1():
    target = np.zeros((20, 10, 3), np.uint8)
    target[:10] = 255
    l1, l2 = metrics.distances(np.full((5, 5, 3), 51, np.uint8), target)
    assert l1 == pytest.approx((0.8 + 0.2) / 2) and l2 == pytest.approx((0.64 + 0.04) / 2)


def test_scores_and_means(tmp_path):
    red, green = draw(tmp_path / "real/red.png", (255, 0, 0)), draw(tmp_path / "real/green.png", (0, 255, 0))
    for name, shade in (("one", (200, 0, 0)), ("two", (0, 100, 0))):
        draw(tmp_path / f"{name}.png", shade)
    judged = [
        Judged("one.png", ("all", "a"), "red", {"_1": [red, green], "_2": [red]}),
        Judged("two.png", ("all", "b"), "red", {"": [red]}, target=green),
    ]
    encoders = Encoders(colour, lambda texts: np.float32([[1, 0, 0] for _ in texts]), colour)
    found = scoring.score(tmp_path, judged, encoders)
    assert found["one.png"] == pytest.approx(
        {
            "dino": 0.75,
            "dino_1": 0.5,
            "dino_2": 1,
            "clip_i": 0.75,
            "clip_i_1": 0.5,
            "clip_i_2": 1,
            "clip_t": 1,
            "clip_score": 2.5,
        }
    )
    two = found["two.png"]
    assert (two["dino"], two["clip_t"], two["clip_score"], two["clip_t_real"]) == (0, 0, 0, 0)
    assert two["l1"] == pytest.approx(155 / 255 / 3)
    rows = scoring.average(judged, found)
    assert [(row["group"], row["pictures"], row["dino"]) for row in rows] == [
        ("all", 2, 0.375),
        ("a", 1, 0.75),
        ("b", 1, 0),
    ]
    assert rows[0]["l1"] == two["l1"]  # only pictures with a target, and says so
    assert rows[0]["l1 pictures"] == 1 and "dino pictures" not in rows[0] and "l1 pictures" not in rows[2]
    assert "clip_t" not in scoring.score(tmp_path, judged, Encoders(dino=colour))["one.png"]


def test_the_table_is_aligned_and_leaves_blanks():
    rows = [{"group": "all", "pictures": 12, "dino": 0.5}, {"group": "b", "pictures": 3, "dino": float("nan")}]
    assert tables.format_table(rows).splitlines() == [
        "group  pictures    dino",
        "all          12  0.5000",
        "b             3",
    ]


# DreamBench

PROMPTS = """Classes

subject_name,class
can,can
dog2,dog
lost,toy

Prompts

Object Prompts

prompt_list = [
'a {0} {1} under a lamp'.format(unique_token, class_token),
'a small {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} with a scarf'.format(unique_token, class_token)
]
"""


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dreambooth")
    (folder / "dataset").mkdir()
    (folder / "dataset/prompts_and_classes.txt").write_text(PROMPTS)
    for name, shades in (("can", (10, 60, 90, 120)), ("dog2", (200,))):
        for number, shade in enumerate(shades):
            draw(folder / "dataset" / name / f"{number:02d}.jpg", (shade, 80, 0))
    return folder


def test_dreambench_s_prompts_name_the_class_and_not_the_token(subjects):
    requests, reasons = split(dreambench.requests(of(subjects)))
    assert reasons == ["no pictures of the subject: load it again"]
    assert [each.file for each in requests][:5] == [*(f"can/00_{i}.png" for i in range(4)), "can/01_0.png"]
    captions = list(dict.fromkeys(each.caption for each in requests))
    assert captions == ["a can under a lamp", "a small can", "a dog with a scarf"]
    assert [words for words, _ in requests[0].references] == ["a can"] * 4
    judged, _ = split(dreambench.judged(of(subjects)))
    assert judged[-1].groups == ("all", "dog2") and [len(judged[0].real[""]), len(judged[-1].real[""])] == [4, 1]


def test_dreambench_from_pictures_to_scores(subjects, run, tmp_path, capsys):
    output = tmp_path / "pictures"
    options = [f"--data={subjects}", f"--output={output}", f"--workdir={run}"]

    def generate(*more: str) -> int:
        return main(["dreambench", "generate", *options, *more])

    assert generate("--list") == 0 and not output.exists()
    assert "can/01_3.png: a small can" in capsys.readouterr().out
    assert generate("--batch=4", "--limit=5") == 0
    first = (output / "can/00_3.png").read_bytes()
    assert Image.open(output / "can/00_3.png").size == (SIDE, SIDE)
    assert len(list(output.glob("*/*.png"))) == 5
    (output / "can/00_3.png").unlink()
    assert generate("--batch=4") == 0
    assert "12 pictures, 4 of them" in (told := capsys.readouterr().out) and "drew 8 pictures" in told
    assert (output / "can/00_3.png").read_bytes() == first  # the same in another batch
    assert len({path.read_bytes() for path in output.glob("*/*.png")}) == 12
    assert generate("--seed=1") == 2
    assert "have seed 0, not 1: give another --output" in capsys.readouterr().err
    check_scores(subjects, output, tmp_path, capsys)


def test_the_pictures_of_one_run_are_never_another_s(subjects, run, tmp_path, capsys):
    other, output = write_run(tmp_path / "other"), tmp_path / "pictures"
    options = ["dreambench", "generate", f"--data={subjects}", f"--output={output}", "--limit=4", "--batch=4"]
    assert main([*options, f"--workdir={run}"]) == 0
    for path in list(output.glob("can/*.png"))[2:]:  # stopped halfway
        path.unlink()
    for name in ("other", "tiny"):
        assert main([*options, f"--workdir={other}", f"--name={name}"]) == 2
        assert f"pictures.json: its pictures have workdir {run}, not {other}: give" in capsys.readouterr().err
    assert len(list(output.glob("can/*.png"))) == 2 and len(list(output.iterdir())) == 2
    (output / "pictures.json").unlink()
    assert main([*options, f"--workdir={run}"]) == 2
    assert "missing, so nothing says what made the 2 pictures there: give" in capsys.readouterr().err


def test_a_run_trained_on_is_another(run, tmp_path):
    def write(next_example: int) -> dict:
        about = {"config": json.loads(base.config.to_json()), "next_example": next_example}
        release.write_release(tmp_path / "model", base.params, about)
        return settings_of(open_artist(tmp_path / "model", [], 0), tmp_path / "model")

    base, record = open_artist(run, [], 0).base, tmp_path / "pictures.json"
    size = base.config.train.batch_size
    keep_record(record, write(5 * size), 0)
    keep_record(record, write(5 * size), 3)
    with pytest.raises(BenchmarkError, match="its pictures have step 5, not 6"):
        keep_record(record, write(6 * size), 3)


def test_a_super_resolution_run_trained_on_is_another(run, tmp_path, monkeypatch):
    artist, record = open_artist(run, [], 0), tmp_path / "pictures.json"

    def settings(step: int, workdir: str) -> dict:
        artist.sample.super_res.workdir = workdir
        return settings_of(dataclasses.replace(artist, super_res=artist.base._replace(step=step)), run)

    keep_record(record, settings(7, "auto"), 0)
    with pytest.raises(BenchmarkError, match=r"have super_res .*'step': 7.*, not .*'step': 8"):
        keep_record(record, settings(8, "auto"), 3)
    monkeypatch.chdir(tmp_path)
    assert settings(7, "runs/large")["super_res"]["workdir"] == str(tmp_path / "runs/large")


def check_scores(subjects: Path, output: Path, tmp_path: Path, capsys) -> None:
    clip, dino = tmp_path / "clip", write_folder(tmp_path / "dino")
    clip.mkdir()
    clip_folder(clip, eos_token_id=12)
    (clip / "vocab.json").write_text(
        json.dumps({w: i for i, w in enumerate([*VOCAB, "<|startoftext|>", "<|endoftext|>"])})
    )
    (clip / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n")
    (output / "dog2/00_2.png").unlink()
    options = [f"--data={subjects}", f"--output={output}", f"--clip={clip}", f"--dino={dino}"]
    assert main(["dreambench", "score", *options]) == 0
    assert "missing: 1 of 12 pictures, such as dog2/00_2.png" in capsys.readouterr().out
    written = json.loads((output / "scores.json").read_text())
    rows = {row["group"]: row for row in written["rows"]}
    assert (rows["all"]["pictures"], rows["can"]["pictures"], rows["dog2"]["pictures"]) == (11, 8, 3)
    encode = metrics.open_dino(dino)
    real = encode([np.asarray(Image.open(path)) for path in sorted((subjects / "dataset/can").iterdir())])
    one = encode([np.asarray(Image.open(output / "can/00_0.png"))])[0]
    cosines = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in real]
    assert written["pictures"]["can/00_0.png"]["dino"] == pytest.approx(np.mean(cosines), abs=1e-5)
    each = [scores["clip_t"] for scores in written["pictures"].values()]
    assert rows["all"]["clip_t"] == pytest.approx(np.mean(each)) and len(set(each)) > 3


# CustomConcept101


@pytest.fixture(scope="module")
def concepts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("concepts")
    (folder / "prompts").mkdir()
    (folder / "prompts/pair.txt").write_text("photo of the {0} and {1}. \n\nA cat on the {1} by a {0}.")
    (folder / "prompts/one.txt").write_text("A {} in a pool.\n")
    entry = lambda words, name: {"class_prompt": words, "instance_data_dir": f"./benchmark_dataset/{name}",  # noqa: E731
                                 "prompt_filename": "prompts/one.txt"}  # fmt: skip
    chair, table, gone = entry("chair", "chair1"), entry("table", "table3"), entry("car", "car1")
    pair = {"prompt_filename_compose": "prompts/pair.txt"}
    (folder / "dataset.json").write_text(json.dumps([chair, gone]))
    (folder / "dataset_multiconcept.json").write_text(json.dumps([[chair, table, pair], [chair, gone, pair]]))
    for name, count in (("chair1", 3), ("table3", 2)):
        for number in range(count):
            draw(folder / f"benchmark_dataset/{name}/{number}.jpg", (40 * number, 9, 9))
    return folder


def test_customconcept101_pairs(concepts, tmp_path):
    arguments = of(concepts, concepts="pairs", pictures=2, output=tmp_path)
    requests, reasons = split(customconcept101.requests(arguments))
    assert reasons == ["missing: unpack benchmark_dataset.zip in the folder of the data"]
    assert [each.file for each in requests] == [
        f"000_chair1+table3/samples/0{i}_{k}.png" for i in (0, 1) for k in (0, 1)
    ]
    assert requests[2].caption == "A cat on the table by a chair."
    assert [(words, path.parent.name) for words, path in requests[0].references] == [
        ("a chair", "chair1"),
        ("a table", "table3"),
    ]
    customconcept101.write_prompts(arguments, requests)
    prompts = json.loads((tmp_path / "000_chair1+table3/prompts.json").read_text())
    assert prompts["01_0"] == "A cat on the table by a chair."
    judged, _ = split(customconcept101.judged(arguments))
    assert {name: len(real) for name, real in judged[0].real.items()} == {"_1": 3, "_2": 2}


def test_customconcept101_single(concepts):
    requests, _ = split(customconcept101.requests(of(concepts, concepts="single", pictures=1)))
    assert [(each.file, each.task, each.caption, len(each.references)) for each in requests] == [
        ("chair1/samples/00_0.png", "subject", "A chair in a pool.", 3)
    ]


# MagicBrush


@pytest.fixture(scope="module")
def edits(tmp_path_factory) -> Path:
    """Two sessions, of one turn and of two; the target of session S, turn T is grey 10 S + T."""
    root = tmp_path_factory.mktemp("magicbrush") / "test"
    sessions, described = {}, {}
    for session, turns in (("1", 1), ("2", 2), ("3", 1)):
        names = [f"{session}-input.png", *(f"{session}-output{turn}.png" for turn in range(1, turns + 1))]
        for turn, name in enumerate(names):
            if session != "3":
                draw(root / "images" / session / name, (10 * int(session) + turn,) * 3, (SIDE, SIDE))
        sessions[session] = [
            {"input": a, "mask": "m.png", "output": b, "instruction": "Put a cat on it."}
            for a, b in itertools.pairwise(names)
        ]
        described[session] = dict.fromkeys(names[1:], "low")
    (root / "edit_sessions.json").write_text(json.dumps(sessions))
    (root / "local_descriptions.json").write_text(json.dumps(described))
    return root.parent


def test_magicbrush_turns(edits, tmp_path):
    requests, reasons = split(magicbrush.requests(of(edits, output=tmp_path)))
    assert reasons == ["no such picture: unpack the test split again"]
    assert [(each.file, each.round) for each in requests] == [
        ("1/1_1.png", 0), ("2/2_1.png", 0), ("2/2_inde_2.png", 0), ("2/2_iter_2.png", 1),
    ]  # fmt: skip
    assert {each.change for each in requests} == {"put a cat on it"}
    shown = [each.references[0][1].name for each in requests]
    assert shown == ["1-input.png", "2-input.png", "2-output1.png", "2_1.png"]


def test_magicbrush_from_pictures_to_scores(edits, run, tmp_path):
    options = [f"--data={edits}", f"--output={tmp_path}"]
    assert main(["magicbrush", "generate", *options, f"--workdir={run}", "--batch=4", "--sample=steps=1"]) == 0
    pictures = {
        name: np.asarray(Image.open(tmp_path / name))
        for name in ("1/1_1.png", "2/2_1.png", "2/2_inde_2.png", "2/2_iter_2.png")
    }
    assert main(["magicbrush", "score", *options]) == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    single, multi = sorted(written["rows"], key=lambda row: row["group"], reverse=True)
    l1 = {
        name: np.abs(picture / 255 - shade / 255).mean()
        for (name, picture), shade in zip(pictures.items(), (11, 21, 22, 22), strict=True)
    }
    assert (single["group"], single["pictures"], multi["pictures"]) == ("single_turn", 3, 2)
    assert single["l1"] == pytest.approx(np.mean([l1["1/1_1.png"], l1["2/2_1.png"], l1["2/2_inde_2.png"]]), abs=1e-6)
    assert written["pictures"]["2/2_iter_2.png"]["l2"] > 0
    assert multi["l1"] == pytest.approx(
        np.mean([written["pictures"][name]["l1"] for name in ("1/1_1.png", "2/2_iter_2.png")])
    )


def test_magicbrush_counts_the_pictures_with_a_description(edits, tmp_path):
    for name in ("test/edit_sessions.json", "test/local_descriptions.json"):
        (tmp_path / "test").mkdir(exist_ok=True)
        shutil.copy(edits / name, tmp_path / name)
    (tmp_path / "test/images").symlink_to(edits / "test/images")
    path = tmp_path / "test/local_descriptions.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"2": {"2-output1.png": "low"}}))  # not its second turn
    judged, _ = split(magicbrush.judged(of(tmp_path, descriptions="local")))
    for each in judged:
        draw(tmp_path / each.file, (90, 90, 90))
    scores = scoring.score(tmp_path, judged, Encoders(colour, lambda texts: np.ones((len(texts), 3), np.float32)))
    single, multi = scoring.average(judged, scores)
    assert [(row["pictures"], row["clip_t pictures"]) for row in (single, multi)] == [(3, 2), (2, 1)]


# KITTEN


@pytest.fixture(scope="module")
def entities(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kitten")
    lines = [
        "domain,entity,prompt",
        "plant,Red maple,A Red maple in snow",
        'plant,Red maple,"A Red maple, painted"',
        "plant,Yew,A Yew",
    ]
    (folder / "prompts.csv").write_text("\n".join(lines))
    draw(folder / "support/plant/Red maple/a.jpg")
    draw(folder / "evaluation/Red maple/b.jpg")
    return folder


def test_kitten_s_prompts_and_form(entities, tmp_path):
    requests, reasons = split(kitten.requests(of(entities)))
    assert reasons == ["no pictures of the entity of prompt 3"]
    assert [(each.file, each.caption) for each in requests] == [
        ("plant/Red_maple/00001.png", "A Red maple in snow"), ("plant/Red_maple/00002.png", "A Red maple, painted"),
    ]  # fmt: skip
    assert [words for words, _ in requests[0].references] == ["Red maple"]
    judged, _ = split(kitten.judged(of(entities)))
    assert judged[0].groups == ("all", "plant") and judged[0].real[""][0].name == "b.jpg"
    kitten.write_form(argparse.Namespace(output=tmp_path, name="Ours"), requests)
    form = (tmp_path / "rating_form.tsv").read_text()
    for rater, cell in ((1, "[3, 4]"), (2, "[2,5]")):
        (tmp_path / f"KITTEN_rater{rater}.tsv").write_text(form.replace(".png\t", f".png\t{cell}"))
    (row,) = ratings.summarize("KITTEN", ratings.read_ratings(tmp_path, ratings.KITTEN)["KITTEN"], ratings.KITTEN)
    assert (row["model"], row["text"], row["entity"], row["overall"]) == ("Ours", 2.5, 4.5, 3.5)
    assert row["overall of means"] == row["overall"]


# Bad input is one line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dreambench", "generate", "--workdir=x"], "no prompts_and_classes.txt: give the folder dataset/"),
        (["customconcept101", "generate", "--workdir=x"], "dataset_multiconcept.json: No such file or directory: give"),
        (["magicbrush", "score"], "no edit_sessions.json: give the unpacked test split"),
        (["kitten", "generate", "--workdir=x"], "prompts.csv: unreadable"),
        (["kitten", "generate", "--workdir=x", "--batch=0"], "--batch=0: must be at least 1"),
        (["kitten", "generate", "--workdir=x", "--name=a/b"], "is the name of a folder"),
        (["kitten", "generate", "--workdir=x", f"--seed={2**32}"], "--seed=4294967296: must be at most 4294967295"),
    ],
)
def test_missing_data_is_one_line(arguments, told, tmp_path, capsys):
    assert main([*arguments, f"--data={tmp_path}", f"--output={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_missing_run_and_bad_settings_are_one_line(subjects, run, tmp_path, capsys):
    options = ["dreambench", "generate", f"--data={subjects}", f"--output={tmp_path}/out"]
    assert main([*options, f"--workdir={tmp_path}/none"]) == 2
    assert "no trained model there" in capsys.readouterr().err
    for change, told in (("stepz=3", "the keys are"), ("steps=many", "the keys are"), ("steps", "give KEY=VALUE")):
        assert main([*options, f"--workdir={run}", f"--sample={change}"]) == 2
        error = capsys.readouterr().err
        assert told in error and f"--sample {change}" in error and error.count("\n") == 1
    assert main(["dreambench", "score", f"--data={subjects}", f"--output={tmp_path}/out"]) == 2
    assert "none of 12 pictures is there: run generate first" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["imagenhub", "dreambench", "customconcept101", "magicbrush", "kitten"])
def test_help_names_the_data_its_licence_and_whom_to_cite(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(word in told for word in ("data: ", "licence: ", "cite: ", "generate"))
