"""Stage 1's data as an Apache Beam graph: pairs -> clusters of five (paper section 3). The only door to apache_beam.

Only rows (texts, 2-3 kB of embedding) are shuffled; pictures stay in the blocks of the work folder until a shard is
written. What must be seen at once is one domain of one split: it is gathered to one worker, 4 x D bytes a row (100,000
rows of 1,280: 0.5 GB). A larger domain is dealt out by coarse k-means, trained on a sample of it; neighbours are then
searched inside a coarse cluster, which loses some at its borders. Every step counts what it reads, keeps and drops as a
side output, which unlike Beam's metrics is exact after a retry. Sorting by key and sharding by hash make the output
independent of the order in which workers finish.
"""

import difflib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.pvalue import AsDict, AsList, TaggedOutput
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.typehints.decorators import no_annotations as plain

from data_pipelines.retrieval import pairs, precomputed, selection, writing
from data_pipelines.retrieval.blocks import WorkFolder, replace_file
from data_pipelines.retrieval.manifest import FLOW
from data_pipelines.retrieval.pairs import KEPT, Embedders
from data_pipelines.retrieval.settings import Settings
from data_pipelines.sources.captioned import Part

LOG = logging.getLogger("data_pipelines.retrieval")
Prompts = Mapping[str, np.ndarray]
RESULT = "result.json"  # in the work folder: all counts, shards and licences


class FlagError(ValueError):
    """An option that nobody knows; one line."""


class StepError(ValueError):
    """What a step found wrong with the input; its own line."""


class Counted(beam.DoFn):
    """One step: a plain function from an element to (elements, Counter); the counts leave by an output of their own."""

    def __init__(self, function: Callable):
        self._function = function

    def start_bundle(self):
        self._start, self._bundle = time.monotonic(), Counter()

    def process(self, element):
        elements, counts = self._function(element)
        self._bundle += counts
        yield from elements
        yield from (TaggedOutput("counts", item) for item in counts.items() if item[1])

    def finish_bundle(self):
        """A line for each step that took its time, in the log of the worker."""
        seconds = time.monotonic() - self._start
        for step, unit, _ in FLOW:
            read = sum(n for (name, _), n in self._bundle.items() if name == step)
            if read and seconds > 0.1:
                told = f"{self._bundle[step, KEPT]:,} of {read:,} {unit} kept"
                LOG.info("%s: %s, %.1f s, %s/s", step, told, seconds, f"{read / seconds:,.0f}")


class Graph:
    """The steps of one pipeline, whose counts come together at its end."""

    def __init__(self):
        self._counts = []

    def step(self, elements, label: str, function: Callable):
        """What the function keeps of `elements`."""
        outputs = elements | label >> beam.ParDo(Counted(function)).with_outputs("counts", main="kept")
        self._counts.append(outputs.counts)
        return outputs.kept

    def counts(self):
        """((step, outcome), number) of all steps."""
        return self._counts | "All counts" >> beam.Flatten() | "Sum counts" >> beam.CombinePerKey(sum)


def run(
    parts: Sequence[Part], settings: Settings, embedders: Embedders, prompts: Prompts, flags: Sequence[str]
) -> None:
    """Run the whole pipeline; it ends with RESULT in the work folder.

    prompts: domain -> vectors [n, D]. flags: Beam's own, such as --runner=DataflowRunner.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what a worker raises is raised here, too
    with _one_line(), beam.Pipeline(**_runner(flags)) as pipeline:
        graph = Graph()
        rows = _embed(graph, pipeline, parts, settings, embedders)
        if settings.embeddings is not None:
            rows = _join(graph, pipeline, rows, precomputed.list_tables(settings.embeddings))
        rows = _distinct(graph, rows, settings)
        groups = _gather(graph, rows, settings, prompts)
        drafts = _clusters(graph, groups, settings)
        _write(graph, pipeline, drafts, settings)


@contextmanager
def _one_line():
    """Errors of input without the name of the step, which Beam adds to them."""
    try:
        yield
    except ValueError as error:
        raise StepError(re.sub(r" \[while running '.*", "", str(error), flags=re.DOTALL)) from error


def _embed(graph, pipeline, parts, settings, embedders):
    """Parts -> rows with embeddings. Undecoded pairs go from step to step inside a worker, a block at a time."""
    work = WorkFolder(settings.work)
    blocks = (
        pipeline
        | "Parts" >> beam.Create(list(parts), reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(plain(pairs.read_blocks))
        | "Quality filter" >> beam.Map(plain(pairs.screen), work, settings)
    )
    return graph.step(blocks, "Embed", partial(pairs.embed, work=work, embedders=embedders))


def _join(graph, pipeline, rows, tables):
    """Rows with the embeddings that were computed before, by name."""
    vectors = (
        pipeline
        | "Tables" >> beam.Create(tables, reshuffle=False)
        | "Spread tables" >> beam.Reshuffle()
        | "Read embeddings" >> beam.FlatMap(plain(precomputed.read_table))
    )
    named = rows | "By name" >> beam.Map(lambda row: (row.pair.name, row))
    both = {"rows": named, "embeddings": vectors} | "Join embeddings" >> beam.CoGroupByKey()
    return graph.step(both, "With embedding", precomputed.join)


def _distinct(graph, rows, settings):
    """Rows of distinct pictures, and of captions that are not all over the data set."""
    by_pixels = rows | "By pixels" >> beam.Map(lambda row: (row.marks.pixels, row)) | "Same pixels" >> beam.GroupByKey()
    rows = graph.step(by_pixels, "Distinct pictures", selection.first_picture)
    by_caption = (
        rows
        | "By caption" >> beam.Map(lambda row: (row.pair.caption.casefold(), row))
        | "Same caption" >> beam.GroupByKey()
    )
    return graph.step(by_caption, "Distinct captions", partial(selection.few_captions, most=settings.max_repeats))


def _gather(graph, rows, settings, prompts):
    """(group, rows) of each domain of each split, dealt out to several groups where it is large."""
    match = partial(selection.match_domain, prompts=prompts, least=settings.min_match)
    rows = graph.step(rows, "Match to domains", match)
    sizes = rows | "Domain sizes" >> beam.combiners.Count.PerKey()
    sample = rows | "Sample" >> beam.combiners.Top.SmallestPerKey(selection.COARSE_SAMPLE, key=selection.coarse_order)
    train = partial(selection.train_coarse, most=settings.max_domain_size, seed=settings.seed)
    centroids = sample | "Coarse clusters" >> beam.Map(plain(train), sizes=AsDict(sizes))
    dealt = rows | "Coarse cluster" >> beam.Map(plain(selection.assign), centroids=AsDict(centroids))
    return dealt | "Gather" >> beam.GroupByKey()


def _clusters(graph, groups, settings):
    """Clusters of exactly five, no two with the same members."""
    chosen = dict(settings=settings)
    found = graph.step(groups, "Cluster", partial(selection.find_seeds, **chosen))
    lists = graph.step(found, "Neighbors", partial(selection.find_neighbors, **chosen))
    drafts = graph.step(lists, "Drop near-duplicates", partial(selection.drop_duplicates, **chosen))
    same = (
        drafts
        | "By members" >> beam.Map(lambda draft: (selection.members_of(draft), draft))
        | "Same members" >> beam.GroupByKey()
    )
    return graph.step(same, "Distinct clusters", selection.one_cluster)


def _write(graph, pipeline, drafts, settings):
    """Record shards, and RESULT when all of them are there."""
    work = WorkFolder(settings.work)
    splits = drafts | "Splits" >> beam.Map(plain(writing.split_of))
    numbers = splits | "Clusters a split" >> beam.combiners.Count.PerElement()
    place = partial(writing.place, per_shard=settings.shard_clusters)
    placed = drafts | "Place" >> beam.Map(plain(place), clusters=AsDict(numbers))
    written = graph.step(placed | "By shard" >> beam.GroupByKey(), "Write", partial(writing.write_shard, work=work))
    licences = (
        drafts
        | "Pictures" >> beam.FlatMap(lambda draft: [(pair.key, pair.licence) for pair in draft.pairs])
        | "Each once" >> beam.Distinct()
        | "Licences" >> beam.Map(lambda item: item[1])
        | "Pictures a licence" >> beam.combiners.Count.PerElement()
    )
    _ = (
        pipeline
        | "Once" >> beam.Create([str(work.path / RESULT)])
        | "Result" >> beam.Map(_write_result, AsList(graph.counts()), AsList(written), AsList(licences))
    )


def _write_result(path, counts, shards, licences):
    result = {"counts": sorted([*key, n] for key, n in counts), "shards": sorted(shards), "licences": sorted(licences)}
    replace_file(Path(path), json.dumps(result).encode())


def check_flags(flags: Sequence[str]) -> None:
    """Raises FlagError for what is neither ours nor Beam's, which Beam itself would pass over in silence."""
    known = PipelineOptions([]).get_all_options()
    for before, flag in zip(["", *flags], flags, strict=False):
        if not flag.startswith("-") and (not before.startswith("-") or "=" in before):
            raise FlagError(f"{flag}: belongs to no option: quote a pattern, as in --input='*.tar'")
        name = flag.lstrip("-").partition("=")[0]
        if flag.startswith("-") and name.removeprefix("no_") not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise FlagError(f"{flag}: no such option" + (f": did you mean --{close[0]}?" if close else ": see --help"))


def _runner(flags: Sequence[str]) -> dict:
    """Beam's options; without a runner, or with the direct one, the in-process one with a thread a core.

    Beam's DirectRunner would first try to download Prism, another runner. NumPy and XLA release the interpreter's lock,
    so threads keep the cores busy, and the weights are in memory once.
    """
    options = PipelineOptions(list(flags))
    if options.view_as(StandardOptions).runner not in (None, "DirectRunner", "direct"):
        return {"options": options}
    direct = options.view_as(DirectOptions)
    if not any(flag.startswith("--direct_num_workers") for flag in flags):
        direct.direct_num_workers = os.cpu_count() or 1
    return {"runner": FnApiRunner(), "options": options}
