"""ImagenHub: its published ratings give its published scores; its folders come out of miniatures of its data sets."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.sources.item import Skip, SourceError
from imagen_jax.benchmarks import imagenhub, ratings
from imagen_jax.benchmarks.__main__ import main
from tests.small_run import write_run

PUBLISHED = Path(os.environ.get("IMAGENHUB_RATINGS", Path(__file__).parents[2] / "shared/data/imagenhub_ratings"))
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="IMAGENHUB_RATINGS=FOLDER of ImagenHub's eval/human_ratings (MIT, not kept here)"
)


# Fleiss' kappa

# The worked example of the literature: ten subjects, fourteen raters, five categories; kappa .210.
WORKED = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_kappa_of_the_worked_example():
    assert ratings.fleiss_kappa(np.array(WORKED)) == pytest.approx(0.210, abs=5e-4)


def test_kappa_s_ends():
    assert ratings.fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1
    assert ratings.fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1  # two raters who always differ
    assert np.isnan(ratings.fleiss_kappa(np.array([[3, 0], [3, 0]])))  # nobody could have differed
    assert np.isnan(ratings.fleiss_kappa(np.array([[1, 0], [0, 1]])))  # one rater


# Ratings


def write_ratings(folder: Path, *files: str, task: str = "Task_IG") -> Path:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(files, start=1):
        (folder / f"{task}_rater{number}.tsv").write_text(text)
    return folder


FIRST = "uid\tOurs\tTheirs\r\nsample_0.jpg\t[1, 1]\t[0,0.5]\r\nsample_1.jpg\t[0.5 , 0.5]\t[0,1]\r\n"
SECOND = "uid\tOurs\tTheirs\nsample_1.jpg\t[0,1]\t[0,1]\nsample_0.jpg\t[1,0.5]\t[0,0.5]\n"  # in another order


def test_overall_both_ways_and_agreement(tmp_path):
    folder = write_ratings(tmp_path / "ratings", FIRST, SECOND)
    assert main(["imagenhub", "ratings", f"--data={folder}", f"--output={tmp_path}/scores.json"]) == 0
    ours, theirs = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert (ours["task"], ours["model"], ours["raters"], ours["pictures"]) == ("Task_IG", "Ours", 2, 2)
    assert ours["SC"] == pytest.approx(2.5 / 4) and ours["PQ"] == pytest.approx(3 / 4)
    assert ours["overall"] == pytest.approx((1 + 0.5 + 0 + 0.5**0.5) / 4)
    assert ours["overall of means"] == pytest.approx((2.5 / 4 * 3 / 4) ** 0.5)
    assert ours["kappa SC"] == pytest.approx((1 / 2 - (4 + 1 + 1) / 16) / (1 - 6 / 16))
    assert theirs["overall"] == 0 and theirs["kappa PQ"] == 1
    assert theirs["kappa SC"] is None  # undefined: all zeros


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("uid\tOurs\nsample_0.jpg\t[1,1]\n", "differ in the models Theirs"),
        (SECOND.replace("sample_1", "sample_7"), "differ in 'sample_1.jpg'"),
        (SECOND.replace("[0,1]", "[0,2]", 1), r"rater2.tsv:2: Ours: '\[0,2\]' is no rating"),
        (SECOND.replace("[0,1]", "[0,0.3]", 1), "in steps of 0.5"),
        (SECOND.replace("[0,1]", "", 1), "'' is no rating: write .SC, PQ."),
        (SECOND.replace("\t[0,1]", "", 1), "tsv:2: has 1 ratings for 2 models"),
        (SECOND + "sample_0.jpg\t[0,1]\t[0,1]\n", "tsv:4: 'sample_0.jpg' is rated twice"),
        ("picture\tOurs\n", "the first line is uid"),
        ("uid\tOurs\tTheirs\n", "no ratings below"),
        ("", "the first line is uid"),
    ],
)
def test_bad_ratings_are_one_line(tmp_path, second, told):
    with pytest.raises(ratings.RatingsError, match=told) as error:
        ratings.read_ratings(write_ratings(tmp_path / "bad", FIRST, second), ratings.IMAGEN_HUB)
    assert "\n" not in str(error.value)


def test_a_folder_without_ratings(tmp_path, capsys):
    assert main(["imagenhub", "ratings", f"--data={tmp_path}"]) == 2
    assert "no files named TASK_rater1.tsv" in capsys.readouterr().err


@needs_published
def test_the_published_ratings_give_the_published_overall():
    found = published()
    printed = {
        ("Subject-Driven_IG", "SuTI"): "0.575",
        ("Subject-Driven_IG", "DreamBooth"): "0.553",
        ("Multi-Subject_IG", "CustomDiffusion"): "0.293",
        ("Control-Guided_IG", "ControlNet"): "0.229",
        ("Text-Guided_IE", "MagicBrush"): "0.467",
        ("Text-To-Image", "SDXL"): "0.585",
    }
    assert {key: f"{found[key]['overall']:.3f}" for key in printed} == printed
    assert all(row["overall of means"] >= row["overall"] for row in found.values())
    assert len(found) == 33


@needs_published
def test_the_published_ratings_give_the_published_kappas():
    printed = {  # SC, PQ, overall, as the authors' notebook prints them
        ("Control-Guided_IG", "ControlNet"): (0.42, 0.41, 0.37),
        ("Multi-Subject_IG", "CustomDiffusion"): (0.83, 0.41, 0.73),
        ("Subject-Driven_IG", "SuTI"): (0.3, 0.24, 0.2),
        ("Text-Guided_IE", "MagicBrush"): (0.5, 0.35, 0.44),
        ("Text-To-Image", "Midjourney"): (0.44, 0.05, 0.34),
    }
    for key, expected in printed.items():
        row = published()[key]
        assert tuple(round(row[f"kappa {name}"], 2) for name in ("SC", "PQ", "overall")) == expected


def published() -> dict:
    tasks = ratings.read_ratings(PUBLISHED, ratings.IMAGEN_HUB)
    rows = [row for task, found in tasks.items() for row in ratings.summarize(task, found, ratings.IMAGEN_HUB)]
    return {(row["task"], row["model"]): row for row in rows}


# Export


def picture(shade: int, hole: bool = False) -> dict:
    """A cell as Hugging Face writes it; with a transparent hole, a mask."""
    pixels = np.full((12, 12, 4), (shade, 60, 90, 255), np.uint8)
    pixels[3:6, 3:6, 3] = 0 if hole else 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGBA" if hole else "RGB").save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


EDIT = {"img_id": "1001", "turn_index": 2, "source_img": picture(50), "mask_img": picture(50, True),
        "instruction": "Add a hat.", "source_global_caption": "a man", "target_global_caption": "a man with a hat",
        "target_local_caption": "a hat", "target_img": picture(70)}  # fmt: skip
CONTROL = {"img_id": "4", "guide": picture(200), "text": "a bench"}
ROWS = {
    "Text_to_Image/data/eval-0": [{"uid": 7, "prompt": "a red cube.", "category": "colour", "source": "ABC"}],
    "Text_Guided_Image_Editing/data/filtered-0": [EDIT],
    "Mask_Guided_Image_Editing/data/filtered-0": [EDIT, EDIT | {"turn_index": 3, "mask_img": picture(50)}],
    "Control_Guided_Image_Generation/data/eval-0": [
        CONTROL | {"control_type": x} for x in ("hed", "depth", "openpose")
    ],
    "Subject_Driven_Image_Generation/data/eval-0": [
        {"uid": 3, "subject_id": 0, "subject": "dog2", "prompt": "a <token> dog in the snow"},
        {"uid": 4, "subject_id": 1, "subject": "vase", "prompt": "a <token> vase"},
    ],
    "DreamBooth_Concepts/data/train-0": [{"image": picture(s), "subject": "dog2"} for s in (20, 30, 40, 50)],
    "Multi_Subject_Driven_Image_Generation/data/train-0": [
        {"uid": 0, "prompt": "a cat on a chair", "concept1": "cat", "concept2": "chair"}
    ],
    "Multi_Subject_Concepts/data/train-0": [
        {"image": picture(s), "concept": c} for s, c in ((90, "cat"), (99, "chair"))
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for name, rows in ROWS.items():
        (folder / name).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def output(data, run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    options = [f"--data={data}", f"--output={folder}", f"--workdir={run}", "--name=Ours", "--batch=4"]
    assert main(["imagenhub", "generate", *options]) == 0
    return folder


PICTURES = [
    "ImagenHub_Control-Guided_IG/Ours/sample_4_control_depth.jpg",
    "ImagenHub_Control-Guided_IG/Ours/sample_4_control_hed.jpg",
    "ImagenHub_Mask-Guided_IE/Ours/sample_1001_2.jpg",
    "ImagenHub_Multi-Concept_IC/Ours/sample_0.jpg",
    "ImagenHub_Subject-Driven_IG/Ours/sample_3.jpg",
    "ImagenHub_Text-Guided_IE/Ours/sample_1001_2.jpg",
    "ImagenHub_Text-Guided_IG/Ours/sample_7.jpg",
]


def test_the_folders_are_imagenhub_s(output):
    assert sorted(str(path.relative_to(output)) for path in output.glob("*/Ours/*")) == PICTURES
    assert all(Image.open(output / name).size == (512, 512) for name in PICTURES)
    folder = output / "ImagenHub_Text-Guided_IG"
    lookup = json.loads((folder / "dataset_lookup.json").read_text())
    assert lookup == {"sample_7.jpg": {"prompt": "a red cube.", "category": "colour", "source": "ABC"}}
    assert (folder / "dataset_lookup.csv").read_text() == "uid\nsample_7.jpg\n"
    assert not (folder / "input").exists()


def test_what_the_model_was_shown_lies_beside(output):
    wide = Image.open(output / "ImagenHub_Multi-Concept_IC/input/sample_0.jpg")
    assert wide.size == (1024, 512)
    assert [round(np.asarray(wide)[200, x, 0] / 10) for x in (200, 800)] == [9, 10]  # the cat, the chair
    mask = np.asarray(Image.open(output / "ImagenHub_Mask-Guided_IE/mask/sample_1001_2.jpg"))
    assert mask[190, 190, 0] > 250 and mask[10, 10, 0] < 5
    assert (output / "ImagenHub_Subject-Driven_IG/input/sample_3.jpg").exists()


def test_the_record_says_how_they_were_made(output):
    record = json.loads((output / "Ours.json").read_text())
    assert (record["step"], record["seed"], record["sample"]["steps"]) == (1, 0, 1)


def test_pictures_are_the_same_under_every_name(data, run, output):
    options = [f"--data={data}", f"--output={output}", f"--workdir={run}", "--name=Theirs", "--batch=4"]
    assert main(["imagenhub", "generate", *options, "--tasks", "text_to_image", "control_guided"]) == 0
    for name in (PICTURES[0], PICTURES[1], PICTURES[-1]):
        assert (output / name).read_bytes() == (output / name.replace("Ours", "Theirs")).read_bytes(), name
    assert len({(output / name).read_bytes() for name in PICTURES}) == len(PICTURES)
    assert json.loads((output / "Theirs.json").read_text()) == json.loads((output / "Ours.json").read_text())


class Arguments:
    name, tasks = "Ours", None

    def __init__(self, data: Path, *tasks: str):
        self.data, self.tasks = data, tasks or None


def test_requests_and_what_is_left_out(data):
    found = {getattr(each, "file", getattr(each, "where", "")): each for each in imagenhub.requests(Arguments(data))}
    subject = found["ImagenHub_Subject-Driven_IG/Ours/sample_3.jpg"]
    assert (subject.caption, [words for words, _ in subject.references]) == ("a dog in the snow", ["a dog"] * 4)
    control = found["ImagenHub_Control-Guided_IG/Ours/sample_4_control_depth.jpg"]
    assert (control.task, control.references[0][0]) == ("depth", "depth map")
    edit = found["ImagenHub_Mask-Guided_IE/Ours/sample_1001_2.jpg"]
    assert (edit.task, edit.change, [w for w, _ in edit.references]) == (
        "masked_edit",
        "add a hat",
        ["mask", "content image"],
    )
    reasons = {name.split("/")[-1]: each.reason for name, each in found.items() if hasattr(each, "reason")}
    assert reasons == {
        "sample_4_control_openpose.jpg": "the model has no task for the control 'openpose'",
        "sample_1001_3.jpg": "empty mask",
        "sample_4.jpg": "no pictures of 'vase': load the subjects' data set beside this one",
    }


def test_missing_data_is_named(tmp_path, capsys):
    options = [f"--data={tmp_path}", f"--output={tmp_path}/out", "--workdir=nowhere"]
    assert main(["imagenhub", "generate", *options, "--tasks", "control_guided"]) == 2
    told = capsys.readouterr()
    assert "no eval-*.parquet: load ImagenHub/Control_Guided_Image_Generation" in told.out
    assert "gives no picture to draw" in told.err


def subject_data(folder: Path, name: str, concepts: list[dict], **changes) -> Path:
    """The data of subject-driven generation, with the subjects' pictures under a name."""
    (row, _) = ROWS["Subject_Driven_Image_Generation/data/eval-0"]
    for path, rows in (("Subject_Driven_Image_Generation/eval-0", [row | changes]), (f"{name}/train-0", concepts)):
        (folder / path).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{path}.parquet")
    return folder


CONCEPTS = ROWS["DreamBooth_Concepts/data/train-0"]


@pytest.mark.parametrize("name", ["DreamBooth_Concepts", "DreamBooth-Concepts"])
def test_both_spellings_of_the_subjects_data_set(tmp_path, name):
    data = subject_data(tmp_path, name, CONCEPTS)
    (subject,) = imagenhub.requests(Arguments(data, "subject_driven"))
    assert len(subject.references) == 4


def test_a_missing_subjects_data_set_is_named(tmp_path):
    data = subject_data(tmp_path, "DreamBooth_Pictures", CONCEPTS)
    missing, row = imagenhub.requests(Arguments(data, "subject_driven"))
    reason = "no train-*.parquet: load ImagenHub/DreamBooth_Concepts from Hugging Face"
    assert missing == Skip(str(data / "DreamBooth_Concepts"), reason)
    assert row.reason.startswith("no pictures of 'dog2'")
    help_and_docs = imagenhub.__doc__, (Path(__file__).parents[1] / "docs/benchmarks.md").read_text()
    assert all(name in text for name in ("DreamBooth_Concepts", "Multi_Subject_Concepts") for text in help_and_docs)


@pytest.mark.parametrize(
    ("concept", "has"),
    [({"picture": picture(20), "subject": "dog2"}, "picture, subject"), ({"image": picture(20), "subject": 2}, "")],
)
def test_subjects_data_of_another_form_are_one_line(tmp_path, concept, has):
    data = subject_data(tmp_path, "DreamBooth_Concepts", [concept])
    with pytest.raises(SourceError, match=f"needs the columns image and, as text, subject; it has {has}"):
        list(imagenhub.requests(Arguments(data, "subject_driven")))


def test_a_row_whose_text_is_none_is_left_out(tmp_path):
    data = subject_data(tmp_path, "DreamBooth_Concepts", CONCEPTS, subject=2)
    (row,) = imagenhub.requests(Arguments(data, "subject_driven"))
    assert row.reason == "no text in subject"
