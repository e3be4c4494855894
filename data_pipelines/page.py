"""Examples as one self-contained HTML page: what data_pipelines/browse.py shows, without scripts or outside resources.

Text and pictures come from the same `instruction.pack` as in training (paper section 3), so what the model would not
see, the end of a long text or the border of a wide picture, is marked or missing here too. All text is escaped.
"""

import base64
import html
import re
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.images import encode_image, fit_image
from data_pipelines.instruction import InstructionError, Layout, Reference, context_text, pack
from data_pipelines.text import MARKER, Tokenizer
from data_pipelines.wording import Example

COLOURS = 6  # of markers, by number; the style sheet names as many
LOSSLESS = 128  # pixels up to which a picture is embedded as it is; larger photographs as JPEG of high quality
LEAST_SHOWN = 144  # CSS pixels a picture is enlarged to, by a whole factor


@dataclass(frozen=True)
class Shown:
    """An example and what is known of it besides; where it cannot be read, why not."""

    where: str
    example: Example | None = None
    error: str = ""
    key: str = ""
    group: str = ""
    source: str = ""  # title and licence of its data set


def make_page(title: str, facts: dict[str, str], shown: Sequence[Shown], layout: Layout, tokenizer: Tokenizer) -> str:
    """The page: a heading, `facts` about the whole, and a card an example."""
    cards = "\n".join(_card(number, each, layout, tokenizer) for number, each in enumerate(shown, start=1))
    return fill_page(title, facts, cards)


def fill_page(title: str, facts: dict[str, str], body: str, style: str = "") -> str:
    """A self-contained page in the style of all pages here; `body` is HTML, `style` more CSS, the rest is escaped."""
    told = "".join(f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>" for name, value in facts.items())
    return _PAGE.format(title=_escape(title), facts=told, body=body, style=_STYLE + style)


def _card(number: int, shown: Shown, layout: Layout, tokenizer: Tokenizer) -> str:
    example = shown.example
    known = {"task": example.task if example else "", "key": shown.key, "group": shown.group, "source": shown.source}
    told = "".join(f'<span class="{name}">{_escape(value)}</span>' for name, value in known.items() if value)
    head = f'<header><a href="#{number}">{number}</a>{told}<code>{_escape(shown.where)}</code></header>'
    body = _body(example, layout, tokenizer) if example else _error(shown.error)
    return f'<article id="{number}">{head}{body}</article>'


def _body(example: Example, layout: Layout, tokenizer: Tokenizer) -> str:
    instruction, error = example.instruction, ""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a text that is cut: shown below
            _, context = pack(instruction, tokenizer, layout)
        pictures = list(context.images[: len(instruction.references)])
    except InstructionError as wrong:
        error = _error(f"the model cannot take it: {str(wrong).removeprefix(instruction.source + ': ')}")
        pictures = [fit_image(reference.image, layout.image_size) for reference in instruction.references]
    figures = [
        _reference(reference, picture, layout, tokenizer)
        for reference, picture in zip(instruction.references, pictures, strict=True)
    ]
    if example.target is not None:
        picture = fit_image(example.target, layout.image_size)
        figures.append(
            _figure(picture, "target", f"<b>target</b>{_from_size(example.target, layout.image_size)}", "target")
        )
    text = f'<p class="text">{_words(instruction.text, tokenizer, layout.text_length)}</p>'
    return f'{error}{text}<div class="pictures">{"".join(figures)}</div>'


def _reference(reference: Reference, picture: np.ndarray, layout: Layout, tokenizer: Tokenizer) -> str:
    text = context_text(reference)
    words = _words(text, tokenizer, layout.reference_text_length) + _from_size(reference.image, layout.image_size)
    return _figure(picture, text, words, f"reference {_colour(reference.marker)}")


def _figure(picture: np.ndarray, name: str, caption: str, kind: str) -> str:
    times = -(-LEAST_SHOWN // len(picture))
    side, sharp = len(picture) * times, ' class="sharp"' if times > 1 else ""
    file = encode_image(picture, "png" if len(picture) <= LOSSLESS else "auto")
    form = "png" if file.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(file).decode()
    source = f'src="data:image/{form};base64,{data}" alt="{_escape(name)}" width="{side}" height="{side}"'
    image = f"<img{sharp} {source}>"
    return f'<figure class="{kind}" style="width:{min(side, 256)}px">{image}<figcaption>{caption}</figcaption></figure>'


def _words(text: str, tokenizer: Tokenizer, length: int) -> str:
    """The text with its markers coloured, what is cut off struck through, and its tokens counted."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    fitting = bisect_right(ends, length, key=lambda end: len(tokenizer.encode(text[:end])))
    kept = text if fitting == len(ends) else text[: ends[fitting - 1] if fitting else 0]
    lost = f"<del>{_coloured(text[len(kept) :])}</del>" if len(kept) < len(text) else ""
    tokens = len(tokenizer.encode(text))
    over = f" <strong>{tokens - length} cut</strong>" if tokens > length else ""
    return f'{_coloured(kept)}{lost} <small title="tokens of {length}">{tokens}/{length} tokens{over}</small>'


def _coloured(text: str) -> str:
    parts, last = [], 0
    for match in MARKER.finditer(text):
        parts += [_escape(text[last : match.start()]), f'<mark class="{_colour(match[0])}">{match[0]}</mark>']
        last = match.end()
    return "".join([*parts, _escape(text[last:])])


def _colour(marker: str) -> str:
    match = MARKER.fullmatch(marker)
    return f"m{(int(match[1]) - 1) % COLOURS + 1}" if match else "m1"


def _from_size(picture: np.ndarray, size: int) -> str:
    height, width = picture.shape[:2]
    return "" if height == width == size else f" <small>from {width} x {height}</small>"


def _error(message: str) -> str:
    return f'<p class="error">{_escape(message)}</p>'


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<dl>{facts}</dl>
<main>
{body}
</main>
</body>
</html>
"""

LIGHT = """:root { color-scheme: light dark; --ground: #f6f6f4; --card: #fff; --ink: #1c1d1f; --soft: #6b6f76;
  --line: #dfe0e3; --bad: #b3261e; --m1: #0b62c4; --m2: #b0480a; --m3: #0f7a4d; --m4: #8a2fb0; --m5: #a3174f;
  --m6: #5f6b00; }
"""
_STYLE = (
    LIGHT
    + """\
@media (prefers-color-scheme: dark) {
  :root { --ground: #141517; --card: #1e2023; --ink: #e9e9ea; --soft: #9aa0a8; --line: #33363b; --bad: #ff8a80;
    --m1: #7ab5ff; --m2: #ffae70; --m3: #6fdca6; --m4: #d9a0f5; --m5: #ff94bd; --m6: #cbd75a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 52rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: .5rem 0; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1rem; font-size: .875rem; }
dl div { display: flex; gap: .4rem; max-width: 100%; }
dt, small, header code { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  margin: 0 0 1rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .7rem; font-size: .8125rem; }
header a { color: var(--soft); text-decoration: none; }
header code { overflow-wrap: anywhere; }
header .task { font-weight: 600; border: 1px solid var(--line); border-radius: 1rem; padding: 0 .6rem; }
header .key::before { content: "key "; color: var(--soft); }
header .group::before { content: "group "; color: var(--soft); }
.text { font-size: 1.05rem; margin: .6rem 0 .8rem; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
img { display: block; width: 100%; height: auto; border: 3px solid var(--line); border-radius: .3rem;
  background: #fff; }
.sharp { image-rendering: pixelated; }
figcaption { font-size: .875rem; margin-top: .25rem; overflow-wrap: anywhere; }
.target img { border-color: var(--ink); }
mark { background: none; font-weight: 700; }
.m1 { color: var(--m1); } .m2 { color: var(--m2); } .m3 { color: var(--m3); }
.m4 { color: var(--m4); } .m5 { color: var(--m5); } .m6 { color: var(--m6); }
.reference { color: var(--ink); }
.m1 img { border-color: var(--m1); } .m2 img { border-color: var(--m2); } .m3 img { border-color: var(--m3); }
.m4 img { border-color: var(--m4); } .m5 img { border-color: var(--m5); } .m6 img { border-color: var(--m6); }
del { color: var(--bad); }
small strong, .error { color: var(--bad); }
small { font-size: .75rem; white-space: nowrap; }
@media (max-width: 40rem) { .target { margin-left: 0; } figure { max-width: 47%; } article { padding: .7rem; } }
"""
)
