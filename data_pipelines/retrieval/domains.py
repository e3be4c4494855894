"""Image-text matching into domains (paper section 3: art, products, animals, scenery ...): zero-shot, by prompts.

A row belongs to the domain of the prompt nearest to it, if that is near enough; what is near to none is left out. The
vectors of rows and prompts come from one embedder: CLIP's pictures and prompts, or MiniLM's captions and prompts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from data_pipelines.retrieval.clustering import unit

DOMAINS: Mapping[str, Sequence[str]] = {
    "people": (
        "a person", "a man or a woman", "a face", "a person at work", "someone doing a sport", "a hand", "a family",
    ),
    "animals": ("an animal", "a pet", "a wild animal", "a bird", "a fish", "an insect"),
    "plants": ("a plant", "a flower", "a tree"),
    "food": ("food", "a meal on a plate", "fruit", "vegetables", "a drink", "dessert"),
    "scenery": ("a landscape", "a building", "a city", "the sky and the weather", "the sea", "a room"),
    "vehicles": ("a vehicle", "a car", "a train", "a ship", "an aeroplane"),
    "products": ("a product", "a tool", "clothes", "furniture", "an electronic device", "a toy", "a household object"),
    "art": ("a painting", "a drawing", "a sculpture", "a musical instrument", "a work of art"),
    "events": ("a party", "a sports event", "a festival", "a celebration"),
    "symbols": ("a symbol", "a sign", "a logo", "an emotion", "a shape", "a clock"),
}  # fmt: skip


class DomainError(ValueError):
    """A file of domains that cannot be used; one line with the file and the mend."""


def load_domains(path: Path | None, embed: Callable[[Sequence[str]], np.ndarray]) -> dict[str, np.ndarray]:
    """Domain -> its prompts' vectors [n, D], of unit length.

    path: None for DOMAINS; a .json of {domain: [prompt, ...]}, embedded by `embed`; or a .npz of {domain: [n, D]} whose
      vectors are there already. Raises DomainError, one line, for anything else.
    """
    if path is not None and path.suffix == ".npz":
        return {name: unit(vectors) for name, vectors in _read_vectors(path).items()}
    prompts = DOMAINS if path is None else _read_prompts(path)
    vectors = unit(embed([prompt for group in prompts.values() for prompt in group]))
    ends = np.cumsum([len(group) for group in prompts.values()])
    return dict(zip(prompts, np.split(vectors, ends[:-1]), strict=True))


def match(vectors: np.ndarray, domains: Mapping[str, np.ndarray]) -> list[tuple[str, float]]:
    """The nearest domain of each row and the cosine of its nearest prompt.

    vectors: [N, D]. Of equal domains the first counts.
    """
    cosines = np.stack([(unit(vectors) @ prompts.T).max(axis=1) for prompts in domains.values()])  # [domains, N]
    names = list(domains)
    return [(names[best], float(cosines[best, i])) for i, best in enumerate(cosines.argmax(axis=0))]


def _read_prompts(path: Path) -> dict[str, list[str]]:
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
        whole = prompts and all(group and all(isinstance(text, str) for text in group) for group in prompts.values())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DomainError(f"{path}: unreadable ({error}): write {{domain: [prompt, ...]}} as JSON, or a .npz") from None
    if not whole:
        raise DomainError(f"{path}: a domain without prompts: write {{domain: [prompt, ...]}}")
    return prompts


def _read_vectors(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            domains = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DomainError(f"{path}: unreadable ({error}): write {{domain: vectors [n, D]}} with numpy.savez") from None
    if not domains or len({vectors.shape[1:] for vectors in domains.values()}) != 1 or not _are_tables(domains):
        raise DomainError(f"{path}: needs a table of vectors [n, D] for each domain, all of one D")
    return domains


def _are_tables(domains: Mapping[str, np.ndarray]) -> bool:
    return all(vectors.ndim == 2 and len(vectors) for vectors in domains.values())
