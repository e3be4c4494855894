"""One run of the retrieval pipeline around its Beam graph: what comes before, meanwhile and after.

The output appears by one rename after everything in it is written and its counts add up (paper section 3 gives the
steps). Until then the work folder holds it, and the blocks from which a killed run goes on.
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipelines.packages import EFFICIENTNET, MINILM
from data_pipelines.record_writer import claim
from data_pipelines.records import sha256
from data_pipelines.retrieval import domains, manifest, pipeline, precomputed, verify
from data_pipelines.retrieval.blocks import PAIRS_PER_BLOCK, WorkError, WorkFolder
from data_pipelines.retrieval.embed import open_embedder
from data_pipelines.retrieval.pairs import Embedders
from data_pipelines.retrieval.settings import EMBEDDERS, Settings, SettingsError, check_fields
from data_pipelines.retrieval.writing import RECORDS
from data_pipelines.sources.captioned import Captioned, Part, list_parts, read_part

_EVERY = 10.0  # seconds between two lines of progress


class BuildError(ValueError):
    """A run that cannot be begun or brought to an end; one line with the mend."""


def run(settings: Settings, flags: Sequence[str], keep_work: bool) -> None:
    """Build settings.output. Raises ValueError, one line; the finished blocks stay for the next run."""
    settings.check()
    pipeline.check_flags(flags)
    if settings.output.exists():
        raise BuildError(f"{settings.output}: exists already: delete it, or choose another --output")
    work, output = settings.work.resolve(), settings.output.resolve()
    if output.is_relative_to(work) or work.is_relative_to(output):  # --work is deleted at the end, and becomes --output
        raise BuildError(f"--work={settings.work} and --output={settings.output}: one lies in the other: move either")
    parts = list_parts(settings.input, image_column=settings.image_column, caption_column=settings.caption_column)
    check_fields(settings, _fields(parts))
    embedders, description = _open_embedders(settings)
    prompts = _open_prompts(settings, embedders)
    work = WorkFolder(settings.work)
    done = work.start(settings.of_blocks() | {"embedder": description})
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    if _disk(settings.output.parent) != _disk(settings.work):  # the end is a rename
        raise BuildError(f"{settings.work}: lies on another disk: give a --work on the disk of --output")
    if done:
        print(f"{settings.work}: {done} finished blocks of an earlier run: going on from them", flush=True)
    with claim(settings.work / RECORDS):
        with _progress(work, parts):
            pipeline.run(parts, settings, embedders, prompts, flags)
        steps = _finish(settings, description)
    if not keep_work:
        shutil.rmtree(settings.work)
    print(manifest.table(steps))
    print(f"wrote {steps[-1]['kept']:,} clusters to {settings.output}")


def check(folder: Path, cache: Path, weights: Path | None, embed_again: bool) -> None:
    """Verify a finished folder and print what was found. Raises VerifyError, one line, for a broken promise."""
    clusters, pictures, largest = verify.verify(folder)
    print(f"{folder}: {clusters:,} clusters of {pictures:,} pictures, no near-duplicates in any")
    print(f"largest similarity {largest:.4f}, as the records say")
    if embed_again:
        name = verify.read_manifest(folder).get("embedder", {}).get("name", "")
        if name not in EMBEDDERS:
            raise BuildError(f"{folder}: its embeddings came from elsewhere: verify it without --embed_again")
        embed = open_embedder(EMBEDDERS[name][0], cache, weights or "")
        largest, deviation = verify.embed_again(folder, embed)
        print(f"largest similarity {largest:.4f}, embedded anew; at most {deviation:.4f} from what the records say")


def _disk(folder: Path) -> int:
    return folder.stat().st_dev


def _fields(parts: Sequence[Part]) -> set[str]:
    """The further fields of the first pairs, which stand for all."""
    pairs = (each for part in parts for each in read_part(part) if isinstance(each, Captioned))
    return {name for pair in islice(pairs, PAIRS_PER_BLOCK) for name, value in pair.meta.items() if value}


def _open_embedders(settings: Settings) -> tuple[Embedders, dict]:
    """The embedders and what the manifest says about them."""
    if not settings.embedder:
        return Embedders(None, None), {"name": "", "embeddings": str(settings.embeddings)}
    image, text, joint = EMBEDDERS[settings.embedder]
    of_text = open_embedder(text, settings.cache, settings.weights or "")
    of_images = None if settings.embeddings else open_embedder(image, settings.cache, settings.weights or "")
    if settings.embedder == "clip":
        files = sorted(Path(settings.weights).glob("*.safetensors"))
        origin = {"files": {path.name: sha256(path) for path in files}}
    else:
        origin = {"image": EFFICIENTNET.origin(), "text": MINILM.origin()}
    return Embedders(of_images, of_text, joint), {"name": settings.embedder, **origin}


def _open_prompts(settings: Settings, embedders: Embedders) -> dict[str, np.ndarray]:
    """Domain -> vectors of its prompts. Raises a ValueError where they do not fit the embeddings."""
    if embedders.text is None and (settings.domains is None or settings.domains.suffix != ".npz"):
        raise SettingsError("--embeddings needs the prompts' vectors too: --domains=FILE.npz, or --embedder=clip")
    prompts = domains.load_domains(settings.domains, embedders.text)
    if settings.embeddings is not None:
        found, wanted = (
            next(iter(prompts.values())).shape[1],
            precomputed.width(precomputed.list_tables(settings.embeddings)),
        )
        if found != wanted:
            raise SettingsError(f"{settings.embeddings}: vectors of {wanted} numbers, the domains' have {found}")
    return prompts


@contextmanager
def _progress(work: WorkFolder, parts: Sequence[Part]) -> Iterator[None]:
    """Lines on what the workers have finished: seen in the work folder, whatever the runner, and what they log here."""
    handler = logging.StreamHandler(sys.stdout)
    pipeline.LOG.setLevel(logging.INFO)
    pipeline.LOG.addHandler(handler)
    pipeline.LOG.propagate = False  # or Beam's handler would say it again
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(work, len(parts), stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        pipeline.LOG.removeHandler(handler)
        pipeline.LOG.propagate = True
        stop.set()
        watcher.join()


def _watch(work: WorkFolder, parts: int, stop: threading.Event) -> None:
    with suppress(WorkError):  # of a damaged block, which ends the pipeline, too
        seen = set(work.blocks())
        before = sum(work.read_pairs(name) for name in seen)
        start, pairs, ended = time.monotonic(), 0, False
        while not ended:
            ended = stop.wait(_EVERY)
            new = set(work.blocks()) - seen
            seen |= new
            pairs += sum(work.read_pairs(name) for name in new)
            if new:
                rate = pairs / (time.monotonic() - start)
                print(f"read and embedded {before + pairs:,} pairs of {parts} parts, {rate:,.0f} pairs/s", flush=True)


def _finish(settings: Settings, embedder: dict) -> list[dict]:
    """Write the manifests and rename; returns the steps. Raises BuildError where nothing was left to write."""
    folder = settings.work / RECORDS
    result = json.loads((settings.work / pipeline.RESULT).read_text(encoding="utf-8"))
    steps = manifest.write_manifests(folder, result, settings, embedder)
    if not steps[-1]["kept"]:
        raise BuildError(_why_nothing(steps))
    (folder / "lock").unlink()
    os.replace(folder, settings.output)
    return steps


def _why_nothing(steps: Sequence[dict]) -> str:
    """The step at which the last pair left, and why most of them did."""
    step = next(each for each in steps if not each["kept"])
    reasons = sorted(step["dropped"].items(), key=lambda item: -item[1])
    told = f"{reasons[0][0]} ({reasons[0][1]:,} of {step['read']:,})" if reasons else "there was nothing to read"
    return f"no cluster is left: step '{step['step']}' kept none: {told}: give more pairs, or loosen its threshold"
