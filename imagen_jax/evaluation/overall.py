"""One score a picture for all that its instruction asks for, so that suites can be averaged and compared.

The paper's Overall (section 4.3, after ImagenHub) is the geometric mean of two ratings of 0..1. Here it is that of the
measures that apply, each in 0..1: like there, one condition missed is no success, however well the others are met.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.suites import Case
from data_pipelines.wanted import Wanted

OVERALL = "overall"
TEXT = "geometric mean of what is asked for: subject, style, control, or the target itself; each in 0..1"
CONTROL = {"line": "line_f1", "edge": "edge_f1", "mask": "mask_iou"}  # Wanted.control -> its measure; depth apart


def overall(scores: Mapping[str, np.ndarray], cases: Sequence[Case]) -> np.ndarray:
    """[N] in 0..1 from measure -> [N]; nan where nothing of what is asked for is measured."""
    parts = (_known(scores, i, case.wanted) for i, case in enumerate(cases))
    return np.array([np.prod(known) ** (1 / len(known)) if len(known) else np.nan for known in parts])


def share(scores: Mapping[str, np.ndarray], cases: Sequence[Case]) -> np.ndarray:
    """[N] in 0..1: the plain mean of the same measures, which tells apart what misses one condition or all."""
    parts = (_known(scores, i, case.wanted) for i, case in enumerate(cases))
    return np.array([known.mean() if len(known) else np.nan for known in parts])


def _known(scores: Mapping[str, np.ndarray], i: int, wanted: Wanted) -> np.ndarray:
    return np.clip([part for part in _parts(scores, i, wanted) if np.isfinite(part)], 0.0, 1.0)


def _parts(scores: Mapping[str, np.ndarray], i: int, wanted: Wanted) -> Iterator[float]:
    asked = {"subject": bool(wanted.roots), "style": bool(wanted.style), CONTROL.get(wanted.control): True}
    asked["ssim"] = wanted.aligned and not wanted.control  # an edit, a transfer: only the target tells what is right
    for name, applies in asked.items():
        if applies and name in scores:
            yield scores[name][i]
    if wanted.control == "depth" and "depth_error" in scores:
        plane = wanted.control_map[..., 0] / 255
        yield 1 - scores["depth_error"][i] / max(plane[plane > 0].std(), 1e-6)  # a flat picture explains nothing
