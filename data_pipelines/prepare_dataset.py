"""From a reader's items to a prepared data set: the common runner of `python -m data_pipelines.prepare FAMILY`.

It decodes, cuts and resizes the pictures, words the drafts with the templates, splits by group, and writes records
(paper section 4.1: the data sets are made once, before training). What it writes depends on the items and the options
alone: pictures are worked on in a pool of threads, and records are written in the order of the items.
"""

import argparse
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from data_pipelines import records, templates
from data_pipelines.corpus import SPLITS
from data_pipelines.images import ENCODINGS, ImageError, fit_image, read_image
from data_pipelines.instruction import Instruction, InstructionError, Reference, check, context_text
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.shortening import plain, shorten, word_short
from data_pipelines.sources.item import About, Item, Pixels, Skip, SourceError, told
from data_pipelines.splits import Splitter, parse_shares, stable_hash
from data_pipelines.text import load_tokenizer
from data_pipelines.wording import Draft, Example, WordingError

_AHEAD = 8  # items in work a core: enough that one slow picture keeps nobody waiting


def add_arguments(parser: argparse.ArgumentParser, root: Path, name: str) -> None:
    """The options that every family shares; `name` is the folder under `root`, and may name options: '{condition}'."""
    group = parser.add_argument_group("the prepared data set")
    group.add_argument("--output", type=Path, help=f"folder to make (default: {root / name})")
    group.add_argument("--size", type=int, default=128, help="side of the pictures (default: %(default)s)")
    group.add_argument("--text_length", type=int, default=128, help="most tokens of a text (default: %(default)s)")
    group.add_argument(
        "--reference_text_length", type=int, default=32, help="most tokens of a reference's text (default: %(default)s)"
    )
    group.add_argument("--max_references", type=int, default=3, help="most references (default: %(default)s)")
    group.add_argument("--tokenizer", default="", help="as data.tokenizer (default: the bundled T5 vocabulary)")
    group.add_argument("--encoding", choices=ENCODINGS, default="auto", help="of pictures; auto: PNG for drawings")
    group.add_argument(
        "--splits", type=parse_shares, default=(0.96, 0.02, 0.02), metavar="TRAIN,VALIDATION,TEST",
        help="shares, where the data set has no split of its own (default: 0.96,0.02,0.02)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of the phrasings (default: %(default)s)")
    group.add_argument("--limit", type=int, default=0, help="read so many items only (default: all)")
    group.add_argument("--strict", action="store_true", help="stop at the first broken item instead of counting it")
    parser.set_defaults(default_output=str(root / name))


@dataclass(frozen=True)
class Prepared:
    """The record of an item, and what the manifest counts of it."""

    record: bytes
    task: str
    tokens: int  # of the text
    reference_tokens: int  # of the longest reference text
    references: int
    shortened: bool


@dataclass
class Tally:
    """Counts over all splits."""

    read: int = 0
    skipped: Counter = field(default_factory=Counter)  # by reason
    written: Counter = field(default_factory=Counter)  # by (split, task)
    shortened: Counter = field(default_factory=Counter)  # by split
    longest: dict[str, dict[str, int]] = field(default_factory=dict)  # by split

    def add(self, split: str, prepared: Prepared) -> None:
        """Count one record."""
        self.written[split, prepared.task] += 1
        self.shortened[split] += prepared.shortened
        seen = {
            "text": prepared.tokens, "reference_text": prepared.reference_tokens, "references": prepared.references
        }  # fmt: skip
        longest = self.longest.setdefault(split, dict.fromkeys(seen, 0))
        longest.update({name: max(longest[name], value) for name, value in seen.items()})


def run(reader: ModuleType, arguments: argparse.Namespace) -> None:
    """Write the data set. Raises ValueError, one line, and then leaves nothing behind."""
    output = arguments.output or Path(arguments.default_output.format_map(vars(arguments)))
    if arguments.size < 1:
        raise SourceError(f"--size={arguments.size}: must be 1 or more pixels")
    about = reader.about(arguments) if hasattr(reader, "about") else reader.ABOUT
    _print_about(about)
    tally, preparer, splitter = Tally(), Preparer(arguments), Splitter(arguments.splits)
    with DatasetWriter(output) as writer:
        for item, prepared in _prepare_all(reader.items(arguments), preparer, splitter, arguments):
            tally.read += 1
            if isinstance(prepared, Skip):
                if arguments.strict:
                    raise SourceError(f"{prepared.where}: {prepared.reason} (and --strict was given)")
                tally.skipped[prepared.reason] += 1
            else:
                split = splitter.split(item)
                writer.split(split).write(prepared.record)
                tally.add(split, prepared)
        if not tally.written:
            raise SourceError(f"nothing to write: {tally.read} items read, {told(tally.skipped)}")
        for split in SPLITS:
            writer.split(split).finish(**_manifest(about, arguments, tally, split))
    _print_counts(tally, output)


class Preparer:
    """Makes records of items; used by many threads at once."""

    def __init__(self, arguments: argparse.Namespace):
        self._arguments, self._tokenizer = arguments, load_tokenizer(arguments.tokenizer)

    def prepare(self, item: Item) -> Prepared | Skip:
        """The record of an item, or why there is none."""
        if item.text and len(item.references) > self._arguments.max_references:
            return Skip(item.key, "more references than --max_references")
        if not item.text and not all(getattr(item, name).strip(" .") for name in self._words_of(item.task)):
            return Skip(item.key, "no words")
        try:
            example, shortened = self._as_worded(item) if item.text else self._word(item)
            check(example.instruction)
        except ImageError:
            return Skip(item.key, "broken image")
        except InstructionError:
            return Skip(item.key, "words that make no instruction")
        except WordingError:
            return Skip(item.key, "a text too long")
        references = example.instruction.references
        record = records.encode(example, item.key, item.group or item.key, self._arguments.encoding)
        lengths = [len(self._tokenizer.encode(context_text(reference))) for reference in references]
        tokens = len(self._tokenizer.encode(example.instruction.text))
        return Prepared(record, item.task, tokens, max(lengths, default=0), len(references), shortened)

    def _words_of(self, task: str) -> set[str]:
        """The fields of an item that its task cannot do without."""
        if task not in templates.PLACEHOLDERS:
            raise SourceError(f"there is no task '{task}'; the tasks are {', '.join(templates.PLACEHOLDERS)}")
        return {"caption", "change"} & templates.PLACEHOLDERS[task]

    def _as_worded(self, item: Item) -> tuple[Example, bool]:
        """The item in its own words: nothing of it is cut or left out."""
        references = tuple(
            Reference(f"[ref#{k}]", text, self._picture(picture))
            for k, (text, picture) in enumerate(item.references, start=1)
        )
        phrases_fit = map(self._fits(self._arguments.reference_text_length), map(context_text, references))
        if not (self._fits(self._arguments.text_length)(item.text) and all(phrases_fit)):
            raise WordingError(f"longer than --text_length or --reference_text_length: '{item.text}'")
        return Example(Instruction(item.text, references), self._picture(item.target), item.task), False

    def _word(self, item: Item) -> tuple[Example, bool]:
        most, needed = self._arguments.max_references, templates.least_references(item.task)
        if needed > min(most, len(item.references)):
            raise SourceError(
                f"{item.key}: task {item.task} needs {needed} references, and has {len(item.references)}, of which "
                f"--max_references={most} keeps {most}"
            )
        references, whole = [], True
        for k, (text, picture) in enumerate(item.references[:most], start=1):
            short = self._fit_reference(f"[ref#{k}]", text)
            whole &= short == plain(text)
            references.append((short, self._picture(picture)))
        draft = Draft(self._picture(item.target), plain(item.caption), plain(item.change), references)
        first = stable_hash(f"{self._arguments.seed}/{item.key}") % templates.count(item.task)
        example, shortened = word_short(item.task, draft, first, self._fits(self._arguments.text_length))
        return example, shortened or not whole

    def _fit_reference(self, marker: str, text: str) -> str:
        """The text of a reference, cut where it is too long with its marker before it."""
        fits = self._fits(self._arguments.reference_text_length)
        short = shorten(plain(text), lambda cut: fits(f"{marker} {cut}"))
        if not short:
            raise WordingError(f"not even one word of '{text}' fits")
        return short

    def _fits(self, length: int) -> Callable[[str], bool]:
        return lambda text: len(self._tokenizer.encode(text)) <= length

    def _picture(self, pixels: Pixels) -> np.ndarray:
        size = self._arguments.size
        return fit_image(pixels if isinstance(pixels, np.ndarray) else read_image(pixels, size), size)


def _prepare_all(
    found: Iterable[Item | Skip], preparer: Preparer, splitter: Splitter, arguments: argparse.Namespace
) -> Iterator[tuple[Item | Skip, Prepared | Skip]]:
    """Items with their records, in order; at most a few a core are in work at a time."""
    cores = os.cpu_count() or 1
    waiting: deque[tuple[Item | Skip, Future | Skip]] = deque()
    found = tqdm(
        itertools.islice(found, arguments.limit or None), total=arguments.limit or None, unit="item", smoothing=0.05
    )
    with ThreadPoolExecutor(cores) as pool:
        try:
            for item in found:
                if isinstance(item, Skip):
                    waiting.append((item, item))
                elif splitter.is_new(item):
                    waiting.append((item, pool.submit(preparer.prepare, item)))
                else:
                    waiting.append((item, Skip(item.key, "a key twice")))
                if len(waiting) > _AHEAD * cores:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _result(item: Item | Skip, work: Future | Skip) -> tuple[Item | Skip, Prepared | Skip]:
    return item, work if isinstance(work, Skip) else work.result()


def _manifest(about: About, arguments: argparse.Namespace, tally: Tally, split: str) -> dict:
    written = {task: count for (where, task), count in sorted(tally.written.items()) if where == split}
    given = {name: value for name, value in vars(arguments).items() if name not in ("output", "default_output")}
    simple = int | float | tuple | list | None
    return {
        "kind": "examples",
        "source": asdict(about),
        "arguments": {name: value if isinstance(value, simple) else str(value) for name, value in given.items()},
        "size": arguments.size,
        "longest": tally.longest.get(split, {}),
        "counts": {
            "read": tally.read,
            "written": written,
            "written in all splits": sum(tally.written.values()),
            "skipped": dict(sorted(tally.skipped.items())),
            "captions shortened": tally.shortened[split],
        },
    }


def _print_about(about: About) -> None:
    print(f"{about.title}\n  licence:  {about.licence}\n  citation: {about.citation}\n  home:     {about.home}")


def _print_counts(tally: Tally, output: Path) -> None:
    """A table of examples by task and split, and what to do about an empty split."""
    print(f"{'task':<20}" + "".join(f"{split:>12}" for split in SPLITS))
    for task in sorted({task for _, task in tally.written}):
        print(f"{task:<20}" + "".join(f"{tally.written[split, task]:>12,}" for split in SPLITS))
    shortened = sum(tally.shortened.values())
    print(f"read {tally.read:,}; left out: {told(tally.skipped)}; captions shortened {shortened:,}")
    print(f"wrote {sum(tally.written.values()):,} examples to {output}")
    if empty := [split for split in SPLITS if split not in {where for where, _ in tally.written}]:
        mend = "where no split is named, give larger shares, such as --splits=0.8,0.1,0.1, or more groups"
        print(f"nothing is in {' and '.join(empty)}: {mend}")
