"""A corpus made for tests: pictures whose red, green and blue say where they were moved and what lies behind them."""

import numpy as np

from data_pipelines.corpus import Corpus, Picture
from data_pipelines.examples import ExampleMaker
from data_pipelines.instruction import Layout
from data_pipelines.loader import MemoryLoader
from data_pipelines.mixture import Mixture
from data_pipelines.pairs import SIDES
from data_pipelines.text import load_tokenizer

SIZE = 16
LAYOUT = Layout(image_size=SIZE, max_references=3, text_length=64, reference_text_length=24)
SUBJECTS = (  # subject, root, split, name, keywords, subgroup
    ("1f34e", "1f34e", "train", "red apple", ("apple", "fruit"), "food-fruit"),
    ("1f34f", "1f34e", "train", "green apple", ("apple", "fruit"), "food-fruit"),
    ("1f34b", "1f34b", "train", "lemon", ("citrus", "fruit"), "food-fruit"),
    ("1f431", "1f431", "train", "cat face", ("cat", "pet"), "animal-mammal"),
    ("1f436", "1f436", "train", "dog face", ("dog", "pet"), "animal-mammal"),
    ("1f44b", "1f44b", "train", "waving hand", ("hand",), "hand-fingers-open"),
    ("1f44b-1f3fb", "1f44b", "train", "waving hand: light skin tone", ("hand",), "hand-fingers-open"),
    ("1f44b-1f3ff", "1f44b", "train", "waving hand: dark skin tone", ("hand",), "hand-fingers-open"),
    ("1f550", "1f550", "train", "one o'clock", ("clock",), "time"),
    ("1f551", "1f550", "train", "two o'clock", ("clock",), "time"),
    ("1f353", "1f353", "test", "strawberry", ("fruit",), "food-fruit"),
    ("1f98a", "1f98a", "test", "fox", ("pet",), "animal-mammal"),
)
COLOUR_STYLES = ("fluent_3d", "fluent_flat", "noto", "emojione", "openmoji", "fxemoji")
LINE_STYLES = ("openmoji_line", "emojione_mono")


def make_corpus(split: str = "train") -> Corpus:
    """Every subject in every style. All pictures of a subject have one alpha, differ in red, and have no green."""
    rng = np.random.default_rng(0)
    pictures, images = [], []
    for subject, root, own, name, keywords, subgroup in SUBJECTS:
        alpha = np.pad(rng.integers(0, 256, (SIZE - 4, SIZE - 4), np.uint8), 2)
        for number, style in enumerate(COLOUR_STYLES + LINE_STYLES):
            shown = "test" if style == "fxemoji" else own
            if shown != split:
                continue
            red = 0 if style in LINE_STYLES else 30 * (number + 1)
            image = np.zeros((SIZE, SIZE, 4), np.uint8)
            image[..., 0], image[..., 2], image[..., 3] = red, len(pictures), alpha
            pictures.append(Picture(subject, root, style, shown, name, keywords, "group", subgroup))
            images.append(image)
    return Corpus(np.stack(images), tuple(pictures), {})


MODELS = (("scopia-chair", "furniture-chair", "armchair"), ("scopia-table", "furniture-table", "table"))


def make_furniture() -> Corpus:
    """Two models from all sides. Red is the side, green (of views) and all channels (of depths) differ by model."""
    rng = np.random.default_rng(1)
    pictures, images = [], []
    for number, (subject, root, name) in enumerate(MODELS):
        for side in range(len(SIDES)):
            alpha = np.pad(rng.integers(0, 2, (SIZE - 4, SIZE - 4), np.uint8) * 255, 2)
            for style, colour in ((f"view_{side}", (20 * side, 99, number)), (f"depth_{side}", (100 + 20 * side,) * 3)):
                image = np.concatenate([np.full((SIZE, SIZE, 3), colour, np.uint8), alpha[..., None]], axis=-1)
                pictures.append(Picture(subject, root, style, "train", name, ("seat",), "living-room", "living-room"))
                images.append(image)
    return Corpus(np.stack(images), tuple(pictures), {})


def join(*corpora: Corpus) -> Corpus:
    images = np.concatenate([corpus.images for corpus in corpora])
    return Corpus(images, tuple(picture for corpus in corpora for picture in corpus.pictures), {})


def make_maker(*tasks: str, split: str = "train", corpus: Corpus | None = None, **changes) -> ExampleMaker:
    options = dict(max_references=3, fits=lambda text: True, augment=split == "train", where="the test corpus")
    return ExampleMaker(corpus or make_corpus(split), tasks, **(options | changes))


def make_memory_loader(*tasks: str, seed: int = 0, process: tuple[int, int] = (0, 1)) -> MemoryLoader:
    mixture = Mixture({task: 1 / len(tasks) for task in tasks}, seed)
    common = dict(mixture=mixture, tokenizer=load_tokenizer(), layout=LAYOUT, process=process)
    return MemoryLoader(make_maker(*tasks), seed, **common)
