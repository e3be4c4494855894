"""Measures of what a picture must show, honest without CLIP: each reads only what a case says that it applies to.

They stand in for the paper's human raters (section 4.3). A score means little alone: the same measure of the real
target is its ceiling, and of a copied reference its floor. Distances between sets have their own names, for their
features are not those of published FID and KID.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.suites import Case
from data_pipelines.wanted import Wanted
from imagen_jax.evaluation.judge_style import class_of
from imagen_jax.evaluation.judges import Judges
from imagen_jax.evaluation.measure_pictures import depth_error, edge_f1, line_f1, mask_iou, psnr, ssim
from imagen_jax.evaluation.measure_sets import frechet, kid

SHOWN = 32  # of 255: a depth map is brighter wherever it shows more than half of a pixel
_MARKER = re.compile(r"\[ref#\d+\]\s*")

Score = Callable[[np.ndarray, Sequence[Case], Judges], np.ndarray]  # pictures [N, S, S, 3] uint8 -> [N]


@dataclass(frozen=True)
class Measure:
    """One number a picture.

    Attributes:
      applies: whether a case with this `wanted` has it.
      score: pictures, their cases and the judges -> [N]; all N apply. A nan: it cannot be said of this one.
      unit: 'dB', or '' for a number without one.
      text: what it says, in a line for people.
      needs: the judge or network without which it is left out: 'style', 'vgg' ...; '' none.
    """

    applies: Callable[[Wanted], bool]
    score: Score
    higher_is_better: bool
    unit: str
    text: str
    needs: str = ""


def _targets(cases: Sequence[Case]) -> np.ndarray:
    return np.stack([case.example.target for case in cases])


def _maps(cases: Sequence[Case]) -> np.ndarray:
    return np.stack([case.wanted.control_map for case in cases])


def _of_target(compare: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Score:
    return lambda pictures, cases, judges: compare(pictures, _targets(cases))


def _of_control(compare: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Score:
    return lambda pictures, cases, judges: compare(pictures, _maps(cases))


def _is_aligned(wanted: Wanted) -> bool:
    return wanted.aligned


def _is_control(*kinds: str) -> Callable[[Wanted], bool]:
    return lambda wanted: wanted.control in kinds


def _vgg(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    return judges.networks.vgg(pictures, _targets(cases))


def _silhouette(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    return mask_iou(pictures, np.where(_maps(cases) >= SHOWN, 255, 0).astype(np.uint8))


def _depth(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    return depth_error(judges.depth(pictures), _maps(cases))


def _style(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    return (judges.style(pictures) == np.array([class_of(case.wanted.style) for case in cases])).astype(float)


def _subject(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    looks = [judges.gallery.looks_shown(_given_away(case), case.wanted.style) for case in cases]
    return judges.gallery.find(pictures, [case.wanted.roots for case in cases], looks)


def _given_away(case: Case) -> list[np.ndarray]:
    """The pictures whose designs must not be in the gallery: what is shown, and what is asked for."""
    return [case.example.target, *(reference.image for reference in case.example.instruction.references)]


def _clip_i(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    embed = judges.networks.clip_image
    return (embed(list(pictures)) * embed(list(_targets(cases)))).sum(-1)


def _clip_t(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> np.ndarray:
    texts = [_MARKER.sub("", case.example.instruction.text) for case in cases]
    return (judges.networks.clip_image(list(pictures)) * judges.networks.clip_text(texts)).sum(-1)


def _always(wanted: Wanted) -> bool:
    return True


MEASURES: dict[str, Measure] = {
    "psnr": Measure(_is_aligned, _of_target(psnr), True, "dB", "likeness to the real target, pixel by pixel"),
    "ssim": Measure(_is_aligned, _of_target(ssim), True, "", "structural similarity to the real target"),
    "vgg_distance": Measure(
        _is_aligned, _vgg, False, "", "distance from the real target in the features of HED's VGG16", "vgg"
    ),
    "line_f1": Measure(
        _is_control("line"), _of_control(line_f1), True, "", "F1 of the picture's edges and the line drawing's, 1 px"
    ),
    "edge_f1": Measure(
        _is_control("edge"), _of_control(edge_f1), True, "", "F1 of the picture's edges and the edge map, 1 px"
    ),
    "mask_iou": Measure(
        _is_control("mask"), _of_control(mask_iou), True, "", "overlap of the picture's foreground with the mask"
    ),
    "silhouette_iou": Measure(
        _is_control("depth"), _silhouette, True, "", "overlap of the picture's foreground with what the depth map shows"
    ),
    "depth_error": Measure(
        _is_control("depth"), _depth, False, "", "error of the picture's estimated depth, scale and shift free", "depth"
    ),
    "style": Measure(
        lambda wanted: bool(wanted.style), _style, True, "", "share that the style judge takes for the style", "style"
    ),
    "subject": Measure(
        lambda wanted: bool(wanted.roots), _subject, True, "",
        "recall@1 of the subjects among real test pictures in other designs", "subject",
    ),
    "clip_i": Measure(_always, _clip_i, True, "", "cosine of picture and real target in the given CLIP", "clip_image"),
    "clip_t": Measure(_always, _clip_t, True, "", "cosine of picture and instruction in the given CLIP", "clip_text"),
}  # fmt: skip


def left_out(judges: Judges) -> dict[str, str]:
    """The measures that cannot be had -> why, in a line."""
    missing = {**judges.missing, **judges.networks.missing}
    return {name: missing[measure.needs] for name, measure in MEASURES.items() if measure.needs in missing}


def scores_of(pictures: np.ndarray, cases: Sequence[Case], judges: Judges) -> dict[str, np.ndarray]:
    """Every measure that can be had -> a score for each picture [N, S, S, 3] uint8, nan where it does not apply."""
    found = {}
    for name in MEASURES.keys() - left_out(judges).keys():
        measure, scores = MEASURES[name], np.full(len(cases), np.nan)
        chosen = [i for i, case in enumerate(cases) if measure.applies(case.wanted)]
        if chosen:
            scores[chosen] = measure.score(pictures[chosen], [cases[i] for i in chosen], judges)
        found[name] = scores
    return {name: found[name] for name in MEASURES if name in found}


SET_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"frechet": frechet, "kid": kid}


def set_scores_of(sets: Mapping[str, np.ndarray], targets: np.ndarray, judges: Judges) -> dict[str, dict[str, float]]:
    """Distances of each arm's set of pictures from the targets: {measure: {arm: distance}}; {} without the network.

    The measures are `efficientnet_frechet` and `efficientnet_kid`. Raises SetError for sets of fewer than two.
    """
    embed = judges.networks.efficientnet
    if embed is None:
        return {}
    features, wanted = {arm: embed(pictures) for arm, pictures in sets.items()}, embed(targets)
    return {
        f"efficientnet_{name}": {arm: distance(found, wanted) for arm, found in features.items()}
        for name, distance in SET_MEASURES.items()
    }
