"""Decoding and resizing of photographs, one core: this project's way against Pillow's full decode and LANCZOS."""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.benchmarks.photographs import load_photographs, make_photographs, to_jpeg
from data_pipelines.images import fit_image, read_image

HELP = "Decode and resize JPEG photographs on one core, against Pillow with LANCZOS."
GATE = 5.0  # times Pillow
FORMS = ((75, "4:2:0"), (85, "4:2:0"), (90, "4:2:0"), (95, "4:2:0"), (95, "4:4:4"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `benchmarks decode`."""
    parser.add_argument("--photographs", type=Path, help="folder of pictures (default: synthetic ones)")
    parser.add_argument("--count", type=int, default=8, help="synthetic photographs (default: %(default)s)")
    parser.add_argument("--from_size", type=int, default=512, help="side of the files (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side wanted (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each number (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print a line a JPEG form: bytes, both speeds in pictures per CPU second, their ratio, and how alike they are."""
    side, size = arguments.from_size, arguments.size
    folder = arguments.photographs
    pictures = load_photographs(folder, side) if folder else make_photographs(arguments.count, side)
    print(f"{len(pictures)} {'photographs' if folder else 'synthetic photographs'}, {side} -> {size} px, one core")
    print(f"{'JPEG':<14}{'kB':>7}{'Pillow/s':>11}{'ours/s':>9}{'ratio':>8}{'PSNR dB':>9}  gate {GATE:g}x")
    for quality, subsampling in FORMS:
        files = [to_jpeg(picture, quality, subsampling) for picture in pictures]
        kilobytes = np.mean([len(file) for file in files]) / 1e3
        theirs, mine = rates([lambda f: with_pillow(f, size), lambda f: ours(f, size)], files, arguments.seconds)
        alike = np.mean([psnr(with_pillow(file, size), ours(file, size)) for file in files])
        met = "met" if mine >= GATE * theirs else "not met"
        told = f"{kilobytes:>7.0f}{theirs:>11.0f}{mine:>9.0f}{mine / theirs:>8.2f}{alike:>9.1f}"
        print(f"q{quality} {subsampling:<10}{told}  {met}", flush=True)


def ours(file: bytes, size: int) -> np.ndarray:
    """As the streaming loader does it."""
    return fit_image(read_image(file, size), size)


def with_pillow(file: bytes, size: int) -> np.ndarray:
    """The usual way: decode all of it, then resize the centre square."""
    with Image.open(io.BytesIO(file)) as image:
        (width, height), side = image.size, min(image.size)
        box = (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box))


def rates(
    functions: Sequence[Callable[[bytes], object]], files: Sequence[bytes], seconds: float, rounds: int = 4
) -> list[float]:
    """Calls per second of this thread's CPU time; the functions take turns, and the best of their rounds counts."""
    best = [0.0] * len(functions)
    for _ in range(rounds):
        for place, function in enumerate(functions):
            done, start = 0, time.thread_time()
            while (spent := time.thread_time() - start) < seconds / rounds or done < len(files):
                function(files[done % len(files)])
                done += 1
            best[place] = max(best[place], done / spent)
    return best


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB; infinite when they are equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
