"""Stage 1's data (paper section 3) from captioned pictures: `python -m data_pipelines.retrieval`.

    python -m data_pipelines.retrieval --input=data/emoji --output=data/records/neighbors \\
        --neighbors=100 --pictures_per_cluster=2 --threshold=0.85
    python -m data_pipelines.retrieval --input='laion/*.tar' --output=/shared/neighbors --runner=FlinkRunner ...
    python -m data_pipelines.retrieval --verify=data/records/neighbors --embed_again

The output is a data set of kind "clusters", whose manifest says what every step read, kept and dropped. A run that was
killed goes on where it stopped: what is embedded lies in OUTPUT.work, which is removed at the end.
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from data_pipelines import commands
from data_pipelines.packages import CACHE
from data_pipelines.retrieval.duplicates import Sameness
from data_pipelines.retrieval.quality import Limits
from data_pipelines.retrieval.settings import EMBEDDERS, Settings, SettingsError
from data_pipelines.sources.captioned import SPEC
from data_pipelines.splits import parse_shares

DEFAULTS = Settings("", Path(), Path(), "", CACHE, None)


def make_parser() -> argparse.ArgumentParser:
    """The command line; flags that it does not know are Beam's."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.retrieval",
        usage="python -m data_pipelines.retrieval --input=... --output=... [options]",
        description="Clusters of similar captioned pictures, the data of stage 1.",
        epilog="Other flags are Apache Beam's: --runner=DataflowRunner|FlinkRunner|SparkRunner with theirs, and "
        "--direct_num_workers=N for the direct runner (default: a thread a core). All workers must see --output and "
        "--work, as on a shared disk.",
        allow_abbrev=False,
    )
    for add in (_add_places, _add_quality, _add_embedding, _add_clusters, _add_check):
        add(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input and output")
    group.add_argument("--input", help=f"the captioned pictures: {SPEC}")
    group.add_argument("--image_column", default="", help="where the picture stands (default: the usual names)")
    group.add_argument("--caption_column", default="", help="where the caption stands (default: the usual names)")
    group.add_argument("--output", type=Path, help="folder to make; stage 1 reads data/records/neighbors")
    group.add_argument(
        "--work", type=Path, help="folder of finished blocks, to go on after a kill (default: OUTPUT.work)"
    )
    group.add_argument(
        "--keep_work", action="store_true", help="do not remove it: other thresholds need no new embeddings"
    )
    group.add_argument("--size", type=int, default=DEFAULTS.size, help="side of the pictures (default: %(default)s)")
    group.add_argument(
        "--splits", type=parse_shares, default=DEFAULTS.splits, metavar="TRAIN,VALIDATION,TEST",
        help="shares, where the input has no splits of its own (default: 0.96,0.02,0.02)",
    )  # fmt: skip
    group.add_argument("--group", default="", help="field whose pictures stay in one split (default: one picture's do)")
    group.add_argument(
        "--shard_clusters",
        type=int,
        default=DEFAULTS.shard_clusters,
        help="clusters a shard, about (default: %(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, help="of the clusters (default: %(default)s)")


def _add_quality(parser: argparse.ArgumentParser) -> None:
    group, limits = parser.add_argument_group("quality filter"), Limits()
    group.add_argument(
        "--min_side", type=int, default=limits.min_side, help="pixels of the shorter side (default: %(default)s)"
    )
    group.add_argument(
        "--max_aspect", type=float, default=limits.max_aspect, help="longer side / shorter side (default: %(default)s)"
    )
    group.add_argument("--min_caption", type=int, default=limits.min_caption, help="characters (default: %(default)s)")
    group.add_argument("--max_caption", type=int, default=limits.max_caption, help="characters (default: %(default)s)")
    group.add_argument(
        "--max_repeats",
        type=int,
        default=DEFAULTS.max_repeats,
        help="pairs that share one caption (default: %(default)s)",
    )


def _add_embedding(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("embedding and domains")
    group.add_argument("--embedder", choices=EMBEDDERS, help="of pictures and captions (default: efficientnet)")
    group.add_argument("--weights", type=Path, help="local folder of CLIP, for --embedder=clip")
    group.add_argument("--cache", type=Path, default=CACHE, help="folder of fetched packages (default: %(default)s)")
    group.add_argument("--embeddings", type=Path, help="folder of img_emb_*.npy and metadata_*.parquet, instead")
    group.add_argument(
        "--domains", type=Path, help=".json of {domain: [prompt ...]}, or .npz of vectors (default: ten domains)"
    )
    group.add_argument(
        "--min_match", type=float, default=DEFAULTS.min_match, help="least cosine with a prompt (default: %(default)s)"
    )


def _add_clusters(parser: argparse.ArgumentParser) -> None:
    group, sameness = parser.add_argument_group("clusters and near-duplicates"), Sameness()
    group.add_argument(
        "--max_domain_size",
        type=int,
        default=DEFAULTS.max_domain_size,
        help="pairs one worker holds (default: %(default)s)",
    )
    group.add_argument(
        "--pictures_per_cluster", type=int, default=DEFAULTS.pictures_per_cluster,
        help="mean size of the k-means clusters, whose centres are seeds; 1: all pictures are (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--neighbors", type=int, default=DEFAULTS.neighbors, help="nearest pictures of a seed (default: %(default)s)"
    )
    group.add_argument(
        "--members", type=int, default=DEFAULTS.members, help="of a cluster, the seed included (default: %(default)s)"
    )
    group.add_argument(
        "--threshold", type=float, default=sameness.similarity, help="cosine of near-duplicates (default: %(default)s)"
    )
    group.add_argument(
        "--pixel_distance",
        type=float,
        default=sameness.pixels,
        help="of near-duplicates' thumbnails, of 255 (default: %(default)s)",
    )
    group.add_argument(
        "--same", nargs="*", default=list(DEFAULTS.same), metavar="FIELD",
        help="metadata that near-duplicates share; A+B: both (default: url)",
    )  # fmt: skip


def _add_check(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("check")
    group.add_argument("--verify", type=Path, metavar="OUTPUT", help="check a finished folder, and do nothing else")
    group.add_argument("--embed_again", action="store_true", help="with --verify: compute the similarities anew")


def _settings(chosen: argparse.Namespace) -> Settings:
    """The settings of a run. Raises SettingsError for values that make no sense together."""
    if chosen.input is None or chosen.output is None:
        raise SettingsError("give --input and --output, or --verify=OUTPUT; --help lists all")
    fields = {name: getattr(chosen, name) for name in Settings.__dataclass_fields__ if hasattr(chosen, name)}
    fields["work"] = chosen.work or chosen.output.with_name(f"{chosen.output.name}.work")
    fields["embedder"] = chosen.embedder or ("" if chosen.embeddings else "efficientnet")
    fields["limits"] = Limits(chosen.min_side, chosen.max_aspect, chosen.min_caption, chosen.max_caption)
    fields["sameness"] = Sameness(chosen.threshold, chosen.pixel_distance)
    return Settings(**fields | {"same": tuple(chosen.same)})


def _import_build():
    """Late, so that --help is quick; and without the warning of Beam that BigQuery's client is missing."""
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("data_pipelines.retrieval.build")
    finally:
        logging.disable(logging.NOTSET)


def main(arguments: list[str] | None = None) -> int:
    """Build or check the clusters; 0, or 2 with one line on stderr when the input is bad."""
    chosen, flags = make_parser().parse_known_args(arguments)

    def work() -> None:
        build = _import_build()
        if chosen.verify is not None:
            if flags:
                raise SettingsError(f"{flags[0]}: no option of --verify: see --help")
            build.check(chosen.verify, chosen.cache, chosen.weights, chosen.embed_again)
        else:
            build.run(_settings(chosen), flags, chosen.keep_work)

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
