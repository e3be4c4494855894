"""Writes a page of examples as the model will see them: `python -m data_pipelines.browse PATH --output=browse.html`.

PATH is a training JSONL file, a single instruction, a prepared data set (data/records/NAME, one split of it, or the
folder of all), or a corpus. With --config instead of PATH, it shows what training on that experiment would see:

    python -m data_pipelines.browse --config=experiments/stage2.py [--config.data.corpus=data/emoji]

The examples are drawn by --seed, wherever they lie: nothing else is read (the mixture is the paper's Table 1).
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipelines import commands
from data_pipelines.corpus import SPLITS, licences
from data_pipelines.datasets import Clusters
from data_pipelines.instruction import Layout, layout_of
from data_pipelines.loader import SEEDS, Loader, MemoryLoader, make_loader, open_maker
from data_pipelines.mixture import Mixture
from data_pipelines.page import Shown, make_page
from data_pipelines.stored import Records, Stored, is_corpus, open_stored
from data_pipelines.text import Tokenizer, load_tokenizer

LAYOUT = dict(size=128, text_length=128, reference_text_length=32, max_references=3)  # where nothing else is told
CORPUS_LAYOUT = dict(size=64, text_length=64, reference_text_length=24, max_references=3)
TRIES = 200  # examples looked at for each one shown, where --task is rare


class BrowseError(ValueError):
    """Nothing to show; one line with the mend."""


def browse(arguments: argparse.Namespace, config: ConfigDict | None) -> tuple[str, list[Shown]]:
    """The page and what it shows. Raises ValueError, one line, where there is nothing to show."""
    if config is not None:
        loader = make_loader(config.data, layout_of(config), arguments.split or "train", config.seed)
        length = config.train.steps * config.train.batch_size
        shown = list(_from_loader(loader, length, arguments, _source(config.data)))
        return _page(f"{config.name}, {arguments.split or 'train'}", shown, loader.layout, loader.tokenizer)
    layout, tokenizer = _layout(arguments, CORPUS_LAYOUT), load_tokenizer(arguments.tokenizer)
    if is_corpus(arguments.path):
        loader = _corpus_loader(arguments, layout, tokenizer)
        shown = list(
            _from_loader(
                loader, 1 << 20, arguments, _source(ConfigDict(dict(loader="memory", corpus=str(arguments.path))))
            )
        )
    else:
        opened = [each for each in open_stored(arguments.path) if arguments.split in ("", each.split)]
        manifest = opened[0].manifest if opened else {}
        told = {name: opened[0].setting(name, value) for name, value in LAYOUT.items()} if opened else LAYOUT
        layout = _layout(arguments, told | {"size": manifest.get("size", told["size"])})
        shown = list(_from_stored(opened, layout, tokenizer, arguments))
    return _page(str(arguments.path), shown, layout, tokenizer)


def _page(title: str, shown: list[Shown], layout: Layout, tokenizer: Tokenizer) -> tuple[str, list[Shown]]:
    tasks = Counter(each.example.task for each in shown if each.example and each.example.task)
    facts = {
        "examples": str(len(shown)),
        "tasks": ", ".join(f"{task} {count}" for task, count in tasks.most_common()) or "none",
        "pictures": f"{layout.image_size} x {layout.image_size}, at most {layout.max_references} references",
        "text": f"{layout.text_length} tokens, of a reference {layout.reference_text_length}",
        "source": "; ".join(sorted({each.source for each in shown if each.source})) or "not told",
    }
    return make_page(title, facts, shown, layout, tokenizer), shown


def _from_loader(loader: Loader, length: int, arguments: argparse.Namespace, source: str) -> Iterator[Shown]:
    """Examples of the stream that training reads, in its order."""
    if arguments.task and arguments.task not in loader.tasks:
        raise BrowseError(f"--task={arguments.task} is none of {', '.join(loader.tasks)}")
    for i in sorted(_draw(max(1, length), arguments.count, arguments.seed)):
        yield Shown(f"example {i:,} of the stream", loader.told(i, arguments.task or None), source=source)


def _from_stored(
    opened: list[Stored], layout: Layout, tokenizer: Tokenizer, arguments: argparse.Namespace
) -> Iterator[Shown]:
    """Stored examples in their order; a broken one is shown as such."""
    ends = np.cumsum([len(each) for each in opened])
    total = int(ends[-1]) if len(ends) else 0
    places = []
    for place in _draw(total, TRIES * arguments.count, arguments.seed):
        which = int(np.searchsorted(ends, place, side="right"))
        index = place - (int(ends[which - 1]) if which else 0)
        if not arguments.task or _task(opened[which], index) == arguments.task:
            places.append((which, index))
        if len(places) == arguments.count:
            break
    if not places:
        what = f" of task '{arguments.task}'" if arguments.task else ""
        raise BrowseError(f"{arguments.path}: holds no example{what}{arguments.split and ' in ' + arguments.split}")
    for which, index in sorted(places):
        yield _show(opened[which], index, layout, tokenizer, arguments.seed)


def _task(stored: Stored, index: int) -> str:
    if _is_clusters(stored):
        return "neighbors"
    try:
        return str(stored.fields(stored.read(index)).get("task", ""))
    except ValueError:
        return ""


def _show(stored: Stored, index: int, layout: Layout, tokenizer: Tokenizer, seed: int) -> Shown:
    where = stored.where(index)
    try:
        if _is_clusters(stored):  # one of its targets, with the neighbours that some epoch gives it
            dataset = Clusters(stored.name, stored.reader, layout, tokenizer, seed)
            number = index * len(dataset) // len(stored) + seed % (len(dataset) // len(stored))
            return Shown(where, dataset.example(number, epoch=0), source=stored.licence())
        data = stored.read(index)
        fields, example = stored.fields(data), stored.decode(index, data)
    except ValueError as error:
        return Shown(where, error=str(error).removeprefix(f"{where}: "))
    return Shown(where, example, "", str(fields.get("key", "")), str(fields.get("group", "")), stored.licence())


def _is_clusters(stored: Stored) -> bool:
    return isinstance(stored, Records) and stored.reader.kind == "clusters"


def _draw(total: int, count: int, seed: int) -> Iterator[int]:
    """Up to `count` different numbers below `total`, in random order; of many, none but these are ever made."""
    rng = np.random.default_rng(seed)
    if total <= 2 * count:
        yield from rng.permutation(total)[:count].tolist()
        return
    seen: set[int] = set()
    while len(seen) < count:
        number = int(rng.integers(total))
        if number not in seen:
            seen.add(number)
            yield number


def _corpus_loader(arguments: argparse.Namespace, layout: Layout, tokenizer: Tokenizer) -> Loader:
    """--task, or every task that the corpus has pairs for, each as often."""
    tasks = [arguments.task] if arguments.task else []
    maker = open_maker(str(arguments.path), arguments.split or "train", layout, tokenizer, tasks)
    mixture = Mixture(dict.fromkeys(maker.tables, 1 / len(maker.tables)), arguments.seed)
    return MemoryLoader(maker, arguments.seed, mixture=mixture, tokenizer=tokenizer, layout=layout)


def _source(data: ConfigDict) -> str:
    """Where the examples of a loader come from, and the licences of a corpus's drawings."""
    if data.loader != "memory":
        return f"the data sets in {data.records}"
    return f"corpus {data.corpus}: {licences(data.corpus)}"


def _layout(arguments: argparse.Namespace, told: dict[str, int]) -> Layout:
    chosen = {name: getattr(arguments, name) or told[name] for name in LAYOUT}
    return Layout(chosen["size"], chosen["max_references"], chosen["text_length"], chosen["reference_text_length"])


def make_parser() -> argparse.ArgumentParser:
    """The command line, but for the overrides --config.KEY=VALUE."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.browse",
        description="Write a page of examples as the model will see them.",
        allow_abbrev=False,
    )
    parser.add_argument("path", type=Path, nargs="?", help="a .jsonl or .json file, a data set or a corpus")
    parser.add_argument(
        "--config", help="an experiment instead, e.g. experiments/stage2.py; --config.KEY=VALUE sets a key"
    )
    parser.add_argument("--output", type=Path, default=Path("browse.html"), help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=50, help="examples to show (default: %(default)s)")
    parser.add_argument("--task", default="", help="show only this task (default: all)")
    parser.add_argument("--split", choices=SPLITS, default="", help="(default: train of a corpus or config, else all)")
    parser.add_argument("--seed", type=int, default=0, help="draws other examples (default: %(default)s)")
    for name, default in LAYOUT.items():
        told = "side of the pictures" if name == "size" else "of the model"
        parser.add_argument(f"--{name}", type=int, help=f"{told} (default: the data set's own, else {default})")
    parser.add_argument("--tokenizer", default="", help="as data.tokenizer (default: the bundled T5 vocabulary)")
    return parser


def _read_config(name: str, overrides: list[str]) -> ConfigDict:
    """The experiment's config with its overrides. Raises BrowseError, one line."""
    values, arguments = flags.FlagValues(), ["browse", f"--config={name}", *overrides]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        _ = holder.value.name  # a file that could not be loaded is reported only now
    except (AttributeError, KeyError) as error:  # ml_collections: a key that the config lacks
        told = str(error.args[0]).splitlines()[0].strip("'\"")
        raise BrowseError(f"--config={name}: it has no key {told}; the keys stand in experiments/common.py") from None
    except (flags.Error, ValueError, TypeError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = lines[-1].partition("Error: ")[2] or lines[-1]
        raise BrowseError(f"--config={name}: {told}") from None
    return holder.value


def _check(chosen: argparse.Namespace, rest: list[str]) -> ConfigDict | None:
    """The config, if one is asked for. Raises BrowseError for options that do not go together."""
    if unknown := [text for text in rest if not (chosen.config and text.startswith("--config."))]:
        raise BrowseError(f"unexpected argument '{unknown[0]}': see --help")
    if (chosen.path is None) == (chosen.config is None):
        raise BrowseError("give either a PATH or --config=FILE; a first look: --config=experiments/stage2.py")
    if chosen.count < 1 or not 0 <= chosen.seed < SEEDS:
        raise BrowseError("--count must be 1 or more, and --seed 0 ... 2^63 - 1")
    if chosen.config is None:
        return None
    if told := [name for name in (*LAYOUT, "tokenizer") if getattr(chosen, name)]:
        raise BrowseError(f"--{told[0]} is the config's to say: set it with --config.KEY=VALUE")
    return _read_config(chosen.config, rest)


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr."""
    chosen, rest = make_parser().parse_known_args(arguments)

    def work() -> None:
        page, shown = browse(chosen, _check(chosen, rest))
        temporary = chosen.output.with_name(chosen.output.name + ".tmp")
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, chosen.output)
        print(f"wrote {chosen.output}: {len(shown)} examples, {len(page) / 1e6:.1f} MB")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
