"""Index tables over a corpus: which pictures are real pairs for which task (paper Table 1; the pairs are ours).

A table row names pictures by their number. The pictures given are those of one split, so no pair crosses splits. The
four Fluent renderings are one design by one house, aligned pixel by pixel; across houses a subject is drawn anew. The
views of a furniture model are one thing from eight sides: pairs for subject and depth, but no styles of drawing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.corpus import Picture
from data_pipelines.edits import TONE, find_edits, is_toned


@dataclass(frozen=True)
class Style:
    """How pictures of one style key look and who drew them."""

    house: str
    phrase: str  # how a text names the style
    drawing: bool = False  # black lines or areas only
    view: bool = False  # one side of a model, which must not be mirrored
    depth: bool = False  # no picture to draw, but a map that tells how far away one is


STYLES = {
    "fluent_3d": Style("fluent", "3D render"),
    "fluent_color": Style("fluent", "colour gradient icon"),
    "fluent_flat": Style("fluent", "flat icon"),
    "fluent_hc": Style("fluent", "black and white silhouette", drawing=True),
    "noto": Style("noto", "soft shaded cartoon"),
    "noto_blob": Style("noto_blob", "rounded blob cartoon"),
    "twemoji": Style("twemoji", "bold minimal sticker"),
    "emojione": Style("emojione", "glossy clip art"),
    "emojione_mono": Style("emojione", "black line icon", drawing=True),
    "openmoji": Style("openmoji", "black outlined colour sketch"),
    "openmoji_line": Style("openmoji", "thin black outline", drawing=True),
    "fxemoji": Style("fxemoji", "paper cut illustration"),
}
SIDES = ("front", "front right", "right", "back right", "back", "back left", "left", "front left")  # to the viewer
STYLES |= {f"view_{k}": Style("furniture", f"3D model seen from the {side}", view=True) for k, side in enumerate(SIDES)}
STYLES |= {f"depth_{k}": Style("furniture", "depth map", depth=True) for k in range(len(SIDES))}
HELD_OUT_STYLE = "fxemoji"  # never named in a text: it can only be known from a picture
HELD_OUT_TRANSFER_TARGET = "emojione"
LINE_PAIRS = (("openmoji_line", "openmoji"), ("emojione_mono", "emojione"))  # aligned to the pixel
LOOSE_LINE_PAIRS = (("fluent_hc", "fluent_flat"),)  # for a corpus without the two above
DEPTH_PAIRS = tuple((f"depth_{k}", f"view_{k}") for k in range(len(SIDES)))
ALIGNED_TRANSFER = 0.5  # share of style transfers whose content picture is aligned with the target
TONED_WEIGHT = 1 / 5  # the five skin tones of one drawing count as one drawing
TONE_EDITS = 0.2  # at most, of all edits


class Table:
    """Weighted rows of picture numbers.

    draw() takes a uniform number in [0, 1), so that the caller owns all randomness.
    """

    def __init__(self, rows: Sequence, weights: Sequence[float]):
        self.rows = list(rows)
        self.weights = np.asarray(weights, np.float64)
        self._ends = np.cumsum(self.weights)

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, uniform: float):
        return self.rows[int(np.searchsorted(self._ends, uniform * self._ends[-1], side="right"))]

    def keep(self, accepted: Callable[[tuple], object]) -> "Table":
        """The rows that are `accepted`, with their weights."""
        kept = np.array([bool(accepted(row)) for row in self.rows], bool)
        return Table([row for row, is_kept in zip(self.rows, kept, strict=True) if is_kept], self.weights[kept])

    def order(self, uniforms: np.ndarray, *groups: Callable[[tuple], Hashable]) -> list[int]:
        """Every row's number once, for `uniforms` [rows] in [0, 1): a weighted draw without replacement.

        Then spread by each of the groups, so that none of the last comes again before all have come, and inside it none
        of the one before. The draw is by exponential clocks (Efraimidis and Spirakis 2006).
        """
        order = np.argsort(-np.log1p(-uniforms) / self.weights, kind="stable").tolist()
        for group in groups:
            order = _spread(order, [group(self.rows[number]) for number in order])
        return order


def _spread(items: list[int], keys: list[Hashable]) -> list[int]:
    """The first of each key, then the second of each, and so on, otherwise in their order."""
    seen: Counter = Counter()
    turns = []
    for key in keys:
        turns.append(seen[key])
        seen[key] += 1
    return [items[i] for i in np.argsort(turns, kind="stable")]


def target_of(row: tuple) -> int:
    """The picture to draw: the second of a pair, else the only one."""
    return row[1] if len(row) > 1 and isinstance(row[1], int) else row[0]


class Pairs:
    """The pictures of one split, by subject and by style, and the pairs they make."""

    def __init__(self, pictures: Sequence[Picture]):
        self.pictures = pictures
        self.ids = range(len(pictures))
        self.designs: dict[str, dict[str, int]] = defaultdict(dict)  # subject -> style -> picture
        by_style = defaultdict(list)
        for i, picture in enumerate(pictures):
            self.designs[picture.subject][picture.style] = i
            by_style[picture.style].append(i)
        self.by_style = {style: np.array(ids) for style, ids in by_style.items()}
        self._roots = {style: {pictures[i].root for i in ids} for style, ids in by_style.items()}

    def named(self, keep: Callable[[int], bool] = lambda picture: True) -> Table:
        """(target): every picture whose style may be named, and that `keep` accepts."""
        return self._table((i,) for i in self.ids if self._may_be_named(i) and keep(i))

    def coloured(self) -> Table:
        """(target): as named(), without black drawings."""
        return self._table((i,) for i in self._coloured(self.ids) if self._may_be_named(i))

    def lines(self, differ: Callable[[int, int], bool] = lambda source, target: True) -> Table:
        """(line drawing, coloured target) of the same house, where the two `differ`: some subjects have no colour."""
        return self._table(row for row in self._lines() if differ(*row))

    def lines_elsewhere(self) -> Table:
        """(line drawing, target): as lines(), but another house drew the target, in a style shown by others too."""
        rows = []
        for source in dict.fromkeys(source for source, _ in self._lines()):
            for i in self._drawn(self.designs[self.pictures[source].subject].values()):
                if self.house(i) != self.house(source) and self._shown_elsewhere(i):
                    rows.append((source, i))
        return self._table(rows)

    def depths(self) -> Table:
        """(depth map, target) of the same view."""
        return self._table(self._same_subject(DEPTH_PAIRS))

    def subjects(self) -> Table:
        """(target, (pictures of the same subject, one tuple a look other than the target's))."""
        named = (
            i for design in self.designs.values() for i in self._coloured(design.values()) if self._may_be_named(i)
        )
        rows = ((i, self.other_looks(i)) for i in named)
        return self._table(row for row in rows if row[1])

    def other_looks(self, picture: int) -> tuple[tuple[int, ...], ...]:
        """Coloured pictures of the same subject, one tuple a look other than the picture's own."""
        looks = defaultdict(list)
        for i in self._coloured(self.designs[self.pictures[picture].subject].values()):
            looks[self._look(i)].append(i)
        looks.pop(self._look(picture), None)
        return tuple(tuple(ids) for ids in looks.values())

    def styled(self) -> Table:
        """(target): coloured drawings in a style that has another subject to show it."""
        return self._table((i,) for i in self._drawn(self.ids) if self._shown_elsewhere(i))

    def transfers(self) -> Table:
        """(content, target): one subject in two styles, the target's style shown by another subject too."""
        rows = []
        for design in self.designs.values():
            drawn = self._drawn(design.values())
            targets = [i for i in drawn if self.pictures[i].style != HELD_OUT_TRANSFER_TARGET]
            rows += [(j, i) for i in targets if self._shown_elsewhere(i) for j in drawn if j != i]
        return self._transfer_table(rows)

    def edits(self) -> Table:
        """(content, target, change) of one style; skin tone edits at most TONE_EDITS of all."""
        pictures = (picture for picture in self.pictures if not self._is_model(picture))
        subjects = {picture.subject: picture for picture in pictures}
        rows, kinds = [], []
        for edit in find_edits((p.subject, p.name, p.subgroup) for p in subjects.values()):
            before, after = self.designs[edit.source], self.designs[edit.target]
            for style in self._coloured_styles(before.keys() & after.keys()):
                rows.append((before[style], after[style], edit.change))
                kinds.append(edit.kind)
        tones = np.array([kind == TONE for kind in kinds], bool)
        return Table(rows, _share(tones, TONE_EDITS))

    def drawn_styles(self) -> list[str]:
        """The styles of coloured drawings."""
        return [style for style in sorted(self.by_style) if self._drawn(self.by_style[style][:1])]

    def house(self, picture: int) -> str:
        return STYLES[self.pictures[picture].style].house

    def _look(self, picture: int) -> str:
        """What two pictures of a subject share that are no two looks at it: the house, of a model the side."""
        shown = self.pictures[picture]
        return shown.style if self._is_model(shown) else self.house(picture)

    def _may_be_named(self, picture: int) -> bool:
        style = self.pictures[picture].style
        return style != HELD_OUT_STYLE and not STYLES[style].depth

    def _coloured(self, ids: Iterable[int]) -> list[int]:
        styles = [(i, STYLES[self.pictures[i].style]) for i in ids]
        return [i for i, style in styles if not (style.drawing or style.depth)]

    def _drawn(self, ids: Iterable[int]) -> list[int]:
        """The coloured pictures that somebody drew in a style of their own, which views of models are not."""
        return [i for i in self._coloured(ids) if not self._is_model(self.pictures[i])]

    @staticmethod
    def _is_model(picture: Picture) -> bool:
        return STYLES[picture.style].view or STYLES[picture.style].depth

    def _lines(self) -> list[tuple[int, int]]:
        return self._same_subject(LINE_PAIRS) or self._same_subject(LOOSE_LINE_PAIRS)

    def _coloured_styles(self, styles: Iterable[str]) -> list[str]:
        return sorted(style for style in styles if not STYLES[style].drawing)

    def _same_subject(self, style_pairs) -> list[tuple[int, int]]:
        return [
            (design[source], design[target])
            for design in self.designs.values()
            for source, target in style_pairs
            if source in design and target in design
        ]

    def _shown_elsewhere(self, picture: int) -> bool:
        return len(self._roots[self.pictures[picture].style]) > 1

    def _weights(self, targets: Iterable[int]) -> np.ndarray:
        return np.array([TONED_WEIGHT if is_toned(self.pictures[i].subject) else 1.0 for i in targets])

    def _table(self, rows: Iterable[tuple]) -> Table:
        """Rows weighted by their target."""
        rows = list(rows)
        return Table(rows, self._weights(map(target_of, rows)))

    def _transfer_table(self, rows: list[tuple[int, int]]) -> Table:
        semantic = np.array([self.house(content) != self.house(target) for content, target in rows], bool)
        weights = self._weights(target for _, target in rows)
        for kind, share in ((semantic, 1 - ALIGNED_TRANSFER), (~semantic, ALIGNED_TRANSFER)):
            if 0 < kind.sum() < len(rows):
                weights[kind] *= share / weights[kind].sum()
        return Table(rows, weights)


def _share(capped: np.ndarray, cap: float) -> np.ndarray:
    """Weights 1, lowered where `capped` so that those rows together get at most `cap`."""
    weights, rest = np.ones(len(capped)), np.count_nonzero(~capped)
    if capped.any() and rest:
        weights[capped] = min(1.0, cap / (1 - cap) * rest / capped.sum())
    return weights
