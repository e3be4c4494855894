"""Words from anywhere made fit for an instruction: captions of the web are long, and some look like markers.

The paper's captions come from WebLI and need the same care; it does not say how (section 3.1). Here a text is cut at
the end of a word, and only where no phrasing of its task is short enough for the whole of it.
"""

import dataclasses
import re
from collections.abc import Callable

from data_pipelines import templates
from data_pipelines.instruction import Reference, context_text
from data_pipelines.wording import Draft, Example, WordingError, word

_BRACKET = re.compile(r"\[\s*(ref(?![a-z])[^\[\]]*)\]?", re.IGNORECASE)
_NUMBER = re.compile(r"\b(ref)\s*#\s*(?=[0-9])", re.IGNORECASE)
_LOOSE_END = " .,;:-(&/"


def plain(text: str) -> str:
    """`text` on one line, with nothing in it that reads like a marker: 'Ref #12' becomes 'Ref 12'."""
    before = None
    while text != before:  # what is left of '[[ref#1]]' reads like a marker again
        before, text = text, " ".join(_NUMBER.sub(r"\1 ", _BRACKET.sub(r"\1", text)).split())
    return text


def shorten(text: str, fits: Callable[[str], bool]) -> str:
    """`text`, or its longest beginning of whole words that `fits`.

    Where not even the first words do (a language without spaces, an address), they are cut; '' is the last resort.
    """
    if fits(text):
        return text
    words = text.split()
    cut = _join(words[: _most(len(words) - 1, lambda n: fits(_join(words[:n])))])
    if cut or not words:  # of words such as '-' nothing is left
        return cut
    return text[: _most(len(text) - 1, lambda n: fits(text[:n]))].rstrip()


def word_short(task: str, draft: Draft, first: int, fits: Callable[[str], bool]) -> tuple[Example, bool]:
    """`wording.word`, with the caption or change cut where no phrasing takes the whole of it; and whether it was cut.

    Raises WordingError where not even a letter of it fits.
    """
    field = "change" if draft.change else "caption"
    whole = getattr(draft, field)
    if fits(whole):  # or else no phrasing can, and the search through all of them is spared
        try:
            return word(task, draft, first, fits), False
        except WordingError:
            pass
    needed = draft.references[: templates.least_references(task)]
    phrases = [context_text(Reference(f"[ref#{k}]", text, shown)) for k, (text, shown) in enumerate(needed, start=1)]

    def phrasing_fits(cut: str) -> bool:
        return bool(cut) and fits(templates.render(task, first, **{field: cut, "references": phrases}))

    cut = shorten(whole, phrasing_fits)
    if not cut:
        raise WordingError(f"no phrasing of {task} is short enough for '{whole}'")
    return word(task, dataclasses.replace(draft, **{field: cut}, references=needed), first, fits), True


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `count` that fits, 0 where none does; whatever is less than one that fits, fits."""
    least = 0
    while least < count:
        middle = (least + count + 1) // 2
        if fits(middle):
            least = middle
        else:
            count = middle - 1
    return least


def _join(words: list[str]) -> str:
    return " ".join(words).rstrip(_LOOSE_END)
