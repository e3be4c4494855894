"""Writes examples of a corpus as record shards: `python -m data_pipelines.prepare records`.

The examples are those of the memory loader in their order, augmented in the training split; the tasks get equal shares,
for the mixture is applied when the records are read. Paper section 4.1: the datasets are made once, before training.
"""

import argparse
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines.corpus import SPLITS
from data_pipelines.instruction import Layout
from data_pipelines.loader import Loader, make_loader
from data_pipelines.records import RecordReader, RecordWriter
from data_pipelines.tasks import TASKS

HELP = "record shards for data.loader='records', from a corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare records`."""
    parser.add_argument("--corpus", default="fixture", help="folder of a corpus (default: the bundled fixture)")
    parser.add_argument("--output", type=Path, default=Path("data/records"), help="folder (default: %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="OUTPUT/SPLIT is made (default: %(default)s)")
    parser.add_argument("--examples", type=int, required=True, help="number of examples, over all tasks")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="tasks, in equal shares (default: all)")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures (default: %(default)s)")
    parser.add_argument("--max_references", type=int, default=3, help="most references (default: %(default)s)")
    parser.add_argument("--text_length", type=int, default=64, help="most tokens of a text (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the examples (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write, then read back and check. Raises ValueError, one line, and then leaves nothing behind."""
    if arguments.examples < len(arguments.tasks):
        raise ValueError(f"--examples={arguments.examples}: at least one for each of {len(arguments.tasks)} tasks")
    loader = _make_loader(arguments)
    folder = arguments.output / arguments.split
    with RecordWriter(folder, arguments.split) as writer:
        for i in tqdm(range(arguments.examples), unit="example"):
            writer.write(loader.example(i, loader.tasks[i % len(loader.tasks)]))
    print(f"wrote {RecordReader(folder, arguments.split).verify()} examples to {folder}")


def _make_loader(arguments: argparse.Namespace) -> Loader:
    tasks = dict.fromkeys(arguments.tasks, 1 / len(arguments.tasks))
    data = ConfigDict(dict(loader="memory", corpus=arguments.corpus, mixture=tasks, tokenizer=""))
    layout = Layout(arguments.size, arguments.max_references, arguments.text_length, arguments.text_length)
    return make_loader(data, layout, arguments.split, arguments.seed)
