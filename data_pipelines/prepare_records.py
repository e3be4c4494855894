"""Writes examples of a corpus as prepared data sets, one a task: `python -m data_pipelines.prepare records`.

The examples are those of the memory loader in their order, augmented in the training split; every task gets as many,
for the mixture is applied when the records are read. Paper section 4.1: the data sets are made once, before training.
"""

import argparse
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines import records
from data_pipelines.corpus import SPLITS, licences
from data_pipelines.instruction import Layout, context_text
from data_pipelines.loader import Loader, make_loader
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.records import RecordError, RecordReader
from data_pipelines.tasks import DRAWN, TASKS
from data_pipelines.wording import Example

HELP = "record shards for data.loader='records', from a corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare records`."""
    parser.add_argument("--corpus", default="fixture", help="folder of a corpus (default: the bundled fixture)")
    parser.add_argument("--output", type=Path, default=Path("data/records"), help="OUTPUT/TASK is made for each task")
    parser.add_argument("--examples", type=int, required=True, help="training examples of each task")
    parser.add_argument("--held_out", type=int, help="examples of validation and of test (default: a twentieth)")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(DRAWN),
        metavar="TASK",
        help=f"of {', '.join(TASKS)} (default: all but depth)",
    )
    parser.add_argument("--size", type=int, default=64, help="side of the pictures (default: %(default)s)")
    parser.add_argument("--max_references", type=int, default=3, help="most references (default: %(default)s)")
    parser.add_argument("--text_length", type=int, default=64, help="most tokens of a text (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the examples (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write each task's data set, then read it back and check. Raises ValueError, one line.

    A task's data set is written whole or not at all.
    """
    if arguments.examples < 1:
        raise ValueError(f"--examples={arguments.examples}: at least one")
    arguments.tasks = list(dict.fromkeys(arguments.tasks))
    for task in arguments.tasks:
        if (arguments.output / task).exists():
            raise RecordError(f"{arguments.output / task}: exists already: delete it, or choose another --output")
    print(f"{arguments.corpus}\n  licence:  {licences(arguments.corpus)}")
    loaders = {split: _make_loader(arguments, split) for split in SPLITS}
    for task in arguments.tasks:
        folder = arguments.output / task
        with DatasetWriter(folder) as writer:
            for split in SPLITS:
                _write(writer, split, loaders[split], task, arguments)
        counts = [RecordReader(folder / split, split).verify() for split in SPLITS]
        told = ", ".join(f"{count:,} {split}" for count, split in zip(counts, SPLITS, strict=True))
        print(f"wrote {told} examples to {folder}")


def _write(writer: DatasetWriter, split: str, loader: Loader, task: str, arguments: argparse.Namespace) -> None:
    held_out = max(1, arguments.examples // 20) if arguments.held_out is None else arguments.held_out
    count = arguments.examples if split == "train" else held_out
    longest = {"text": 0, "reference_text": 0, "references": 0}
    for i in tqdm(range(count), unit="example", desc=f"{task} {split}"):
        example = loader.example(i, task)
        writer.split(split).write(records.encode(example, key=f"{task}/{i}"))
        measured = _measure(example, loader)
        longest = {name: max(longest[name], measured[name]) for name in longest}
    writer.split(split).finish(
        kind="examples",
        source={"title": f"the corpus {arguments.corpus}", "licence": licences(arguments.corpus)},
        arguments={name: value for name, value in vars(arguments).items() if isinstance(value, int | str)},
        size=arguments.size,
        longest=longest,
        counts={"written": {task: count}},
    )


def _measure(example: Example, loader: Loader) -> dict[str, int]:
    references = example.instruction.references
    tokens = [len(loader.tokenizer.encode(context_text(reference))) for reference in references]
    text = len(loader.tokenizer.encode(example.instruction.text))
    return {"text": text, "reference_text": max(tokens, default=0), "references": len(references)}


def _make_loader(arguments: argparse.Namespace, split: str) -> Loader:
    tasks = dict.fromkeys(arguments.tasks, 1 / len(arguments.tasks))
    data = ConfigDict(dict(loader="memory", corpus=arguments.corpus, mixture=tasks, tokenizer=""))
    layout = Layout(arguments.size, arguments.max_references, arguments.text_length, arguments.text_length)
    return make_loader(data, layout, split, arguments.seed)
