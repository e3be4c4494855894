"""--mode=eval: does a trained run follow instructions? Every suite, every arm, scores a picture, and the report.

The paper asks its raters (section 4.3, Table 2 to 4); here fixed cases of held-out subjects are drawn under fixed noise
and judged by measures that run anywhere. Pictures that are drawn stay in workdir/eval/pictures, so that an evaluation
that was killed goes on, and one that is repeated only measures.
"""

import dataclasses
import datetime
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.instruction import Layout, layout_of
from data_pipelines.loader import make_loader
from data_pipelines.suites import IN_DOMAIN, ZERO_SHOT, Case, Suites, open_suites
from data_pipelines.text import Tokenizer, load_tokenizer
from imagen_jax import cascade, partition, release, runs
from imagen_jax.evaluation import arms, curves, page, report, super_res_report, training_report
from imagen_jax.evaluation.arms import Pictures
from imagen_jax.evaluation.judges import Judges, open_judges
from imagen_jax.evaluation.measure_networks import open_networks
from imagen_jax.evaluation.measures import left_out, scores_of, set_scores_of
from imagen_jax.evaluation.overall import OVERALL, overall
from imagen_jax.evaluation.report import Drawn
from imagen_jax.metrics import METRICS
from imagen_jax.pipeline import MAX_SEED
from imagen_jax.runs import Run
from imagen_jax.types import Batch
from imagen_jax.workdir import write_bytes, write_json, write_text

FOLDER, CURVES = "eval", "curves.svg"  # of a workdir, and of that folder
SAMPLED_BY = ("method", "steps", "guidance", "guidance_weight", "context_guidance_weight", "threshold")
ROOM = dict(max_references=3, text_length=64, reference_text_length=24)  # what the composed suites need


class EvaluationError(ValueError):
    """Settings that cannot be evaluated."""


def evaluate(config: ConfigDict, workdir: Path, command: str = "") -> dict:
    """Evaluate a run by its own model, corpus and lengths; `config` says how it is sampled and measured.

    Writes workdir/eval: scores.jsonl, report.json, report.md, report.html, curves.svg and grids/; returns the report.
    Of super-resolution it writes what super_res_report.evaluate does.

    Args:
      config: its sections `eval`, `sample` and `mesh`. config.sample.run names another run than that in `workdir`.
      command: what the user typed, told in the report.

    Raises:
      EvaluationError, RunError, CascadeError, PartitionError and the corpus's own: one line, with the mend.
    """
    settings = config.eval
    wanted = check(settings)  # first: the cheapest thing that can be wrong
    cascade.check_sampler(config.sample, "config.sample")
    mesh, source = partition.make_mesh(config.mesh), config.sample.run or workdir
    run = runs.open_run(source, mesh, config)
    if run.config.data.loader == "records" and not settings.corpus:
        raise EvaluationError(f"{source}: trained on records, and suites are of a corpus: name one, config.eval.corpus")
    run.config.data.corpus = corpus = settings.corpus or run.config.data.corpus
    if run.model.lowres_size:
        return super_res_report.evaluate(run, config, workdir / FOLDER, command)
    layout = layout_for(run)
    suites = open_suites(run.config.data, layout, settings.seed)
    chosen = [suite for suite in wanted if suite in suites.names]
    if not chosen:
        raise EvaluationError(f"nothing to evaluate: {'; '.join(f'{s}: {suites.missing[s]}' for s in wanted)}")
    judges = _open_judges(settings, corpus, layout.image_size) if settings.count else None
    facts = _facts(run, config, command) | _judged(judges)
    facts["missing"] = {suite: suites.missing[suite] for suite in wanted if suite not in chosen}
    facts["losses"] = reference_losses(run, chosen, settings.seed)
    facts["losses"]["composed"] = composed_losses(run, suites, chosen, layout)
    drawn = []
    if judges:
        pictures = draw_all(run, config, mesh, suites, chosen, layout, workdir / FOLDER / "pictures")
        drawn = [measure(suite, cases, by_arm, judges) for suite, (cases, by_arm) in pictures.items()]
    return _write(
        report.build(facts, drawn), drawn, curves.read_curves(release.locate(source) / METRICS), workdir / FOLDER
    )


def _facts(run: Run, config: ConfigDict, command: str) -> dict:
    """What the report says of the run, and of how it was sampled."""
    return {
        "run": run.config.name,
        "step": run.step,
        "command": command,
        "corpus": run.config.data.corpus,
        "image_size": run.model.image_size,
        "max_references": run.config.data.max_references,
        "seed": config.eval.seed,
        "count": config.eval.count,
        "sample": {k: config.sample[k] for k in SAMPLED_BY},
    }


def _open_judges(settings: ConfigDict, corpus: str, size: int) -> Judges:
    networks = open_networks(Path(settings.cache), settings.clip)
    return open_judges(corpus, size, Path(settings.cache) / "judges", networks=networks)


def _judged(judges: Judges | None) -> dict:
    """How good the judges are, and what cannot be measured; nothing of either where nothing is drawn."""
    if judges is None:
        return {"judges": {"accuracies": {}, "told": []}, "left_out": {}}
    return {
        "judges": {"accuracies": judges.accuracies, "told": judges.told().splitlines()},
        "left_out": left_out(judges) | _left_out_sets(judges),
    }


def layout_for(run: Run) -> Layout:
    """The run's own lengths, with room for every suite: no parameter depends on them."""
    layout = layout_of(run.config)
    if not run.model.unet.config.context_levels:
        return layout
    return dataclasses.replace(layout, **{name: max(least, getattr(layout, name)) for name, least in ROOM.items()})


def _left_out_sets(judges: Judges) -> dict[str, str]:
    reason = judges.networks.missing.get("efficientnet")
    return {"distances of sets": reason} if reason else {}


def measure(suite: str, cases: list[Case], pictures: dict[str, Pictures], judges: Judges) -> Drawn:
    """All scores of a suite's arms, and the distances of its sets."""
    print(f"measuring {suite}", flush=True)
    scores = {arm: scores_of(images, cases, judges) for arm, images in pictures.items()}
    scores = {arm: {OVERALL: overall(found, cases)} | found for arm, found in scores.items()}
    sets = {arm: images for arm, images in pictures.items() if arm in report.OF_SETS}
    sets = set_scores_of(sets, pictures[arms.REAL], judges) if len(cases) > 1 else {}
    return Drawn(suite, cases, pictures, scores, sets)


def check(settings: ConfigDict) -> list[str]:
    """The suites that `config.eval` names, in their fixed order. Raises EvaluationError, one line."""
    known, named = (*IN_DOMAIN, *ZERO_SHOT), [name.strip() for name in settings.suites.split(",") if name.strip()]
    if unknown := [name for name in named if name not in known]:
        raise EvaluationError(f"config.eval.suites: '{unknown[0]}' is no suite; the suites are {', '.join(known)}")
    if settings.count < 0 or settings.count == 1:
        told = "at least 2 are needed, to shuffle their references; or 0, for the losses alone"
        raise EvaluationError(f"config.eval.count={settings.count}: {told}")
    if settings.batch_size < 1:
        raise EvaluationError(f"config.eval.batch_size={settings.batch_size} must be 1 or more")
    if not 0 <= settings.seed <= MAX_SEED:
        raise EvaluationError(f"config.eval.seed={settings.seed}: must be from 0 to {MAX_SEED}")
    return [name for name in known if name in named or not named]


def draw_all(
    run: Run, config: ConfigDict, mesh: Mesh, suites: Suites, chosen: Sequence[str], layout: Layout, folder: Path
) -> dict[str, tuple[list[Case], dict[str, Pictures]]]:
    """The cases and the pictures of every arm of the chosen suites; those in `folder` are not drawn again.

    What is kept has the digest of all it depends on: weights, sampler, seed and the packed instructions themselves.
    """
    settings, sample = config.eval, config.sample
    cases = {s: [suites.case(s, i) for i in range(min(settings.count, suites.count(s)))] for s in chosen}
    reads = bool(run.model.unet.config.context_levels)
    jobs = [(suite, arm) for suite in chosen for arm in arms.drawn_arms(cases[suite], reads)]
    weights, plain = arms.digest(run.params), sample.to_dict()
    tokenizer = load_tokenizer(run.config.data.tokenizer)
    pictures = {suite: (cases[suite], arms.taken_arms(cases[suite])) for suite in chosen}
    progress = Progress(sum(len(cases[suite]) for suite, _ in jobs))
    for suite, arm in jobs:
        text, context = arms.pack_cases(cases[suite], tokenizer, layout)
        inputs = text, arms.context_of(arm, context)
        indices = np.array([case.index for case in cases[suite]])
        key = arms.digest((inputs, indices), {"weights": weights, "sample": plain, "seed": settings.seed})
        path = folder / suite / f"{arm}.npz"
        if (kept := load_pictures(path, key)) is None:
            tell = progress.arm(suite, arm, len(indices))
            size = min(settings.batch_size, len(indices))
            kept = arms.draw(run, sample, mesh, inputs, indices, seed=settings.seed, batch_size=size, tell=tell)
            save_pictures(path, key, kept)
        else:
            progress.skip(suite, arm, len(indices))
        pictures[suite][1][arm] = kept
    return pictures


def reference_losses(run: Run, suites: Sequence[str], seed: int) -> dict:
    """The held-out loss with true and with shuffled references, of the training tasks among `suites`."""
    tasks = [suite for suite in suites if suite in IN_DOMAIN]
    if not tasks:
        return {"tasks": {}}
    data = run.config.data.copy_and_resolve_references()
    data.loader, data.mixture = "memory", ConfigDict(dict.fromkeys(tasks, 1 / len(tasks)))
    logging.info("held-out loss with true and with shuffled references ...")
    loader = make_loader(data, layout_of(run.config), "test", seed)
    return training_report.reference_report(run, loader)


def composed_losses(run: Run, suites: Suites, chosen: Sequence[str], layout: Layout) -> dict:
    """As `reference_losses`, of the zero-shot suites among `chosen`: suite -> row.

    Where a model is too little trained for its pictures to be judged, this still tells what it makes of combinations.
    """
    if not run.model.unet.config.context_levels:
        return {}
    tokenizer, size, rows = load_tokenizer(run.config.data.tokenizer), training_report.BATCH_SIZE, {}
    for suite in [suite for suite in chosen if suite in ZERO_SHOT]:
        count = min(training_report.BATCHES, suites.count(suite) // size) * size
        cases = [suites.case(suite, i) for i in range(count)]
        batches = [_batch(cases[start : start + size], tokenizer, layout) for start in range(0, count, size)]
        if batches:
            rows[suite] = training_report.row(
                *training_report.losses(run, batches), list(map(report.subject_of, cases))
            )
    return rows


def _batch(cases: Sequence[Case], tokenizer: Tokenizer, layout: Layout) -> Batch:
    image, index = np.stack([case.example.target for case in cases]), np.array([case.index for case in cases])
    return Batch(image, *arms.pack_cases(cases, tokenizer, layout), np.zeros(len(cases), np.int32), index)


class Progress:
    """A line a batch: `line  shuffled  32/64  3.1 pictures/s  left 0:12:04`; the first batch, which compiles, apart."""

    def __init__(self, total: int, clock: Callable[[], float] = time.perf_counter):
        self._left, self._clock = total, clock
        self._since, self._drawn = None, 0

    def arm(self, suite: str, arm: str, count: int) -> Callable[[int], None]:
        """What to call with the number of new pictures of an arm."""
        done = 0

        def tell(new: int) -> None:
            nonlocal done
            done, self._left = done + new, self._left - new
            print(f"{suite:<20}{arm:<12}{done:>4}/{count}{self._speed(new)}", flush=True)

        return tell

    def skip(self, suite: str, arm: str, count: int) -> None:
        """An arm whose pictures are kept from before."""
        self._left -= count
        print(f"{suite:<20}{arm:<12}{count:>4} pictures drawn before", flush=True)

    def _speed(self, new: int) -> str:
        if self._since is None:
            self._since = self._clock()
            return ""
        self._drawn += new
        rate = self._drawn / max(self._clock() - self._since, 1e-9)
        return f"  {rate:.1f} pictures/s  left {datetime.timedelta(seconds=round(self._left / rate))}"


def load_pictures(path: Path, key: str) -> Pictures | None:
    """The pictures that were saved under this key, or None."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return kept["pictures"] if str(kept["key"]) == key else None


def save_pictures(path: Path, key: str, pictures: Pictures) -> None:
    """Keep pictures [N, S, S, 3] under the key of all that they depend on."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pictures=pictures, key=np.array(key))
    write_bytes(path, buffer.getvalue())


def _write(told: dict, drawn: Sequence[Drawn], charts: Sequence[curves.Chart], folder: Path) -> dict:
    """All files; report.json last, so that where it is the others are, too."""
    lines = "".join(json.dumps(line) + "\n" for each in drawn for line in report.score_lines(each))
    page.save_grids(drawn, folder / "grids")
    picture = curves.picture(charts)
    if picture:
        write_text(folder / CURVES, picture)
    paths = [
        write_text(folder / "scores.jsonl", lines),
        write_text(folder / "report.md", report.markdown(told, CURVES if picture else "")),
        write_text(folder / "report.html", page.make_page(told, drawn, charts)),
        write_json(folder / "report.json", told),
    ]
    print(report.summary(told))
    print("\n".join(f"written: {path}" for path in paths))
    return told
