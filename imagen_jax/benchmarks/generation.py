"""From a benchmark's prompts to pictures of a run: the `generate` action of every benchmark (paper section 4.1).

A benchmark says which pictures it wants as `Request`s; here each becomes a worded instruction, as training words them
(data_pipelines/wording.py), and a batch of these one call of the cascade. Pictures are written whole, those that lie
there already are not drawn again, and one depends on the seed and its own request alone: a run that was stopped goes on
where it was.
"""

import argparse
import ast
import contextlib
import functools
import itertools
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines import templates
from data_pipelines.images import ImageError, encode_image, fit_image, read_image
from data_pipelines.instruction import Instruction, InstructionError, layout_of, pack
from data_pipelines.sources.item import Pixels, Skip
from data_pipelines.text import load_tokenizer
from data_pipelines.wording import Draft, WordingError, word
from imagen_jax import cascade, grid, partition, release, runs, samplers, workdir
from imagen_jax.pipeline import MAX_SEED, open_super_res
from imagen_jax.runs import Run
from imagen_jax.types import Context, Text

T, U = TypeVar("T"), TypeVar("U")
_NO_TARGET = np.zeros((1, 1, 3), np.uint8)  # a draft has one; here it is what is to be drawn


class BenchmarkError(ValueError):
    """What a benchmark cannot be run with: one line with the mend."""


@dataclass(frozen=True)
class Request:
    """One picture that a benchmark asks for; the other fields as those of a data_pipelines.sources.item.Item."""

    file: str  # where it goes, below the output folder: "dog/03_2.png"
    task: str  # a name of data_pipelines/templates
    caption: str = ""
    change: str = ""
    references: Sequence[tuple[str, Pixels]] = ()
    size: int = 0  # side of the written picture in pixels; 0 as the model makes it
    round: int = 0  # its references may be pictures of the rounds before
    key: str = ""  # what names it for every model alike; '' its file does

    @property
    def number(self) -> int:
        """What its phrasing and its noise are chosen by."""
        return zlib.crc32((self.key or self.file).encode())


@dataclass(frozen=True)
class Artist:
    """A run with how it is sampled; `draw` is what `generate` needs of it."""

    base: Run
    super_res: Run | None
    sample: ConfigDict
    seed: int

    @functools.cached_property
    def _tokenizer(self):
        return load_tokenizer(self.base.config.data.tokenizer)

    def instruct(self, request: Request) -> Instruction:
        """The request in words and pictures, in the phrasing that its number chooses.

        Raises BenchmarkError, ImageError, WordingError for one that this run cannot be told.
        """
        layout, least = layout_of(self.base.config), templates.least_references(request.task)
        given = request.references[: layout.max_references]
        if len(given) < least:
            raise BenchmarkError(f"{request.task} needs {least} references; the run and the data allow {len(given)}")
        references = [(text, read_pixels(pixels)) for text, pixels in given]
        draft = Draft(_NO_TARGET, request.caption, request.change, references)
        first = request.number % templates.count(request.task)
        return word(request.task, draft, first, lambda text: self._fits(text, layout.text_length)).instruction

    def pack(self, instruction: Instruction) -> tuple[Text, Context]:
        """As the run's model reads it. Raises InstructionError."""
        return pack(instruction, self._tokenizer, layout_of(self.base.config))

    def draw(self, requests: Sequence[Request], packed: Sequence[tuple[Text, Context]]) -> np.ndarray:
        """[B, S, S, 3] uint8, picture i from instruction i, the seed and request i's number. Raises CascadeError."""
        text, context = jax.tree.map(lambda *leaves: np.stack(leaves), *packed)
        numbers = jnp.array([request.number for request in requests], jnp.uint32)
        keys = samplers.sample_keys(jax.random.key(self.seed), numbers)
        pictures = cascade.generate(self.base, self.super_res, self.sample, text, context, keys)
        return grid.to_uint8(np.asarray(pictures.get("super_res", pictures["base"])))

    def _fits(self, text: str, length: int) -> bool:
        return len(self._tokenizer.encode(text)) <= length


def add_generate(
    actions,
    requests: Callable[[argparse.Namespace], Iterable[Request | Skip]],
    write_others: Callable[[argparse.Namespace, Sequence[Request]], None] = lambda *_: None,
    record: str = "pictures.json",
) -> argparse.ArgumentParser:
    """The action `generate` of a benchmark, which may add options of its own to the parser that is returned.

    `write_others` writes what else the benchmark's layout has, before the first picture is drawn. `record` says in
    OUTPUT what made the pictures: one file, or with {name} one a model, where each has pictures of its own.
    """
    parser = actions.add_parser(
        "generate", help="draw the benchmark's pictures with a trained run; goes on where it was"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set, loaded by you")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the trained run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--list", action="store_true", help="only say what would be drawn and what the data lacks")
    parser.add_argument(
        "--sample", action="append", default=[], metavar="KEY=VALUE",
        help="a key of the run's own config.sample, as steps=64 or super_res.workdir=runs/super_res; may be repeated",
    )  # fmt: skip
    parser.add_argument("--name", default="", help="what to call the model in the results (default: the run's folder)")
    parser.set_defaults(act=lambda arguments: _act(arguments, requests, write_others, record))
    return parser


def _act(arguments: argparse.Namespace, read: Callable, write_others: Callable, record: str) -> None:
    arguments.name = arguments.name or arguments.workdir.resolve().name
    _check(arguments)
    requests = without_skips(read(arguments))[: arguments.limit]
    if not requests:
        raise BenchmarkError(f"{arguments.data}: gives no picture to draw: correct --data")
    there = sum((arguments.output / request.file).exists() for request in requests)
    print(f"{len(requests)} pictures, {there} of them in {arguments.output} already")
    if arguments.list:
        print("\n".join(f"{each.file}: {each.caption or each.change}" for each in requests))
        return
    artist = open_artist(arguments.workdir, arguments.sample, arguments.seed)
    keep_record(arguments.output / record.format(name=arguments.name), settings_of(artist, arguments.workdir), there)
    write_others(arguments, requests)
    generate(artist, requests, arguments.output, arguments.batch)


def _check(arguments: argparse.Namespace) -> None:
    for name, least in (("batch", 1), ("limit", 1), ("seed", 0)):
        if (value := getattr(arguments, name)) is not None and value < least:
            raise BenchmarkError(f"--{name}={value}: must be at least {least}")
    if arguments.seed > MAX_SEED:
        raise BenchmarkError(f"--seed={arguments.seed}: must be at most {MAX_SEED}")
    if Path(arguments.name).name != arguments.name:
        raise BenchmarkError(f"--name={arguments.name}: is the name of a folder: no path, please")


def for_each(make: Callable[[T], U], found: Iterable[T | Skip]) -> Iterator[U | Skip]:
    """make(x) of everything that a reader found; what it left out stays as it is."""
    return (each if isinstance(each, Skip) else make(each) for each in found)


def without_skips(found: Iterable) -> list:
    """What a benchmark's reader found, without what it had to leave out, each of which is told in a line."""
    kept = []
    for each in found:
        if isinstance(each, Skip):
            print(f"skipped: {each.where}: {each.reason}")
        else:
            kept.append(each)
    return kept


def open_artist(folder: Path, changes: Sequence[str], seed: int) -> Artist:
    """The run in `folder`, sampled as its own config says but for the `changes`, KEY=VALUE.

    Raises BenchmarkError, RunError, CheckpointError, CascadeError.
    """
    mesh = partition.make_mesh(ConfigDict(dict(data=1, fsdp=-1, tensor=1)))
    base = runs.open_run(folder, mesh)
    config = base.config.copy_and_resolve_references().lock()  # so that an unknown key is an error
    for change in changes:
        _change(config.sample, change)
    super_res = open_super_res(config, folder, mesh)
    cascade.check_fit(base, super_res)
    return Artist(base, super_res, config.sample, seed)


def _change(sample: ConfigDict, change: str) -> None:
    key, equals, value = change.partition("=")
    with contextlib.suppress(ValueError, SyntaxError):  # a word
        value = ast.literal_eval(value)
    try:
        if not equals:
            raise ValueError("give KEY=VALUE")
        sample.update_from_flattened_dict({key: value})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error.args[0]).partition(". ")[0].partition(" and cannot be added")[0]
        raise BenchmarkError(f"--sample {change}: {reason}: the keys are {', '.join(sorted(sample))}") from error


def settings_of(artist: Artist, folder: Path) -> dict:
    """What decides a picture besides its request: both runs and their steps, the seed, and how they are sampled."""
    base = {"workdir": _resolved(folder), "step": artist.base.step}
    beside = artist.sample.super_res.workdir  # 'auto' follows from the base's
    second = artist.super_res and {
        "name": artist.super_res.config.name,
        "workdir": beside if beside == "auto" else _resolved(beside),
        "step": artist.super_res.step,
    }
    return {**base, "super_res": second, "seed": artist.seed, "sample": json.loads(artist.sample.to_json())}


def _resolved(folder: str | Path) -> str:
    return str(release.locate(folder).resolve())


def keep_record(path: Path, settings: Mapping, there: int) -> None:
    """Write the settings beside the pictures. Raises BenchmarkError where those `there` were made with others."""
    if there and not path.exists():
        told = f"missing, so nothing says what made the {there} pictures there"
        raise BenchmarkError(f"{path}: {told}: give another --output, or remove the pictures")
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if before.get(name) != value:
                told = f"its pictures have {name} {before.get(name)}, not {value}"
                raise BenchmarkError(f"{path}: {told}: give another --output, or remove the pictures and this file")
    workdir.write_json(path, dict(settings))


def generate(artist: Artist, requests: Sequence[Request], output: Path, batch: int) -> int:
    """Draw the requests whose files are not in `output` yet; what cannot be drawn is said in a line. Returns how many.

    Raises CascadeError; BenchmarkError where nothing at all could be drawn.
    """
    waiting = [request for request in requests if not (output / request.file).exists()]
    drawn = 0
    with tqdm(total=len(waiting), unit="picture", desc="draw") as progress:
        for number in sorted({request.round for request in waiting}):
            these = [request for request in waiting if request.round == number]
            for group, packed in _batches(_packed(artist, these, progress), batch):
                filled = [i % len(group) for i in range(batch)]  # always as many, so that one program serves
                pictures = artist.draw([group[i] for i in filled], [packed[i] for i in filled])
                for request, picture in zip(group, pictures, strict=False):
                    save_picture(picture, output / request.file, request.size)
                drawn += len(group)
                progress.update(len(group))
    if waiting and not drawn:
        raise BenchmarkError(f"{output}: none of {len(waiting)} pictures could be drawn, see the lines above")
    print(f"drew {drawn} pictures into {output}")
    return drawn


def _packed(artist: Artist, requests: Iterable[Request], progress: tqdm) -> Iterator[tuple[Request, tuple]]:
    for request in requests:
        try:
            yield request, artist.pack(artist.instruct(request))
        except (BenchmarkError, ImageError, InstructionError, WordingError) as error:
            progress.write(f"skipped: {request.file}: {error}", file=sys.stderr)
            progress.total -= 1


def _batches(pairs: Iterator[tuple], size: int) -> Iterator[tuple]:
    while group := list(itertools.islice(pairs, size)):
        yield tuple(zip(*group, strict=True))


def save_picture(picture: np.ndarray, path: Path, size: int = 0) -> None:
    """Write [S, S, 3] uint8 as PNG or JPEG by the path's suffix, at side `size` where given; whole or not at all."""
    encoding = {".png": "png", ".jpg": "jpeg"}[path.suffix]
    workdir.write_bytes(path, encode_image(fit_image(picture, size or len(picture)), encoding))


def read_pixels(pixels: Pixels) -> np.ndarray:
    """[h, w, 3] uint8 of a picture, its file or its bytes. Raises ImageError, one line with the file."""
    if isinstance(pixels, np.ndarray):
        return pixels
    try:
        return read_image(pixels)
    except ImageError as error:
        raise ImageError(f"{'reference' if isinstance(pixels, bytes) else pixels}: {error}") from None
