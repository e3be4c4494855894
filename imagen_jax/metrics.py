"""What a run tells: metrics.jsonl, TensorBoard files, sample pictures and a progress line with the time left.

The paper reports no curves. A mean loss hides nearly everything a diffusion model does, so the loss is also kept by
noise level and by task. The JSONL of a killed and resumed run equals that of an uninterrupted one, wall-clock values
apart, which have the prefix `time/`. Sums stay on the device until a line is due: no step waits for its numbers.
"""

import collections
import io
import itertools
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from imagen_jax import hosts
from imagen_jax.workdir import write_bytes

METRICS = "metrics.jsonl"  # of a workdir
Sums = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


def bucketed(loss: jax.Array, logsnr: jax.Array, edges: Sequence[float]) -> Sums:
    """loss [N], logsnr [N] -> sum and count in each interval of logsnr between `edges`, open at both ends.

    Keys are `loss/logsnr_LOW_HIGH`; an interval holds its lower edge.
    """
    bounds = (-math.inf, *edges, math.inf)
    return {
        f"loss/logsnr_{low:g}_{high:g}": _masked(loss, (logsnr >= low) & (logsnr < high))
        for low, high in itertools.pairwise(bounds)
    }


def by_task(loss: jax.Array, task: jax.Array, names: Sequence[str]) -> Sums:
    """loss [N], task [N] (index into `names`) -> sum and count of each task, keys `loss/task_NAME`."""
    return {f"loss/task_{name}": _masked(loss, task == i) for i, name in enumerate(names)}


def _masked(loss: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.where(mask, loss, 0.0).sum(), mask.sum()


class Accumulator:
    """Means over the steps since the last `flush`, summed on the device.

    Args:
      sums: what `sums` gave, for the window of a resumed run to continue exactly.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None):
        self._sums: Sums = {name: tuple(pair) for name, pair in (sums or {}).items()}

    def add(self, values: Mapping[str, Any]) -> None:
        """Each value is a scalar (counted once) or a pair (sum, count)."""
        sums = {name: value if isinstance(value, tuple) else (value, 1) for name, value in values.items()}
        known = {name: pair for name, pair in self._sums.items() if name in sums}
        self._sums |= sums | _add(known, {name: sums[name] for name in known})

    def sums(self) -> dict[str, list[float]]:
        """Wait for the device; name -> [sum, count], plain numbers that lose nothing in JSON."""
        return {name: [float(total), int(count)] for name, (total, count) in jax.device_get(self._sums).items()}

    def flush(self) -> dict[str, float]:
        """The means by name, and start anew; a name without any example is left out."""
        sums, self._sums = self.sums(), {}
        return {name: total / count for name, (total, count) in sums.items() if count}


@jax.jit
def _add(a: Sums, b: Sums) -> Sums:
    return jax.tree.map(jnp.add, a, b)


class MetricWriter:
    """`workdir/metrics.jsonl`, `workdir/samples/*.png` and, where tensorboard is installed, `workdir/tensorboard/`.

    Where several processes train together, the first one alone writes.

    Args:
      workdir: a local folder, made when it is missing.
      resume_step: the number of steps in the checkpoint that the run goes on from; later lines are removed, and 0
        removes all. Write the line of a step before its checkpoint, so that none is lost.
    """

    def __init__(self, workdir: str | Path, resume_step: int):
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        path = self._workdir / METRICS
        self._kept = _lines_until(path, resume_step)
        write_bytes(path, "".join(self._kept).encode())
        first = hosts.is_first()
        self._file = (path if first else Path(os.devnull)).open("a")
        self._events = _event_log(self._workdir / "tensorboard", resume_step) if first else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: the step, then the values by name; a value that is not finite becomes null.

        A line that the run wrote before it was resumed is not written twice: a last report, made anew, is the same.
        """
        row = {name: float(value) for name, value in sorted(values.items())}
        plain = {name: value if math.isfinite(value) else None for name, value in row.items()}
        line = json.dumps({"step": int(step), **plain}) + "\n"
        if line in self._kept:
            return
        if self._events:
            self._events.scalars(step, row)
        self._file.write(line)
        self._file.flush()

    def image(self, step: int, name: str, array: np.ndarray) -> Path:
        """array [H, W, 3] uint8 -> `samples/NAME_STEP.png`, the path returned."""
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(array)).save(buffer, "PNG")
        path = self._workdir / "samples" / f"{name}_{step}.png"
        write_bytes(path, buffer.getvalue())
        if self._events:
            self._events.image(step, name, buffer.getvalue(), array.shape)
        return path

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events:
            self._events.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """The whole lines of steps 1 to `step`; a line cut off by a kill is dropped."""
    if step == 0 or not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if json.loads(line)["step"] <= step]


class _EventLog:
    """TensorBoard's file format through tensorboard's own record writer, which needs no TensorFlow."""

    def __init__(self, directory: Path, resume_step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((directory / name).open("wb"))
        self._add(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=resume_step and resume_step + 1, session_log=start)  # readers drop what they had from there on

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._summarize(step, [{"tag": name, "simple_value": value} for name, value in values.items()])

    def image(self, step: int, name: str, png: bytes, shape: tuple[int, int, int]) -> None:
        height, width, channels = shape
        picture = {"height": height, "width": width, "colorspace": channels, "encoded_image_string": png}
        self._summarize(step, [{"tag": name, "image": self._summary.Summary.Image(**picture)}])

    def _summarize(self, step: int, values: list[dict]) -> None:
        values = [self._summary.Summary.Value(**value) for value in values]
        self._add(step=step, summary=self._summary.Summary(value=values))

    def _add(self, **fields) -> None:
        self._writer.write(self._event.Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _event_log(directory: Path, resume_step: int) -> _EventLog | None:
    try:
        return _EventLog(directory, resume_step)
    except ImportError:
        print("tensorboard is not installed: metrics go to metrics.jsonl only", flush=True)
        return None


class Progress:
    """A line each log step: `step 1200/3000  loss 0.0831  52.1 images/s  left 4m10s`.

    Args:
      total: the steps of the whole run.
      batch_size: images a step.
      clock: seconds, for tests.
    """

    WINDOW = 10  # lines that the speed is averaged over

    def __init__(self, total: int, batch_size: int, clock: Callable[[], float] = time.perf_counter):
        self._total, self._batch_size, self._clock = total, batch_size, clock
        self._spans = collections.deque(maxlen=self.WINDOW)  # (steps, seconds)
        self._mark = None  # (step, time) that the next span begins at

    def restart(self, step: int) -> None:
        """Measure from here, after `step`: compilation and sample grids are not training speed."""
        self._mark = (step, self._clock())

    def report(self, step: int, loss: float) -> dict[str, float]:
        """Print the line; returns `time/images_per_second` and `time/left_seconds` once they are known."""
        times = self._measure(step)
        words = [f"step {step}/{self._total}", f"loss {loss:.4f}"]
        if times:
            words += [
                f"{times['time/images_per_second']:.1f} images/s",
                f"left {_clock_time(times['time/left_seconds'])}",
            ]
        print("  ".join(words), flush=True)
        return times

    def _measure(self, step: int) -> dict[str, float]:
        mark, now = self._mark, self._clock()
        self._mark = (step, now)
        if mark is not None and step > mark[0]:
            self._spans.append((step - mark[0], now - mark[1]))
        if not self._spans:
            return {}
        steps, seconds = map(sum, zip(*self._spans, strict=True))
        return {
            "time/images_per_second": self._batch_size * steps / seconds,
            "time/left_seconds": (self._total - step) * seconds / steps,
        }


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
