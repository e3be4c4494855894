"""Evaluation from a checkpoint to its report: arms that differ in their references alone, pictures that are kept, means
that are those of the kept scores, targets that can be missed."""

import functools
import json
import sys
from html import escape
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from data_pipelines.corpus import load_corpus
from data_pipelines.instruction import Instruction, Reference, layout_of
from data_pipelines.loader import make_loader
from data_pipelines.suites import ZERO_SHOT, Case, open_suites
from data_pipelines.text import load_tokenizer
from data_pipelines.wanted import Wanted
from data_pipelines.wording import Example
from imagen_jax import main, partition, runs
from imagen_jax import model as model_lib
from imagen_jax.checkpoint import Checkpointer
from imagen_jax.evaluation import arms, compare, curves, evaluate, page, report, targets
from imagen_jax.evaluation.intervals import Stratum, interval, ratio, unanimous
from imagen_jax.evaluation.judge_training import Pool
from imagen_jax.evaluation.judges import Judges
from imagen_jax.evaluation.measure_pictures import psnr
from imagen_jax.evaluation.overall import OVERALL, overall
from imagen_jax.evaluation.training_report import BATCH_SIZE, write_instructions
from imagen_jax.train import config_json
from tests import tiny

SIZE, COUNT = 16, 3
SUITES = ("text_to_image", "mask", "style_transfer", "styled_subject")
ARMS = {"text_to_image": 1, "mask": 3, "style_transfer": 3, "styled_subject": 5}  # drawn by the model
COMMAND = "python -m imagen_jax.main '--config=a <b>'"


def make_config():
    config = tiny.config(image_size=SIZE)
    config.seed = 3  # of its training: evaluations of two runs have the same examples all the same
    config.text_encoder.vocab_size = 32128  # the bundled tokenizer's
    config.data.update(text_length=64, reference_text_length=24)
    config.sample.update(method="ddim", steps=2, guidance="none", threshold="static")
    config.eval.update(suites=",".join((*SUITES, "styled_subject_line")), count=COUNT, batch_size=2)
    config.mesh.update(data=1, fsdp=2)
    return config


def write_run(workdir, config) -> None:
    """A checkpoint of random weights, and the metrics of some steps."""
    params = tiny.perturbed(tiny.init(model_lib.make_model(config)))
    checkpointer = Checkpointer(runs.checkpoint_dir(workdir), keep=1)
    checkpointer.save(7, {"ema": params}, {"config": config_json(config), "next_example": 7 * config.train.batch_size})
    checkpointer.close()
    rows = [{"step": step, "loss": 1 / step, "loss/task_mask": None if step == 1 else 0.5} for step in (1, 2, 3)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class ByPixels:
    """A judge that needs no training: the picture itself, small, decides."""

    def __init__(self, judge):
        self._judge = judge

    def __call__(self, pictures):
        return self._judge(pictures)

    def told(self, measured: dict) -> str:
        return f"by pixels: {measured}"


@functools.cache
def open_once(seed: int):
    """The suites of the fixture, as `evaluate` opens them."""
    return open_suites(make_config().data, layout_of(make_config()), seed)


@functools.cache
def loader_once(task: str):
    """The held-out examples of a task that every evaluation with seed 0 has."""
    data = make_config().data
    data.mixture = ConfigDict({task: 1.0})
    return make_loader(data, layout_of(make_config()), "test", 0)


@functools.cache
def open_pool() -> Pool:
    return Pool(load_corpus("fixture", SIZE))


def judges_by_pixels(corpus: str, size: int, cache, networks) -> Judges:
    """Real judges and a real gallery around the simplest networks, so that no test trains one."""

    def embed(pictures):
        small = np.asarray(pictures, np.float32).reshape(len(pictures), 4, size // 4, 4, size // 4, 3).mean((2, 4))
        flat = small.reshape(len(pictures), -1) - 127.5 + 1e-3
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def style(pictures):
        return np.where(np.asarray(pictures).mean((1, 2, 3)) > 200, "noto", "fluent_flat")

    found = {"style": ByPixels(style), "subject": ByPixels(embed)}
    measured = {"style": {"accuracy": 0.5}, "subject": {"recall": 0.25}}
    return Judges(found, measured, {"depth": "no depth here"}, networks, open_pool())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """(config, workdir, report) of a whole evaluation."""
    workdir, config = tmp_path_factory.mktemp("run"), make_config()
    config.eval.update(cache=str(workdir / "cache"), corpus="fixture")
    trained = config.copy_and_resolve_references()
    trained.data.corpus = "where it was trained"
    write_run(workdir, trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "open_judges", judges_by_pixels)
        patch.setattr(evaluate, "open_suites", lambda data, layout, seed: open_once(seed))
        patch.setattr(partition.jax, "devices", lambda: jax.local_devices()[:2])
        patch.setattr(evaluate.training_report, "BATCHES", 1)
        patch.setattr(sys, "argv", ["main.py", "--config=a <b>"])
        main._eval(config, workdir)
        yield config, workdir, json.loads((workdir / "eval/report.json").read_text())


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "eval/scores.jsonl").read_text().splitlines()]


def test_every_picture_of_every_arm_has_a_line_and_means_are_theirs(evaluated):
    _, workdir, told = evaluated
    rows = lines(workdir)
    taken = {suite: 1 if suite == "text_to_image" else 2 for suite in SUITES}  # no reference, nothing to copy
    assert len(rows) == COUNT * sum(ARMS[suite] + taken[suite] for suite in SUITES)
    for suite in SUITES:
        for measure, by_arm in told["suites"][suite]["measures"].items():
            for arm, mean in by_arm.items():
                scores = [r["scores"][measure] for r in rows if (r["suite"], r["arm"]) == (suite, arm)
                          and measure in r["scores"]]  # fmt: skip
                assert len(scores) == mean["count"] and np.isclose(np.mean(scores), mean["mean"], atol=1e-5)
                assert mean["low"] <= mean["mean"] <= mean["high"]
    assert told["suites"]["mask"]["measures"]["psnr"]["real"]["mean"] > 58  # the target against itself
    cases = [c for c in (open_once(0).case("style_transfer", i) for i in range(COUNT)) if c.wanted.aligned]
    contents = np.stack([c.example.instruction.references[1].image for c in cases])
    copied = psnr(contents, np.stack([c.example.target for c in cases]))
    assert np.isclose(told["suites"]["style_transfer"]["measures"]["psnr"]["copy"]["mean"], copied.mean())
    assert "psnr" not in told["suites"]["text_to_image"]["measures"]


def test_the_report_says_what_was_evaluated_and_what_could_not(evaluated):
    _, _, told = evaluated
    assert (told["step"], told["count"], told["command"], told["corpus"]) == (7, COUNT, COMMAND, "fixture")
    assert set(told["losses"]["tasks"]) == {"mask", "style_transfer"}
    for task, found in told["losses"]["tasks"].items():
        loader = loader_once(task)
        subjects = [loader.subject(i, task) for i in range(BATCH_SIZE)]
        assert found["subjects"] == subjects and len(set(subjects)) > 1 and len(found["examples"]) == BATCH_SIZE
    assert set(told["suites"]) == set(SUITES) and "needs 3 references" in told["missing"]["styled_subject_line"]
    assert told["left_out"]["depth_error"] == "no depth here" and "vgg_distance" in told["left_out"]
    statuses = {target["name"]: target["status"] for target in told["targets"]}
    assert statuses["mask: reads its references"] == "not met", "random weights read nothing"
    assert statuses["line: follows the control"] == "not measured"


def test_a_run_of_prepared_data_sets_needs_a_corpus(tmp_path):
    config = make_config()
    config.data.loader = "records"
    write_run(tmp_path, config)
    with pytest.raises(evaluate.EvaluationError, match="trained on records, and suites are of a corpus"):
        evaluate.evaluate(config, tmp_path)


def test_instructions_that_were_changed_stay(tmp_path):
    [path] = write_instructions(loader_once("mask"), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"mask.json", "mask_1.png"}
    path.write_text("mine")
    assert write_instructions(loader_once("mask"), tmp_path) == [path] and path.read_text() == "mine"


@pytest.mark.parametrize(
    ("guidance", "told"), [("none", "none"), ("constant", "constant 2"), ("text_and_context", "text_and_context 2 3.5")]
)
def test_the_sampler_is_told_with_the_weights_that_it_reads(evaluated, guidance, told):
    report_of_it = evaluated[2]
    weights = dict(guidance=guidance, guidance_weight=2.0, context_guidance_weight=3.5)
    facts = report.facts(report_of_it | {"sample": report_of_it["sample"] | weights})
    assert f"steps, guidance {told}, threshold" in facts["sampler"]


def test_the_pages_hold_every_table_the_curves_and_the_cases(evaluated):
    _, workdir, told = evaluated
    markdown, html = ((workdir / f"eval/report.{end}").read_text() for end in ("md", "html"))
    for table in report.tables(told):
        assert f"## {table.title}" in markdown and f"<h2>{table.title}</h2>" in html
        assert all(len(row) == len(table.head) for row in table.rows)
    assert COMMAND in markdown and escape(COMMAND) in html
    assert "ddim, 2 steps, guidance none, threshold static" in markdown
    assert "<script" not in html and "://" not in html and html.count("<polyline") == 2
    few = COUNT // 2 if COUNT // 2 < page.EXTREME else page.EXTREME
    shown = html.count("<article>")
    assert shown == len(SUITES) * (COUNT + 2 * few)
    assert {path.name for path in (workdir / "eval/grids").iterdir()} == {
        f"{suite}{end}.webp" for suite in SUITES for end in ("", "_best_and_worst")
    }
    assert Image.open(workdir / "eval/grids/styled_subject.webp").width > 1200  # two references, five arms, the target


def test_losses_alone_need_no_pictures_and_no_judge(evaluated, monkeypatch, tmp_path):
    config, workdir, told = evaluated
    config = config.copy_and_resolve_references()
    config.eval.count, config.sample.run = 0, str(workdir)
    monkeypatch.setattr(evaluate, "open_judges", None)
    found = evaluate.evaluate(config, tmp_path)
    assert found["losses"] == told["losses"] and not found["suites"]
    composed = found["losses"]["composed"]
    assert set(composed) == set(SUITES) & set(ZERO_SHOT)
    for row in composed.values():
        assert len(row["examples"]) == len(row["shuffled"]) == len(row["subjects"]) == 32
        assert np.isclose(np.mean(row["examples"]), row["loss_true"], atol=1e-5) and row["examples"] != row["shuffled"]
    markdown = (tmp_path / "eval/report.md").read_text()
    assert "styled_subject, zero-shot | " in markdown and "## Pictures" not in markdown
    config.eval.count = 1
    with pytest.raises(evaluate.EvaluationError, match=r"^config\.eval\.count=1: at least 2 are needed.*; or 0, for"):
        evaluate.check(config.eval)


def test_a_killed_evaluation_goes_on_and_ends_the_same(evaluated, monkeypatch):
    config, workdir, told = evaluated
    kept = sorted((workdir / "eval/pictures").rglob("*.npz"))
    before = {path: path.read_bytes() for path in kept}
    assert len(kept) == sum(ARMS.values())
    kept[3].unlink()
    drawn, draw = [], arms.draw
    monkeypatch.setattr(arms, "draw", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    assert evaluate.evaluate(config, workdir, COMMAND) == told
    assert len(drawn) == 1 and {path: path.read_bytes() for path in kept} == before


@pytest.mark.parametrize("change", [{"eval.seed": 1}, {"sample.steps": 3}, {"eval.count": 2}])
def test_pictures_of_other_settings_are_not_reused(change, evaluated, monkeypatch):
    config, workdir, _ = evaluated

    class Drawn(Exception):
        pass

    def draw(*_, **__):
        raise Drawn

    monkeypatch.setattr(arms, "draw", draw)
    changed = config.copy_and_resolve_references()
    changed.eval.suites = "mask"
    changed.update_from_flattened_dict(change)
    with pytest.raises(Drawn):
        evaluate.evaluate(changed, workdir)


def test_arms_differ_in_their_references_alone(evaluated):
    config, workdir, _ = evaluated
    cases = [open_once(0).case("styled_subject", i) for i in range(COUNT)]
    _, context = arms.pack_cases(cases, load_tokenizer(""), layout_of(config))
    assert arms.context_of("model", context) is context and context.mask.all()
    shuffled = arms.context_of("shuffled", context)
    for before, after in zip(jax.tree.leaves(context), jax.tree.leaves(shuffled), strict=True):
        np.testing.assert_array_equal(after, before[[2, 0, 1]])
    assert not arms.context_of("text_only", context).mask.any()
    np.testing.assert_array_equal(arms.context_of("only_2", context).mask, [[False, True]] * COUNT)
    with np.load(workdir / "eval/pictures/styled_subject/model.npz") as kept:
        pictures = {"model": kept["pictures"]}
    for arm in ("shuffled", "text_only", "only_1", "only_2"):
        with np.load(workdir / f"eval/pictures/styled_subject/{arm}.npz") as kept:
            pictures[arm] = kept["pictures"]
    assert len({picture.tobytes() for picture in pictures.values()}) == 5


def test_a_picture_does_not_depend_on_the_batch_or_on_its_filling(evaluated):
    config, workdir, _ = evaluated
    mesh = partition.make_mesh({"data": 1}, jax.devices()[:1])
    run, layout = runs.open_run(workdir, mesh), layout_of(config)
    inputs = arms.pack_cases([open_once(0).case("mask", i) for i in range(COUNT)], load_tokenizer(""), layout)
    told = []
    alone = arms.draw(run, config.sample, mesh, inputs, np.arange(COUNT), seed=0, batch_size=1, tell=told.append)
    with np.load(workdir / "eval/pictures/mask/model.npz") as kept:  # by twos, on two devices
        np.testing.assert_allclose(alone.astype(int), kept["pictures"], atol=1)
    assert told == [1, 1, 1] and len(alone) == COUNT and alone.std() > 10


def test_a_model_without_references_is_drawn_once():
    cases = [open_once(0).case("mask", i) for i in range(2)]
    assert arms.drawn_arms(cases, reads_references=False) == ("model",)
    assert arms.drawn_arms(cases[:1], reads_references=True) == ("model", "text_only")


BAD = {
    "eval.suites=lines": "config.eval.suites: 'lines' is no suite; the suites are text_to_image, line",
    "eval.count=1": "config.eval.count=1: at least 2",
    "eval.batch_size=0": "config.eval.batch_size=0",
    "eval.seed=-1": "config.eval.seed=-1",
    f"eval.seed={2**32}": "config.eval.seed=4294967296: must be from 0 to 4294967295",
    "sample.method=dpmsolver": "config.sample.method 'dpmsolver' is unknown",
    "eval.suites=depth": "nothing to evaluate: depth: ",
    "eval.batch_size=3": "a batch of 3 does not divide",
}


@pytest.mark.parametrize("flag", BAD)
def test_settings_that_cannot_work_are_told_in_one_line(flag, evaluated):
    config, workdir, _ = evaluated
    key, value = flag.split("=")
    changed = config.copy_and_resolve_references()
    changed.sample.steps = 3  # nothing that is kept fits
    part, name = key.split(".")
    changed.update_from_flattened_dict({key: type(config[part][name])(value)})
    with pytest.raises(ValueError) as told:
        evaluate.evaluate(changed, workdir)
    assert BAD[flag] in str(told.value) and "\n" not in str(told.value)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def case(suite: str = "subject", index: int = 0, **wanted) -> Case:
    instruction = Instruction("draw [ref#1]", (Reference("[ref#1]", "a fox", picture(1)),))
    return Case(suite, index, Example(instruction, picture(2), suite), Wanted(**wanted))


def test_overall_is_the_geometric_mean_of_what_is_asked_for():
    scores = {name: np.array([value]) for name, value in
              {"subject": 1.0, "style": 0.0, "mask_iou": 0.25, "ssim": 0.5, "psnr": 20.0}.items()}  # fmt: skip
    ask = dict(roots=("1f98a",))
    assert overall(scores, [case(**ask)]) == [1.0]
    assert overall(scores, [case(**ask, style="noto")]) == [0.0], "one condition is missed"
    assert overall(scores, [case(**ask, control="mask", aligned=True)]) == [0.5]
    assert np.isclose(overall(scores, [case(aligned=True)]), 0.5) and np.isnan(overall(scores, [case()]))
    assert np.isclose(overall(scores | {"subject": np.array([np.nan])}, [case(**ask, control="mask")]), 0.25)
    ramp = np.broadcast_to(np.linspace(1, 255, SIZE)[:, None, None], (SIZE, SIZE, 3)).astype(np.uint8)
    asked, spread = case(control="depth", control_map=ramp), (ramp / 255).std()
    for error, share in ((0.0, 1.0), (spread / 2, 0.5), (spread, 0.0)):
        assert np.isclose(overall({"depth_error": np.array([error])}, [asked]), share, atol=1e-6)


def measured(**means) -> dict:
    """suite__measure__arm=mean -> the report's suites."""
    suites: dict = {}
    for name, mean in means.items():
        suite, measure, arm = name.split("__")
        suites.setdefault(suite, {"measures": {}})["measures"].setdefault(measure, {})[arm] = {
            "mean": mean,
            "count": 32,
        }
    return suites


MEASURED = {
    "mask: follows the control": [
        ("met", dict(mask__mask_iou__model=0.68, mask__mask_iou__real=0.8)),
        ("not met", dict(mask__mask_iou__model=0.67, mask__mask_iou__real=0.8)),
        ("not measured", dict(mask__mask_iou__model=0.9)),
    ],
    "style: takes the style": [("met", dict(style__style__model=0.8)), ("not met", dict(style__style__model=0.79))],
    "style_transfer: more than the content": [
        ("met", dict(style_transfer__psnr__model=18.0, style_transfer__psnr__copy=15.0)),
        ("not met", dict(style_transfer__psnr__model=17.9, style_transfer__psnr__copy=15.0)),
    ],
    "subject: recognised": [
        ("met", dict(subject__subject__model=0.3, subject__subject__text_only=0.1)),
        ("not met", dict(subject__subject__model=0.29, subject__subject__text_only=0.1)),
        ("not met", dict(subject__subject__model=0.0, subject__subject__text_only=0.0)),
        ("not met", dict(subject__subject__model=2 / 32, subject__subject__text_only=0.0)),
        ("met", dict(subject__subject__model=3 / 32, subject__subject__text_only=0.0)),
    ],
    "styled_subject: both at once": [
        (status, dict(styled_subject__overall__model=0.3, styled_subject__overall__only_1=subject,
                      styled_subject__overall__only_2=style))
        for status, subject, style in (("met", 0.2, 0.1), ("not met", 0.3, 0.1), ("not met", 0.1, 0.4))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_targets_are_met_at_their_threshold_and_not_below(name):
    for status, means in MEASURED[name]:
        found = {target["name"]: target for target in targets.check(measured(**means), {"tasks": {}})}
        assert found[name]["status"] == status, means
        assert {t["status"] for t in found.values() if t["name"].split(":")[0] not in measured(**means)} == {
            "not measured"
        }


def test_the_loss_must_rise_by_half():
    losses = {"tasks": {"edit": {"loss_true": 0.2, "loss_shuffled": 0.3001},
                        "line": {"loss_true": 0.2, "loss_shuffled": 0.2999}}}  # fmt: skip
    found = {target["name"]: target["status"] for target in targets.check({}, losses)}
    assert found["edit: reads its references"] == "met" and found["line: reads its references"] == "not met"
    assert found["depth: reads its references"] == "not measured"


def drawn(scores: list[float]) -> report.Drawn:
    pictures = np.stack([picture(i) for i in range(len(scores))])
    found = {OVERALL: np.array(scores)}
    cases = [case(index=i) for i in range(len(scores))]
    arms_ = dict.fromkeys(("real", "copy", "model", "text_only"), pictures)
    return report.Drawn("subject", cases, arms_, dict.fromkeys(arms_, found), {})


def test_the_best_and_the_worst_are_shown_beside_the_first():
    chosen = page.choose(drawn([0.5, 0.9, np.nan, 0.1, 0.9, 0.3, 0.2, 0.8]))
    assert chosen == {"not selected": [0, 1, 2, 3, 4, 5], "best": [1, 4, 7], "worst": [6, 3, 2]}


def test_of_cases_that_miss_a_condition_those_are_worse_that_miss_more():
    each = drawn([0.0, 0.0, 0.0, 0.6])
    hits = {"subject": np.array([0.0, 1.0, 0.0, 1.0]), "style": np.array([0.0, 0.0, np.nan, 1.0])}
    each.scores["model"].update(hits)
    cases = [case(index=i, roots=("1f98a",), style="noto") for i in range(4)]
    chosen = page.choose(each._replace(cases=cases))
    assert chosen["best"] == [3, 1] and set(chosen["worst"]) == {0, 2}


def test_curves_keep_what_is_known_and_average_the_long(tmp_path):
    assert curves.read_curves(tmp_path / "none.jsonl") == []
    rows = [{"step": i, "loss": float(i), "held_out/loss_true": None, "time/x": 1.0} for i in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    loss, held_out = curves.read_curves(tmp_path / "metrics.jsonl")
    points = loss.lines["loss"]
    assert len(points) == 200 and points[0] == (3.0, 3.0) and points[-1] == (998.0, 998.0)
    assert held_out.lines == {"loss_true": []} and curves.draw(held_out) == ""
    assert "<polyline" in curves.draw(loss) and "nan" not in curves.draw(loss)


def test_curves_are_a_picture_of_their_own_and_a_lone_point_is_seen(tmp_path, capsys):
    rows = [{"step": 10, "loss": 0.2}, {"step": 20, "loss": 0.1}, {"step": 20, "held_out/<b>": 0.3}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert curves.main([str(tmp_path), f"--output={tmp_path}/curves.svg"]) == 0
    svg = ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    shown = [element.tag.rpartition("}")[2] for element in svg.iter()]
    assert shown.count("polyline") == 4 and shown.count("circle") == 1  # two lines with their keys
    assert "<b>" in {element.text for element in svg.iter()}
    assert curves.main([str(tmp_path / "none"), f"--output={tmp_path}/none.svg"]) == 2
    assert "there are no losses to draw" in capsys.readouterr().err and not (tmp_path / "none.svg").exists()


FACTS = {"corpus": "fixture", "image_size": 16, "max_references": 2, "seed": 0, "run": "r", "step": 1}


def write_evaluation(workdir, scores: dict[str, list[float]], **facts):
    """An eval folder with these overall scores of the model."""
    folder = workdir / "eval"
    folder.mkdir(parents=True)
    rows = [{"suite": s, "case": i, "arm": arm, "scores": {OVERALL: x if arm == "model" else 0.0}}
            for s, each in scores.items() for i, x in enumerate(each) for arm in ("real", "model")]  # fmt: skip
    (folder / "scores.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    told = FACTS | {"command": "c", "losses": {"tasks": {}}} | facts
    suites = {suite: {"measures": {OVERALL: {}}} for suite in scores}
    (folder / "report.json").write_text(json.dumps(told | {"suites": suites}))
    return workdir


def test_trained_runs_are_compared_by_their_held_out_losses(tmp_path, capsys):
    noise = np.random.default_rng(0).random(40)
    losses = {"one": {"line": [*noise], "edit": [0.1, 0.3], "mask": [1.0]}, "two": {"line": [*(noise - 0.01)]},
              "three": {"edit": [0.1, 0.1]}}  # fmt: skip
    for name, tasks in losses.items():
        (tmp_path / name).mkdir()
        told = FACTS | {"tasks": {task: {"examples": values} for task, values in tasks.items()}}
        (tmp_path / name / "report.json").write_text(json.dumps(told))
    assert compare.main([str(tmp_path / name) for name in losses]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if row]
    line, edit = (next(row for row in rows if row[0] == task) for task in ("line", "edit"))
    assert line[1].startswith(f"{noise.mean():.4f} [") and line[4] == "-0.0100 [-0.0100, -0.0100]"
    assert line[3] == line[5] == "" and edit[2] == edit[4] == "", "a run without the task has no cell of its own"
    assert edit[5].startswith("-0.1000 [") and not any(row[0] in ("mask", "overall") for row in rows)


def test_examples_of_one_subject_count_as_one():
    values = np.repeat(np.random.default_rng(0).random(8), 10)
    apart, alike = (interval([Stratum(values, [str(i // size) for i in range(80)])]) for size in (1, 10))
    assert apart[0] == alike[0] and alike[2] - alike[1] > 2 * (apart[2] - apart[1])
    mean, low, high = interval([Stratum(values[::10], [str(i) for i in range(8)])])
    assert np.allclose((mean, low, high), alike), "as if each had one example"
    twice = interval([Stratum(values, [str(i // 10) for i in range(80)])] * 2)
    assert np.allclose(twice, alike), "the same subjects in another task tell nothing new"
    uneven = Stratum(np.array([0.0, 1.0, 1.0]), ["a", "b", "b"])
    assert interval([uneven])[0] == 2 / 3, "a task's mean is that of its examples"


def test_the_rise_of_a_loss_has_the_interval_of_its_subjects():
    true, rng = np.full(60, 0.1), np.random.default_rng(0)
    shuffled = np.repeat(0.2 + 0.05 * rng.random(6), 10)
    subjects = [str(i // 10) for i in range(60)]
    mean, low, high = ratio(shuffled, true, subjects)
    assert mean == pytest.approx(shuffled.mean() / 0.1) and low < mean < high
    _, lower, higher = ratio(shuffled, true, [str(i) for i in range(60)])
    assert high - low > 2 * (higher - lower), "ten examples of a subject err together"
    assert ratio(2 * true, true, subjects) == pytest.approx((2.0, 2.0, 2.0))


def test_what_never_happened_in_a_few_subjects_may_happen_yet():
    assert unanimous(0.0, 64) == (0.0, pytest.approx(0.056, abs=5e-4))  # 0 of 64, by Clopper and Pearson
    assert unanimous(1.0, 64) == (pytest.approx(0.944, abs=5e-4), 1.0)
    found = report.build({"seed": 0, "losses": {"tasks": {}}}, [drawn([0.0] * 8)])["suites"]["subject"]
    mean = found["measures"][OVERALL]["model"]
    assert mean["mean"] == mean["low"] == 0 and mean["high"] == unanimous(0.0, 8)[1]


@pytest.mark.parametrize("old", ["one", "two", ""])
def test_losses_of_any_task_are_compared(old, tmp_path, capsys):
    for name, gain in (("one", 0.0), ("two", 0.5)):
        (tmp_path / name).mkdir()
        found = {"examples": [0.5 + gain, 1.0]} | ({} if name == old else {"subjects": ["fox", "fox"]})
        (tmp_path / name / "report.json").write_text(json.dumps(FACTS | {"tasks": {"neighbors": found}}))
    assert compare.main([str(tmp_path / name) for name in ("one", "two")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| neighbors"))
    assert "+0.2500 [+0.2500, +0.2500]" in row, "both examples are of one subject"


@pytest.mark.parametrize(("report", "told"), [({"tasks": {}}, "it tells no corpus"), (FACTS, "no task")])
def test_trained_runs_that_hold_no_losses_are_one_line(tmp_path, capsys, report, told):
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert compare.main([str(tmp_path), str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_runs_are_compared_on_the_same_cases(tmp_path, capsys):
    noise = np.random.default_rng(0).random(40)
    one = write_evaluation(tmp_path / "one", {"line": [*noise], "mask": [0.5, 0.5], "line_style": [0.2, 0.4]})
    two = write_evaluation(tmp_path / "two", {"line": [*(noise + 0.25)], "mask": [0.25, 0.25], "edge": [1.0, 1.0]})
    assert compare.main([str(one), str(two), f"--output={tmp_path / 'c.md'}"]) == 0
    told = (tmp_path / "c.md").read_text()
    assert told.rstrip() in capsys.readouterr().out
    mean, low, high = interval([Stratum(noise, [str(i) for i in range(40)])])
    cells = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ") for row in told.splitlines() if "|" in row}
    assert float(cells["line"][1].split()[0]) == round(mean, 3) and high - low > 0.1
    assert cells["line"][3] == "+0.250 [+0.250, +0.250]", "paired: the cases' own spread cancels"
    assert cells["mask"][1:] == ["0.500 [0.500, 0.500]", "0.250 [0.250, 0.250]", "-0.250 [-0.250, -0.250]"]
    assert cells["in-domain mean"][3] == "+0.000 [+0.000, +0.000]", "each suite weighs alike"
    assert "Not in every run: edge, line_style." in told and "zero-shot mean" not in told


def test_a_run_is_told_with_its_step():
    assert report.trained({"run": "stage2", "step": 7}) == "stage2, step 7"
    assert report.trained({"run": "stage2", "step": None}) == "stage2"


def test_runs_of_other_cases_are_not_compared(tmp_path, capsys):
    one = write_evaluation(tmp_path / "one", {"line": [0.5, 0.6]})
    others = {
        "with seed 1 and one with 0": write_evaluation(tmp_path / "two", {"line": [0.5, 0.6]}, seed=1),
        "share no suite": write_evaluation(tmp_path / "three", {"mask": [0.5, 0.6]}),
        "train the run to its end": tmp_path / "four",
    }
    for told, other in others.items():
        assert compare.main([str(one), str(other)]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1
    assert compare.main([str(one)]) == 2 and "at least two runs" in capsys.readouterr().err


def test_progress_tells_the_rate_and_the_time_left(capsys):
    now = iter([10.0, 12.0, 16.0])
    progress = evaluate.Progress(20, clock=lambda: next(now))
    progress.skip("line", "model", 4)
    tell = progress.arm("mask", "shuffled", 12)
    for _ in range(3):
        tell(4)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert told[0][-2:] == ["drawn", "before"] and told[1] == ["mask", "shuffled", "4/12"]
    assert told[2][3:] == ["2.0", "pictures/s", "left", "0:00:04"] and told[3][3:] == [
        "1.3",
        "pictures/s",
        "left",
        "0:00:03",
    ]
