"""The text encoder run once over prepared data sets: `python -m data_pipelines.embed_text`.

The paper's T5-XXL is frozen (section 3.3): a text always has the same features, so they may stand in the records, and a
run with text_encoder.precomputed=True trains on them without an encoder in memory. The command writes new data sets,
OUTPUT/NAME, each whole or not at all. The one module of data_pipelines that knows the model: its text encoder.
"""

import argparse
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_pipelines import commands, features, records
from data_pipelines.corpus import SPLITS
from data_pipelines.instruction import context_text
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.records import RecordError, RecordReader
from data_pipelines.text import Tokenizer, load_tokenizer
from imagen_jax import partition, pretrained, runs, t5x
from imagen_jax.nn.t5 import T5_SIZES, T5Config, T5Encoder

WINDOW = 256  # records whose texts are encoded together
BUCKET = 16  # texts are padded to multiples of it: few shapes to compile
REMEMBERED = 1 << 30  # bytes of features of the latest texts, so that a text that recurs is encoded once


class EmbedError(ValueError):
    """Data sets or an encoder that cannot be used for text features."""


class TextEncoder:
    """Texts to features, by a T5 encoder sharded over all devices; a text that recurs is encoded once.

    Attributes:
      about: what the manifest says of the encoder: weights, digest, width, dtype, tokenizer.
      encoded: how many texts went through the encoder.
    """

    def __init__(self, weights: str, size: str, tokenizer: str, dtype: str, batch_size: int):
        self.tokenizer = load_tokenizer(tokenizer)
        self._mesh = partition.make_mesh({"fsdp": -1})
        config, self._params = load_encoder(weights, size, self._mesh)
        if self.tokenizer.size > config.vocab_size:
            raise EmbedError(
                f"{weights}: has {config.vocab_size} token embeddings and the tokenizer {self.tokenizer.size} ids: "
                "give the encoder's own --tokenizer"
            )
        module = T5Encoder(config, jnp.dtype(dtype))
        self._apply = jax.jit(lambda params, tokens, mask: module.apply({"params": params}, tokens, mask))
        self._batch_size = batch_size
        self._latest: OrderedDict[str, np.ndarray] = OrderedDict()
        self.encoded = 0
        self.about = {
            "weights": weights,
            "digest": digest(self._params),
            "width": config.emb,
            "dtype": dtype,
            "tokenizer": _fingerprint(self.tokenizer),
        }

    def features(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """{text: [tokens, width]} of each different text, EOS among its tokens."""
        wanted = dict.fromkeys(texts)
        for text, rows in self._encode([text for text in wanted if text not in self._latest]):
            self._latest[text] = rows
        for text in wanted:
            self._latest.move_to_end(text)
            wanted[text] = self._latest[text]
        held = sum(rows.nbytes for rows in self._latest.values())
        while held > REMEMBERED:
            held -= self._latest.popitem(last=False)[1].nbytes
        return wanted

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        ids = {text: self.tokenizer.encode(text) for text in texts}
        ordered = sorted(ids, key=lambda text: (len(ids[text]), text))  # like lengths together: little padding
        for start in range(0, len(ordered), self._batch_size):
            group = ordered[start : start + self._batch_size]
            shape = self._batch_size, -(-len(ids[group[-1]]) // BUCKET) * BUCKET
            tokens, mask = np.full(shape, self.tokenizer.pad_id, np.int32), np.zeros(shape, bool)
            for row, text in enumerate(group):
                tokens[row, : len(ids[text])], mask[row, : len(ids[text])] = ids[text], True
            encoded = np.asarray(self._apply(self._params, *partition.shard_batch((tokens, mask), self._mesh)))
            self.encoded += len(group)
            yield from ((text, encoded[row, : len(ids[text])].copy()) for row, text in enumerate(group))


def load_encoder(weights: str, size: str, mesh: jax.sharding.Mesh) -> tuple[T5Config, dict]:
    """Sizes and parameters of the encoder in a run's workdir, a T5X checkpoint (of `size`) or a Hugging Face folder.

    Raises WeightsError, RunError or EmbedError, one line.
    """
    if runs.has_run(weights):
        run = runs.open_run(weights, mesh)
        return run.model.text_encoder.config, run.params["text_encoder"]
    if t5x.is_checkpoint(weights):
        if size not in T5_SIZES:
            raise EmbedError(f"{weights}: a T5X checkpoint does not tell its sizes: give --size={'|'.join(T5_SIZES)}")
        config, load = T5_SIZES[size], t5x.load
    else:
        config, load = pretrained.t5_config(weights), pretrained.load_t5
    token = jnp.zeros((1, 1), jnp.int32)
    abstract = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), token, token == 0)["params"]
    return config, load(weights, abstract, partition.shardings(abstract, mesh))


def digest(params: Mapping) -> str:
    """SHA-256 of all parameters: which encoder it was, wherever its files lay."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        total.update(jax.tree_util.keystr(path, simple=True, separator="/").encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def _fingerprint(tokenizer: Tokenizer) -> str:
    """Of what the tokenizer makes of some words."""
    words = "[ref#1] A quick brown fox jumps over the lazy dog, naïvely drawn in the style of [ref#2]: 0123456789."
    return hashlib.sha256(repr(tokenizer.encode(words)).encode()).hexdigest()[:16]


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.embed_text",
        description="Prepared data sets with text features beside their words, for text_encoder.precomputed=True.",
    )
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="DIR", help="such as data/records/edge")
    parser.add_argument("--output", type=Path, required=True, help="OUTPUT/NAME is made for each; then data.records")
    parser.add_argument(
        "--weights",
        required=True,
        help="t5 v1.1 or flan-t5, a Hugging Face folder or T5X checkpoint; or a run's workdir",
    )
    parser.add_argument("--size", choices=T5_SIZES, default="", help="of a T5X checkpoint")
    parser.add_argument("--tokenizer", default="", help="as data.tokenizer (default: the bundled T5 model)")
    parser.add_argument(
        "--dtype",
        choices=features.DTYPES,
        default="bfloat16",
        help="of the encoder's computation and of what is stored, as model.dtype (default: %(default)s)",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="texts encoded at once (default: %(default)s)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write each data set with features. Raises ValueError, one line, before anything is written where possible."""
    if arguments.batch_size < 1:
        raise EmbedError(f"--batch_size={arguments.batch_size}: at least one")
    sets = {folder: open_splits(folder) for folder in arguments.input}
    names = [folder.name for folder in sets]
    for folder in sets:
        if names.count(folder.name) > 1:
            raise EmbedError(f"{folder}: another --input is called so, too: embed each to an --output of its own")
        if (arguments.output / folder.name).exists():
            raise RecordError(
                f"{arguments.output / folder.name}: exists already: delete it, or choose another --output"
            )
    encoder = TextEncoder(arguments.weights, arguments.size, arguments.tokenizer, arguments.dtype, arguments.batch_size)
    for folder, readers in sets.items():
        output = arguments.output / folder.name
        with DatasetWriter(output) as writer:
            for split, reader in readers.items():
                embed(reader, split, encoder, writer, f"{folder.name} {split}")
        counts = ", ".join(f"{len(reader):,} {split}" for split, reader in readers.items())
        print(f"wrote {counts} examples to {output}")
    print(f"{encoder.encoded:,} texts encoded; train with --config.text_encoder.precomputed=True")


def open_splits(folder: Path) -> dict[str, RecordReader]:
    """The splits of a data set of examples without features. Raises RecordError or EmbedError."""
    readers = {split: RecordReader(folder / split, split) for split in SPLITS if (folder / split).is_dir()}
    if not readers:
        raise EmbedError(
            f"{folder}: no data set, it has none of {', '.join(SPLITS)}: name a folder such as data/records/edge"
        )
    for reader in readers.values():
        if reader.kind != "examples":
            raise EmbedError(f"{reader.folder}: {features.UNWORDED}")
        if "text_features" in reader.manifest:
            raise EmbedError(f"{reader.folder}: has text features already: embed the data set that it was made from")
    return readers


def embed(reader: RecordReader, split: str, encoder: TextEncoder, writer: DatasetWriter, told: str) -> None:
    """Write one split with features; the pictures are copied as they are."""
    longest = {"text": 0, "reference_text": 0, "references": 0}
    with tqdm(total=len(reader), unit="example", desc=told) as progress:
        for start in range(0, len(reader), WINDOW):
            taken = {i: reader.read(i) for i in range(start, min(start + WINDOW, len(reader)))}
            texts = {i: _texts(reader, i, record) for i, record in taken.items()}
            encoded = encoder.features(text for words in texts.values() for text in words)
            for i, record in taken.items():
                rows = [encoded[text] for text in texts[i]]
                lengths = [len(part) for part in rows]
                found = lengths[0], max(lengths[1:], default=0), len(lengths) - 1
                longest = {name: max(most, one) for (name, most), one in zip(longest.items(), found, strict=True)}
                writer.split(split).write(records.with_features(record, rows))
                progress.update()
    fields: dict[str, Any] = {
        key: reader.manifest[key] for key in reader.manifest if key not in ("format", "split", "shards")
    }
    writer.split(split).finish(**fields | {"longest": longest, "text_features": encoder.about})


def _texts(reader: RecordReader, index: int, record: bytes) -> list[str]:
    """What the text encoder reads of a record: the instruction, then each reference. No picture is decoded."""
    try:
        instruction = records.decode(record, picture=lambda file: None).instruction
    except RecordError as error:
        raise RecordError(f"{reader.where(index)}: {error}") from error
    return [instruction.text, *(context_text(reference) for reference in instruction.references)]


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr."""
    chosen = make_parser().parse_args(arguments)
    return commands.guarded(lambda: run(chosen))


if __name__ == "__main__":
    sys.exit(main())
