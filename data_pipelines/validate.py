"""Checks data before anything is trained on it: `python -m data_pipelines.validate PATH`.

PATH is a training JSONL file, a single instruction, a prepared data set (data/records/NAME, one split of it, or the
folder of all), or a corpus. Every example is read and checked as training would read it, and then against the others:
the paper holds identities apart and drops near-duplicates (section 3), and so must data from elsewhere. One line is
printed a problem, with its place. Exit code: 0 clean, 1 problems found, 2 nothing that can be checked.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines import commands, records
from data_pipelines.checks import LENGTHS, Comparer, Examiner, Facts, Problem
from data_pipelines.corpus import FIXTURE, SPLITS, Corpus, load_corpus
from data_pipelines.pairs import STYLES
from data_pipelines.records import RecordError
from data_pipelines.sources.duplicates import THUMBNAIL, duplicated
from data_pipelines.stored import Records, Stored, is_corpus, open_stored, split_folders
from data_pipelines.text import load_tokenizer

CHUNK = 256  # examples in work at a time


@dataclass
class Report:
    """Problems, printed as they come, and counts for the summary."""

    most: int  # problems that are printed
    kinds: Counter = field(default_factory=Counter)
    tasks: Counter = field(default_factory=Counter)
    styles: Counter = field(default_factory=Counter)  # of a corpus
    sizes: Counter = field(default_factory=Counter)
    references: Counter = field(default_factory=Counter)
    tokens: Counter = field(default_factory=Counter)
    examples: int = 0

    def add(self, problem: Problem) -> None:
        """Count a problem, and print it if not too many were."""
        self.kinds[problem.kind] += 1
        if self.kinds.total() <= self.most:
            tqdm.write(str(problem), file=sys.stdout)

    def count(self, facts: Facts) -> None:
        """Count a sound example."""
        self.tasks[facts.task] += 1
        self.sizes[facts.target_size] += 1
        self.references[len(facts.references)] += 1
        self.tokens[facts.tokens] += 1

    def summary(self, path: Path) -> str:
        """What was found, a line each."""
        problems = self.kinds.total()
        unit = "pictures" if self.styles else "examples"
        lines = [
            f"{path}: {self.examples:,} {unit}, {f'{problems:,}' if problems else 'no'} problem{'s'[: problems != 1]}"
        ]
        if problems > self.most:
            lines.append(f"  not shown     {problems - self.most:,} problems beyond --max_problems={self.most}")
        for name in ("kinds", "tasks", "styles", "sizes", "references"):
            if counted := getattr(self, name):
                told = ", ".join(f"{value} {count:,}" for value, count in sorted(counted.items(), key=_by_count)[:20])
                lines.append(f"  {'problems' if name == 'kinds' else name:<14}{told}")
        if self.tokens:
            lengths = np.array(sorted(self.tokens.items()))  # [n, 2] tokens, examples
            median = lengths[np.searchsorted(lengths[:, 1].cumsum(), self.tokens.total() / 2), 0]
            lines.append(f"  text tokens   median {median}, longest {lengths[-1, 0]}")
        return "\n".join(lines)


def validate(path: Path, arguments: argparse.Namespace) -> Report:
    """Check whatever is at `path`, printing problems as they are found. Raises ValueError where nothing can be read."""
    report = Report(arguments.max_problems)
    if is_corpus(path):
        _check_corpus(path, report)
        return report
    tokenizer = load_tokenizer(arguments.tokenizer)
    comparers: dict[str, Comparer] = {}
    groups: dict[int, Stored] = {}
    for stored in _open_all(path, report):
        report.examples += len(stored)
        if isinstance(stored, Records):
            _check_shards(stored, report)
        examiner = Examiner(stored, arguments, tokenizer)
        comparer = comparers.setdefault(stored.name, Comparer(groups))
        for index, (facts, problems) in enumerate(_examine_all(stored, examiner.examine)):
            if facts:
                report.count(facts)
                problems += comparer.compare(stored, index, facts)
            for problem in problems:
                report.add(problem)
    return report


def _open_all(path: Path, report: Report) -> Iterator[Stored]:
    """What is stored at `path`; of several splits, one that cannot be opened is a problem and the others go on."""
    if path.is_file() or len(folders := split_folders(path)) == 1:
        yield from open_stored(path)
        return
    for folder in folders:
        try:
            yield Records(folder)
        except RecordError as error:
            where, _, what = str(error).partition(": ")
            report.add(Problem(where, "shard", what))


def _check_shards(stored: Records, report: Report) -> None:
    for shard in tqdm(stored.manifest["shards"], unit="shard", desc="checksums", leave=False, delay=1):
        path = stored.folder / shard["file"]
        if records.sha256(path) != shard["sha256"]:
            report.add(Problem(str(path), "shard", "its checksum is not the manifest's; prepare the data set again"))


def _examine_all(stored: Stored, examine: Callable) -> Iterator[tuple[Facts | None, list[Problem]]]:
    """Every example, in order: stored bytes are read here, decoded and checked by a pool of threads."""

    def read(index: int) -> bytes | ValueError:
        try:
            return stored.read(index)
        except ValueError as error:
            return error

    title = f"{stored.name} {stored.split}".strip()
    with ThreadPoolExecutor() as pool, tqdm(total=len(stored), unit="example", desc=title, delay=1) as bar:
        for start in range(0, len(stored), CHUNK):
            indices = range(start, min(start + CHUNK, len(stored)))
            for result in pool.map(examine, indices, [read(index) for index in indices]):
                yield result
                bar.update()


def _check_corpus(path: Path, report: Report) -> None:
    """Its files are checked as it is loaded; then, that root subjects and drawings lie in one split."""
    corpus = load_corpus(path, THUMBNAIL)
    report.examples = len(corpus.pictures)
    index = (FIXTURE if str(path) == "fixture" else path) / "index.tsv"
    for i in _drawn_before(corpus):
        picture = corpus.pictures[i]
        what = f"its drawing in {picture.style}, of split {picture.split}, nearly equals one of an earlier split"
        report.add(Problem(f"{index}: {picture.subject}", "near-duplicate", what))
    splits: dict[str, str] = {}
    for picture in corpus.pictures:
        report.styles[picture.style] += 1
        if corpus.sources[picture.style]["held_out"]:
            continue
        first = splits.setdefault(picture.root, picture.split)
        if first != picture.split:
            what = f"root {picture.root} is in split {first} and in {picture.split}"
            report.add(Problem(f"{index}: {picture.subject}", "leak", what))


def _drawn_before(corpus: Corpus) -> list[int]:
    """Places of the drawings that nearly equal one of an earlier split; depth maps are no drawings."""
    drawn = np.array([i for i, picture in enumerate(corpus.pictures) if not STYLES[picture.style].depth])
    ranks = np.array([SPLITS.index(corpus.pictures[i].split) for i in drawn])
    return drawn[duplicated(corpus.images[drawn], ranks)].tolist()


def _by_count(item: tuple) -> tuple:
    return -item[1], str(item[0])


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.validate",
        description="Check training data: schema, markers, pictures, sizes, lengths, duplicates, leaks, checksums.",
        epilog="exit code: 0 clean, 1 problems found, 2 nothing that can be checked",
    )
    parser.add_argument("path", type=Path, help="a .jsonl or .json file, a data set or the folder of all, or a corpus")
    parser.add_argument("--max_problems", type=int, default=100, help="most problems to print (default: %(default)s)")
    parser.add_argument("--size", type=int, default=0, help="least side of a picture in pixels (default: any)")
    for name, default in LENGTHS.items():
        told = f"the most that fits the model (default: the data set's own, else {default})"
        parser.add_argument(f"--{name}", type=int, help=told)
    parser.add_argument("--tokenizer", default="", help="as data.tokenizer (default: the bundled T5 vocabulary)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0 clean, 1 problems found, 2 with one line on stderr when nothing can be checked."""
    chosen = make_parser().parse_args(arguments)
    try:
        report = validate(chosen.path, chosen)
    except ModuleNotFoundError as error:
        return commands.missing(error)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.summary(chosen.path))
    return 1 if report.kinds else 0


if __name__ == "__main__":
    sys.exit(main())
