"""The metrics of a killed and resumed run, sums by noise level and task, TensorBoard files, the progress line."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imagen_jax import metrics

LOSS = jnp.array([1.0, 2.0, 4.0, 8.0])


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write_steps(workdir, resume_step, steps):
    writer = metrics.MetricWriter(workdir, resume_step)
    for step in steps:
        writer.write(step, {"loss": 1 / step, "lr": 1e-4})
    return writer


def test_a_line_is_step_then_sorted_values_and_is_there_at_once(tmp_path):
    writer = metrics.MetricWriter(tmp_path / "run", 0)
    writer.write(5, {"time/images_per_second": 2, "loss": np.float32(0.5), "loss/task_line": jnp.float32(0.25)})
    expected = '{"step": 5, "loss": 0.5, "loss/task_line": 0.25, "time/images_per_second": 2.0}\n'
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == expected


def test_values_that_are_not_finite_stay_json(tmp_path):
    metrics.MetricWriter(tmp_path, 0).write(1, {"loss": float("nan"), "norm": float("inf")})
    assert rows(tmp_path) == [{"step": 1, "loss": None, "norm": None}]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    write_steps(tmp_path / "whole", 0, range(1, 9)).close()
    write_steps(tmp_path / "killed", 0, range(1, 7))  # the last checkpoint was step 4; no close
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # cut off by the kill
    write_steps(tmp_path / "killed", 4, range(5, 9)).close()
    whole, killed = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed"))
    assert killed == whole
    assert [row["step"] for row in rows(tmp_path / "killed")] == list(range(1, 9))


def test_a_last_line_made_anew_is_not_doubled(tmp_path):
    for value in (0.5, 0.5, 0.25):
        writer = metrics.MetricWriter(tmp_path, 3)
        writer.write(3, {"held_out/loss_true": value})
        writer.close()
    assert [row["held_out/loss_true"] for row in rows(tmp_path)] == [0.5, 0.25]


def test_a_fresh_start_drops_all_lines(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0)
    writer.write(0, {"loss": 3.0})
    write_steps(tmp_path, 0, [1]).close()
    assert [row["step"] for row in rows(tmp_path)] == [1]


def test_image_is_a_png_of_those_pixels(tmp_path):
    array = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    path = metrics.MetricWriter(tmp_path, 0).image(30, "grid", array)
    assert path == tmp_path / "samples" / "grid_30.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), array)


def test_tensorboard_reads_the_events_back(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = write_steps(tmp_path, 0, [1, 2, 3])
    first.image(3, "grid", np.zeros((4, 6, 3), np.uint8))
    first.close()
    write_steps(tmp_path, 2, [3, 4]).close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    values = events.Tags()["scalars"]
    assert values == ["loss", "lr"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    first.close()


def test_tensorboard_reads_the_image_back(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = metrics.MetricWriter(tmp_path, 0)
    path = writer.image(3, "grid", np.full((4, 6, 3), 7, np.uint8))
    writer.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (found,) = events.Images("grid")
    assert (found.step, found.height, found.width) == (3, 4, 6)
    assert found.encoded_image_string == path.read_bytes()


def test_without_tensorboard_there_is_one_notice_and_the_jsonl(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    write_steps(tmp_path, 0, [1]).close()
    assert capsys.readouterr().out == "tensorboard is not installed: metrics go to metrics.jsonl only\n"
    assert rows(tmp_path) == [{"step": 1, "loss": 1.0, "lr": 1e-4}]
    assert not (tmp_path / "tensorboard").exists()


def test_no_tensorflow_is_imported(tmp_path):
    code = "import sys; from imagen_jax import metrics; metrics.MetricWriter(sys.argv[1], 0).write(1, {'loss': 1.0})"
    code += "; sys.exit('tensorflow' in sys.modules)"
    root = Path(metrics.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root).returncode == 0


def test_buckets_hold_each_example_once():
    logsnr = jnp.array([-20.0, -5.0, -0.1, 7.0])
    sums = jax.jit(lambda loss: metrics.bucketed(loss, logsnr, (-5.0, 0.0, 5.0)))(LOSS)
    found = {name: (float(total), int(count)) for name, (total, count) in sums.items()}
    assert found == {
        "loss/logsnr_-inf_-5": (1.0, 1),
        "loss/logsnr_-5_0": (6.0, 2),
        "loss/logsnr_0_5": (0.0, 0),
        "loss/logsnr_5_inf": (8.0, 1),
    }


def test_tasks_hold_their_own_examples():
    sums = metrics.by_task(LOSS, jnp.array([0, 2, 0, 2]), ("line", "mask", "style"))
    found = {name: (float(total), int(count)) for name, (total, count) in sums.items()}
    assert found == {"loss/task_line": (5.0, 2), "loss/task_mask": (0.0, 0), "loss/task_style": (10.0, 2)}


def test_an_example_outside_a_bucket_cannot_poison_it():
    sums = metrics.by_task(jnp.array([1.0, jnp.nan]), jnp.array([0, 1]), ("line", "mask"))
    assert float(sums["loss/task_line"][0]) == 1.0


def test_accumulator_weighs_by_count_and_omits_the_empty():
    accumulator = metrics.Accumulator()
    accumulator.add(
        {"loss": jnp.float32(1.0), "part": (jnp.float32(6.0), jnp.int32(2)), "empty": (jnp.float32(0.0), 0)}
    )
    accumulator.add({"loss": jnp.float32(2.0), "part": (jnp.float32(3.0), jnp.int32(1)), "late": 5.0})
    assert accumulator.flush() == {"loss": 1.5, "part": 3.0, "late": 5.0}
    assert accumulator.flush() == {}


def test_accumulating_never_waits_for_a_value():
    def two_steps(values):  # under a trace, asking for a value is an error
        accumulator = metrics.Accumulator()
        for _ in range(2):
            accumulator.add(values)
        return accumulator._sums

    sums = jax.jit(two_steps)({"loss": jnp.float32(1.0), "part": (jnp.float32(6.0), jnp.int32(2))})
    assert jax.device_get(sums) == {"loss": (2.0, 2), "part": (12.0, 4)}


def make_progress(times, total=3000, batch_size=10):
    times = iter(times)
    return metrics.Progress(total, batch_size, clock=lambda: next(times))


def test_progress_line_excludes_compilation(capsys):
    progress = make_progress([100.0, 119.8])  # the first step took 100 s to compile
    progress.restart(1)
    times = progress.report(100, 0.08314)
    assert capsys.readouterr().out == "step 100/3000  loss 0.0831  50.0 images/s  left 9m40s\n"
    assert times == pytest.approx({"time/images_per_second": 50.0, "time/left_seconds": 580.0})


def test_progress_is_silent_about_a_speed_it_does_not_know(capsys):
    progress = make_progress([0.0, 10.0], total=200)
    assert progress.report(100, 1.0) == {}
    progress.report(200, 0.5)
    assert capsys.readouterr().out == "step 100/200  loss 1.0000\nstep 200/200  loss 0.5000  100.0 images/s  left 0s\n"


def test_progress_averages_over_a_window_and_forgets_pauses():
    progress = make_progress([0.0, 10.0, 1000.0, 1030.0])
    progress.restart(0)
    progress.report(100, 1.0)
    progress.restart(100)  # 990 s of samples between
    assert progress.report(200, 1.0)["time/images_per_second"] == pytest.approx(10 * 200 / 40)


@pytest.mark.parametrize("seconds, text", [(59.4, "59s"), (60, "1m00s"), (3599.6, "1h00m"), (7384, "2h03m")])
def test_time_left_is_short(seconds, text):
    assert metrics._clock_time(seconds) == text
