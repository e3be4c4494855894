"""The T5 vocabulary and the tokens of markers."""

import hashlib

import pytest
import tokenizers

from data_pipelines.text import BUNDLED, TokenizerError, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def test_bundled_model_is_the_published_one():
    digest = "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() == digest


def test_known_encoding(tokenizer):
    text = "translate English to German: The house is wonderful."
    assert tokenizer.encode(text) == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 32128)


def test_marker_is_one_sentinel_counted_down_from_32099(tokenizer):
    text = "Draw [ref#1] in the style of [ref#2]."
    assert tokenizer.encode(text) == [19183, 32099, 16, 8, 869, 13, 32098, 5, 1]
    assert [tokenizer.marker_id(k) for k in (1, 2, 100)] == [32099, 32098, 32000]
    for number in (0, 101):
        with pytest.raises(ValueError, match="out of range"):
            tokenizer.marker_id(number)


def test_text_around_a_marker_is_encoded_as_without_it(tokenizer):
    before, after = tokenizer.encode("a red fox and")[:-1], tokenizer.encode("in the snow")
    assert tokenizer.encode("a red fox and [ref#7] in the snow") == [*before, 32093, *after]
    assert tokenizer.encode("[ref#1][ref#2]") == [32099, 32098, 1]
    assert tokenizer.encode("") == [1]


def test_the_cache_cannot_be_spoiled_by_its_reader(tokenizer):
    tokenizer.encode("a fox").clear()
    assert tokenizer.encode("a fox")


def _small_json(path, specials=("<pad>", "</s>", "<unk>"), extra=100):
    """A T5-like tokenizer.json of a few words; its own numbering puts the sentinels after the words."""
    vocab = [(name, 0.0) for name in (*specials, "▁", "▁draw", "▁a", "▁fox", ".")]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=2))
    model.normalizer = tokenizers.normalizers.Strip(left=False)  # as the real one does
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    model.add_special_tokens([f"<extra_id_{k}>" for k in reversed(range(extra))])
    model.save(str(path))
    return path


def test_user_tokenizer_json(tmp_path):
    tokenizer = load_tokenizer(_small_json(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("draw [ref#1] a fox.") == [4, 8 + 99, 5, 6, 7, 1]
    assert tokenizer.encode("[ref#100].") == [8, 7, 1]
    assert tokenizer.vocab_size == 128


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("missing.model", None, "no such tokenizer file"),
        ("words.txt", b"a", "is a .model or .json file"),
        ("broken.model", b"not a model", "not a SentencePiece model"),
        ("broken.json", b"{}", "not a tokenizer.json"),
    ],
)
def test_bad_tokenizer_file_is_named_in_one_line(tmp_path, name, content, complaint):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=complaint) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokenizer_json_without_sentinels_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="lacks <extra_id_50>"):
        load_tokenizer(_small_json(tmp_path / "tokenizer.json", extra=50))
