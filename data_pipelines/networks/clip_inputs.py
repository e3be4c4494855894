"""What CLIP reads: texts as tokens, pictures as normalised squares, both as its Hugging Face folder says.

Radford et al. 2021; the embeddings of the paper's stage 1 (section 3).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from data_pipelines.networks.clip import ClipConfig, read_json
from data_pipelines.networks.transformer import WeightsError

_START, _END = "<|startoftext|>", "<|endoftext|>"
# The words of CLIP's byte-pair encoding: contractions, runs of letters, single digits, runs of other signs.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load_tokenizer(folder: Path, config: ClipConfig) -> Tokenizer:
    """The folder's tokenizer, which starts, cuts and ends each text as the model wants it. Raises WeightsError."""
    folder = Path(folder)
    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = _tokenizer_of_merges(folder)
    except Exception as error:  # the library raises bare Exceptions
        files = "tokenizer.json (or vocab.json and merges.txt)"
        raise WeightsError(f"{folder}: {files} cannot be read ({error}): download the CLIP folder again") from error
    if tokenizer.token_to_id(_END) is None:
        raise WeightsError(f"{folder}: the tokenizer does not know {_END}: this is not CLIP's")
    tokenizer.enable_truncation(config.text.max_position_embeddings)
    tokenizer.no_padding()
    return tokenizer


def end_token(tokenizer: Tokenizer) -> int:
    """The token that ends each text, and pads it."""
    return tokenizer.token_to_id(_END)


def _tokenizer_of_merges(folder: Path) -> Tokenizer:
    vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    word_end = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=_END, **word_end))
    tokenizer.add_special_tokens([_START, _END])
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, vocab[_START]), (_END, vocab[_END])]
    )
    return tokenizer


@dataclass(frozen=True)
class Preprocessor:
    """From a picture to what the image tower reads, by preprocessor_config.json."""

    size: int  # pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """[h, w, 3] uint8 -> [size, size, 3] float32: shorter side to `size` (bicubic), centre cut, normalised."""
        height, width = image.shape[:2]
        scale = self.size / min(height, width)
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture = picture.resize((int(width * scale + 1e-6), int(height * scale + 1e-6)), Image.Resampling.BICUBIC)
        left, top = (picture.width - self.size) // 2, (picture.height - self.size) // 2
        square = np.asarray(picture.crop((left, top, left + self.size, top + self.size)), np.float32)
        return (square / 255 - np.float32(self.mean)) / np.float32(self.std)


def load_preprocessor(folder: Path, config: ClipConfig) -> Preprocessor:
    """The folder's own scaling of pictures. Raises WeightsError when it does not fit the model."""
    found = read_json(folder, "preprocessor_config.json")
    try:
        crop = found["crop_size"]
        size = crop if isinstance(crop, int) else crop["height"]
        shorter = found["size"] if isinstance(found["size"], int) else found["size"]["shortest_edge"]
        mean, std = tuple(found["image_mean"]), tuple(found["image_std"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{folder}/preprocessor_config.json: lacks {error}: this is not CLIP's") from error
    if not size == shorter == config.image.image_size:
        wanted = config.image.image_size
        raise WeightsError(f"{folder}/preprocessor_config.json: size {shorter} cut to {size}, the model reads {wanted}")
    return Preprocessor(size, mean, std)
