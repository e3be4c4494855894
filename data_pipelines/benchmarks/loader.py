"""The streaming loader against a plain PyTorch DataLoader over the same records, and what it means for a training run.

The work is that of stage 2 (paper section 3.2): read a record of a target and three references, decode four JPEGs,
resize, tokenize four texts, pack. The ways take turns; speeds are examples a second of one core's CPU time, which other
work on the machine hardly moves, and by the clock.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_pipelines import records
from data_pipelines.benchmarks.decode import ours
from data_pipelines.benchmarks.peers import Clock, open_peer
from data_pipelines.benchmarks.photographs import load_photographs, make_photographs
from data_pipelines.images import encode_image
from data_pipelines.instruction import Layout
from data_pipelines.loader import PREFETCH, Loader, make_loader
from data_pipelines.mixture import Mixture
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.records import RecordReader

HELP = "Stream packed examples of one target and three references, against a PyTorch DataLoader."
LAYOUT = Layout(image_size=128, max_references=3, text_length=128, reference_text_length=32)
BATCH = 16
AGAINST_PEER, AGAINST_BARE, RESTORE_SECONDS, RATIO_ERROR = 1.5, 0.85, 2.0, 0.002  # the gates
FAR = 10**8
TFLOP, PEAK = 17.2, 790.0  # of a training example with three references; of an H200 in bf16, a second
UTILISATIONS = (0.35, 0.50, 0.60)
TABLE_1 = dict(
    captions=0.15, wikiart=0.05, depth=0.06, mask=0.06, edge=0.06, sketch=0.02, subjects=0.30, celeba=0.05,
    celeba_hq=0.05, styles=0.10, style_transfer=0.10
)  # fmt: skip
Speed = tuple[float, float]  # examples per CPU second, and per second of the clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `benchmarks loader`."""
    parser.add_argument("--photographs", type=Path, help="folder of pictures (default: synthetic ones)")
    parser.add_argument("--from_size", type=int, default=512, help="side of the JPEGs (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, default=12, help="of 16 examples, for each number (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="in turns; the median counts (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print the speeds, the gates, and how many cores feed one H200."""
    streamed = {}
    with tempfile.TemporaryDirectory() as root:
        for side in (arguments.from_size, LAYOUT.image_size):
            folder = _write(Path(root) / f"of_{side}_px", arguments, side)
            speeds = _measure(folder, arguments)
            _print_speeds(side, speeds)
            streamed[side] = speeds["streaming"][0]
        seconds = _restore(open_loader(folder))
    print(f"first batch from example {FAR:,}: {seconds:.2f} s (gate {RESTORE_SECONDS:g} s: ", end="")
    print(f"{_met(seconds < RESTORE_SECONDS)})")
    _print_ratios()
    _print_cores(streamed)


def open_loader(folder: Path) -> Loader:
    """The streaming loader over the data set `folder` alone."""
    data = dict(loader="records", records=str(folder.parent), tokenizer="", allow_missing=False)
    return make_loader(ConfigDict(data | {"mixture": {folder.name: 1.0}}), LAYOUT, "train", seed=0)


def _write(folder: Path, arguments: argparse.Namespace, side: int) -> Path:
    """A data set as the runner writes it, with three references an example; texts all differ, pictures repeat."""
    given = arguments.photographs
    pictures = load_photographs(given, side) if given else make_photographs(8, side)
    files = [encode_image(picture, "jpeg") for picture in pictures]
    slots = LAYOUT.max_references + 1
    with DatasetWriter(folder) as writer:
        for i in range(arguments.batches * BATCH):
            chosen = [files[(i * 5 + k) % len(files)] for k in range(slots)]
            writer.split("train").write(records.join_parts([_header(i), *chosen]))
        writer.split("train").finish(kind="examples", size=side)
    return folder


def _header(i: int) -> bytes:
    slots = range(1, LAYOUT.max_references + 1)
    words = {f"[ref#{k}]": f"the subject number {i} seen from side {k}" for k in slots}
    references = [{"marker": m, "text": text, "image": str(3 + k)} for k, (m, text) in enumerate(words.items())]
    phrases = " and ".join(f"{marker} {text}" for marker, text in words.items())
    text = f"Make a photograph of {phrases}: a quiet street at dusk with {i} lamps, wet stones and a passing tram"
    return json.dumps({"text": text, "references": references, "target": "2", "task": "subject"}).encode()


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Speed]:
    """Way -> its median speed; the ways take turns."""
    cores, number = os.cpu_count() or 1, arguments.batches
    stream = open_loader(folder).batches(0, BATCH)
    name, peer = open_peer(folder, LAYOUT, BATCH, cores)
    ways: dict[str, Callable[[], Speed]] = {
        "bare decode": lambda: _decode_alone(folder),
        "streaming": lambda: _drain(({} for _ in stream), number, ahead=PREFETCH + 2),
        name: lambda: _drain(peer, number, ahead=2 * cores),
    }
    speeds = {way: [work() for _ in range(1)] for way, work in ways.items()}  # the first round warms up
    for _ in range(arguments.rounds):
        for way, work in ways.items():
            speeds[way].append(work())
    stream.close()
    peer.close()
    return {way: tuple(np.median(seen[1:], axis=0)) for way, seen in speeds.items()}


def _drain(batches: Iterator[Clock], number: int, ahead: int) -> Speed:
    """The speed of `number` batches, after those that were made ahead while others had their turn."""
    before: Clock = {}
    for _ in range(ahead):
        before |= next(batches)
    after = dict(before)
    own, start = time.process_time(), time.perf_counter()
    for _ in range(number):
        after |= next(batches)
    wall, own = time.perf_counter() - start, time.process_time() - own
    others = sum(after[process] - before[process] for process in before)
    return number * BATCH / (own + others), number * BATCH / wall


def _decode_alone(folder: Path) -> Speed:
    """Nothing but decoding and resizing the same pictures, on all cores."""
    reader = RecordReader(folder / "train", "train")
    files = [records.split_parts(reader.read(i))[1:] for i in range(len(reader))]

    def decode(pictures: list[bytes]) -> None:
        for picture in pictures:
            ours(picture, LAYOUT.image_size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        own, start = time.process_time(), time.perf_counter()
        list(pool.map(decode, files))
        return len(files) / (time.process_time() - own), len(files) / (time.perf_counter() - start)


def _restore(loader: Loader) -> float:
    """Seconds from asking for position FAR to its first batch, the reader being open."""
    start = time.perf_counter()
    batches = loader.batches(FAR, BATCH)
    batch = next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    assert batch.index[0] == FAR
    return seconds


def _met(yes: bool) -> str:
    return "met" if yes else "not met"


def _print_speeds(side: int, speeds: dict[str, Speed]) -> None:
    resized = side != LAYOUT.image_size  # of records at the model's size, decoding is the smaller part of the work
    print(
        f"JPEG of {side} -> {LAYOUT.image_size} px, a target and {LAYOUT.max_references} references an example, ",
        end="",
    )
    print(f"{os.cpu_count()} cores")
    for way, (cpu, wall) in speeds.items():
        print(f"  {way:<14}{cpu:>8.1f} examples/s a core{wall:>9.1f} examples/s by the clock")
    (bare, _), (mine, mine_wall), (theirs, theirs_wall) = speeds.values()
    clock = f"by the clock {mine_wall / theirs_wall:.2f}"
    print(
        f"  against the peer {mine / theirs:.2f} ({clock}; gate {AGAINST_PEER}: {_met(mine >= AGAINST_PEER * theirs)})"
    )
    gate = f" (gate {AGAINST_BARE}: {_met(mine >= AGAINST_BARE * bare)})" if resized else ""
    print(f"  of bare decode   {mine / bare:.2f}{gate}", flush=True)


def _print_ratios() -> None:
    """One million positions of the paper's mixture."""
    mixture = Mixture(TABLE_1, seed=0)
    drawn = np.bincount(mixture.task(np.arange(1_000_000)), minlength=len(TABLE_1)) / 1e6
    worst = np.abs(drawn / np.array(list(TABLE_1.values())) - 1).max()
    print(f"1,000,000 examples drawn: ratios within {worst:.4%} of Table 1 (gate {RATIO_ERROR:.1%}: ", end="")
    print(f"{_met(worst <= RATIO_ERROR)})")


def _print_cores(streamed: dict[int, float]) -> None:
    """Cores that feed one H200 at stage 2, from the speeds measured here."""
    print(f"cores that feed one H200 ({TFLOP} TFLOP an example, {PEAK:.0f} TFLOP/s)")
    print(f"  {'utilisation':<14}{'examples/s':>11}" + "".join(f"{f'{side} px records':>17}" for side in streamed))
    for share in UTILISATIONS:
        wanted = share * PEAK / TFLOP
        cores = "".join(f"{wanted / speed:>17.2f}" for speed in streamed.values())
        print(f"  {share:<14.0%}{wanted:>11.1f}{cores}")
