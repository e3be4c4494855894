"""The judges of generated pictures, small networks of our own: trained once on a corpus, kept, and told with how good
they are.

The paper's pictures are rated by people (section 4.3), and CLIP's weights come in no package: so a style classifier, a
subject embedder and a depth estimator are trained on training pictures by the command that needs them, in minutes. Each
is only as good as its accuracy on real test pictures, which stands beside every score.

Those of the full emoji and furniture corpora come with the package, so that scores can be had again: trained anew
on another machine, they judge some pictures otherwise.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_pipelines.corpus import Corpus, load_corpus
from imagen_jax.evaluation.judge_depth import DepthJudge
from imagen_jax.evaluation.judge_gallery import Gallery
from imagen_jax.evaluation.judge_style import StyleJudge
from imagen_jax.evaluation.judge_subject import SubjectJudge
from imagen_jax.evaluation.judge_training import Judge, Pool
from imagen_jax.evaluation.measure_networks import Networks
from imagen_jax.workdir import write_json

RELEASED = Path(__file__).parent / "released_judges"
VERSION = 1  # raise it with every change of the networks or of their training: cached judges are then trained anew
KINDS = (StyleJudge, SubjectJudge, DepthJudge)
SCORES = {"style": "accuracy", "subject": "recall", "depth": "error"}  # what `accuracies` tells of each


class JudgeError(ValueError):
    """A judge that cannot be had or read; one line with the mend."""


@dataclass(frozen=True)
class Judges:
    """The judges that a corpus gives.

    Attributes:
      measured: name -> how good the judge is on real test pictures.
      missing: name -> why there is no such judge.
      networks: trained elsewhere, where the user has them.
    """

    judges: Mapping[str, Judge]
    measured: Mapping[str, dict]
    missing: Mapping[str, str]
    networks: Networks
    _pool: Pool = field(repr=False)

    @property
    def accuracies(self) -> dict[str, float]:
        """Each judge's one number on real test pictures: style's accuracy, subject's recall@1, depth's error."""
        return {f"{name} {SCORES[name]}": measured[SCORES[name]] for name, measured in self.measured.items()}

    def style(self, pictures: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] uint8 -> [N] style keys, 'model' for any side of a model. Raises JudgeError without a judge."""
        return self._judge("style")(pictures)

    def embed(self, pictures: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] uint8 -> [N, D] float32 of length 1. Raises JudgeError without a judge."""
        return self._judge("subject")(pictures)

    def depth(self, pictures: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] uint8 -> [N, S, S] float32, near is bright. Raises JudgeError without a judge."""
        return self._judge("depth")(pictures)

    @cached_property
    def gallery(self) -> Gallery:
        """The real test pictures among which a subject is searched."""
        return Gallery(self._pool, self.embed)

    def told(self) -> str:
        """A line for each judge: how good it is, or why there is none."""
        lines = [self.judges[name].told(measured) for name, measured in self.measured.items()]
        return "\n".join(lines + [f"no {name} judge: {reason}" for name, reason in self.missing.items()])

    def _judge(self, name: str) -> Judge:
        if name not in self.judges:
            raise JudgeError(f"there is no {name} judge: {self.missing[name]}")
        return self.judges[name]


def open_judges(
    corpus: Corpus | str | Path | Sequence[str | Path],
    size: int,
    cache_dir: str | Path,
    seed: int = 0,
    *,
    networks: Networks | None = None,
    steps: Mapping[str, int] | None = None,
) -> Judges:
    """The judges of a corpus for pictures of `size` pixels: released, from `cache_dir`, or trained and kept there.

    Args:
      corpus: all splits, at `size` pixels, or where load_corpus finds it.
      networks: those trained elsewhere; None: none.
      steps: judge -> steps of its training, where not the judge's own; an accuracy tells what they are worth.

    Raises CorpusError, and JudgeError for a damaged judge or another size than the corpus's.
    """
    corpus = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, size)
    if corpus.images.shape[1] != size:
        raise JudgeError(f"the corpus was loaded at {corpus.images.shape[1]} px, judges of {size} px were asked for")
    pool, content = Pool(corpus), {"corpus": digest(corpus), "listing": listing(corpus)}
    steps, judges, measured, missing = steps or {}, {}, {}, {}
    for kind in KINDS:
        judge = kind(pool)
        if reason := judge.lacks():
            missing[judge.name] = reason
            continue
        judges[judge.name] = judge
        settings = {"seed": seed, "steps": steps.get(judge.name, judge.steps), "size": size}
        released = judge.name not in steps and _use_released(judge, settings, content["listing"])
        measured[judge.name] = judge.measure() if released else _open(judge, settings, content, Path(cache_dir))
    return Judges(judges, measured, missing, networks or Networks(), pool)


def digest(corpus: Corpus) -> str:
    """Sixteen hex digits of all that a judge can learn from a corpus: every pixel, subject, style and split."""
    content = hashlib.sha256(np.ascontiguousarray(corpus.images))
    content.update(repr((corpus.images.shape, corpus.pictures)).encode())
    return content.hexdigest()[:16]


def listing(corpus: Corpus) -> str:
    """Sixteen hex digits of what a corpus shows and its splits, not of its pixels, which another machine may round."""
    pictures = sorted(map(repr, corpus.pictures))
    return hashlib.sha256(repr((corpus.images.shape, pictures)).encode()).hexdigest()[:16]


def _use_released(judge: Judge, settings: Mapping[str, int], pictures: str) -> bool:
    """Make the judge ready by released weights, if there are any for these pictures, however long they were trained."""
    facts = RELEASED / f"{judge.name}-{settings['size']}px.json"
    wanted = {"version": VERSION, "seed": settings["seed"], "size": settings["size"], "listing": pictures}
    if not facts.exists() or not wanted.items() <= _read(facts).items():
        return False
    judge.use(_read(facts.with_suffix(".safetensors")))
    return True


def _open(judge: Judge, settings: Mapping[str, int], content: Mapping[str, str], cache: Path) -> dict:
    """Make the judge ready; returns what it measured. The .json is written last: without it there is no judge."""
    key = json.dumps([VERSION, judge.name, content["corpus"], settings], sort_keys=True)
    name = f"{judge.name}-{settings['size']}px-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    weights, facts = cache / f"{name}.safetensors", cache / f"{name}.json"
    if facts.exists():
        judge.use(_read(weights))
        return _read(facts)["measured"]
    params = judge.train(settings["size"], settings["seed"], settings["steps"])
    judge.use(params)
    measured = judge.measure()
    _write(weights, params)
    write_json(facts, {"version": VERSION, **content, **settings, "measured": measured})
    return measured


def _read(path: Path) -> dict:
    """The nested parameters of a .safetensors, or what a .json holds."""
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return unflatten_dict(load_file(path), sep="/")
    except (OSError, ValueError, SafetensorError) as error:
        raise JudgeError(f"{path}: unreadable ({error}): delete {path.stem}.*; the judge is trained anew") from error


def _write(path: Path, params: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: np.asarray(x) for name, x in flatten_dict(params, sep="/").items()}, partial)
    os.replace(partial, path)
