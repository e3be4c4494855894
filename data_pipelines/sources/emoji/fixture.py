"""Makes the bundled fixture, a small corpus for demo and tests: `python -m data_pipelines.sources.emoji.fixture`.

Only sets under MIT or Apache-2.0 go in. Subjects keep the split they have in the full corpus, so what the paper
(section 5) calls unseen subjects stay unseen from the demo to the full training.
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_pipelines.corpus import FIXTURE
from data_pipelines.sources.emoji import styles
from data_pipelines.sources.emoji.build import build, licences
from data_pipelines.sources.emoji.names import Subject
from data_pipelines.sources.emoji.notice import notice
from data_pipelines.sources.emoji.render import Drawing
from data_pipelines.sources.emoji.split import ALWAYS_TRAIN, has_tone, roots, split_roots
from data_pipelines.sources.whole import print_counts, stable_hash, write_whole

TILE = 64  # px
STYLES = ("fluent_3d", "fluent_color", "fluent_flat", "fluent_hc", "noto", "noto_blob")
PLAIN_STYLES = STYLES[:-1]  # noto_blob is too old to know neutral roles (cook, farmer)
VARIANT_STYLES = ("fluent_flat", "noto")  # edit pairs are cheap in two styles
SUBJECTS = {"train": 550, "validation": 48, "test": 60}
ROLES = {"train": 24, "validation": 4, "test": 4}
VARIANTS = {"train": 150, "validation": 20, "test": 20}
TONED = {"train": 16, "validation": 4, "test": 4}
TONES = ("1f3fb", "1f3fe")

# Chosen by eye: at 32 px no artefact shows, and 2.2 MB hold about 640 subjects.
ENCODINGS = {
    "fluent_3d": {"quality": 15, "alpha_quality": 30, "method": 6},
    **{style: {"quality": 20, "alpha_quality": 30, "method": 6} for style in STYLES[1:]},
}


def choose(
    subjects: Mapping[str, Subject], drawings: Mapping[str, Mapping[str, Drawing]]
) -> dict[str, dict[str, Drawing]]:
    """Style -> hexcode -> drawing of the fixture: many roots in all styles, fewer variants in two."""
    root_by_hexcode = roots(subjects)
    split = split_roots(root_by_hexcode, subjects)
    drawn = {style: drawings[style].keys() for style in STYLES}

    def pick(candidates: Iterable[str], quota: Mapping[str, int], among: tuple[str, ...]) -> list[str]:
        complete = [code for code in candidates if all(code in drawn[style] for style in among)]
        ordered = sorted(complete, key=lambda code: (code not in ALWAYS_TRAIN, stable_hash(code)))
        kept = Counter()
        return [code for code in ordered if _admit(kept, split[root_by_hexcode[code]], quota)]

    every_root = set(root_by_hexcode.values())
    main = pick(every_root, SUBJECTS, STYLES)
    roles = pick((root for root in every_root if _is_role(root)), ROLES, PLAIN_STYLES)
    shown = {*main, *roles}
    variants = [code for code, root in root_by_hexcode.items() if root in shown and code not in shown]
    plain = pick((code for code in variants if not has_tone(code)), VARIANTS, VARIANT_STYLES)
    toned = pick((code for code in shown if f"{code}-{TONES[0]}" in root_by_hexcode), TONED, VARIANT_STYLES)
    tones = [f"{code}-{tone}" for code in toned for tone in TONES]
    parts = ((STYLES, main), (PLAIN_STYLES, roles), (VARIANT_STYLES, [*plain, *tones]))
    wanted = {style: {code for among, codes in parts if style in among for code in codes} for style in STYLES}
    return {style: {code: d for code, d in drawings[style].items() if code in wanted[style]} for style in STYLES}


def _admit(kept: Counter, split: str, quota: Mapping[str, int]) -> bool:
    kept[split] += 1
    return kept[split] <= quota[split]


def _is_role(root: str) -> bool:
    return root.startswith("1f9d1")


def main() -> None:
    """Write data_pipelines/fixture anew."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.sources.emoji.fixture", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("data/cache/npm"), help="folder of fetched packages")
    parser.add_argument("--output", type=Path, default=FIXTURE, help="folder to replace (default: %(default)s)")
    arguments = parser.parse_args()
    subjects = styles.open_subjects(arguments.cache)
    chosen = choose(subjects, styles.open_drawings(subjects, arguments.cache))

    def write(folder: Path) -> Counter:
        counts = build(subjects, chosen, TILE, ENCODINGS, folder)
        (folder / "NOTICE").write_text(notice(STYLES), encoding="utf-8")
        shutil.rmtree(arguments.output, ignore_errors=True)  # only once the new one is whole
        return counts

    print_counts(write_whole(arguments.output, write), licences())


if __name__ == "__main__":
    main()
