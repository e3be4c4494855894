"""Everything that decides what the retrieval pipeline writes (paper section 3), as one picklable value."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_pipelines.retrieval.duplicates import Sameness
from data_pipelines.retrieval.quality import Limits
from data_pipelines.sources.captioned import Captioned
from data_pipelines.splits import deal

EMBEDDERS = {  # name -> embedder of pictures, embedder of texts (data_pipelines/retrieval/embed.py), one space?
    "efficientnet": ("efficientnet_lite0", "minilm", False),
    "clip": ("clip_image", "clip_text", True),
}


class SettingsError(ValueError):
    """Settings that make no sense; one line with the flag and the mend."""


@dataclass(frozen=True)
class Settings:
    """The command line, checked."""

    input: str
    output: Path
    work: Path
    embedder: str  # '' where --embeddings has the vectors and --domains the prompts
    cache: Path
    weights: Path | None  # folder of an embedder that is no package
    embeddings: Path | None = None
    image_column: str = ""
    caption_column: str = ""
    limits: Limits = field(default_factory=Limits)
    max_repeats: int = 100
    size: int = 128
    same: tuple[str, ...] = ("url",)
    group: str = ""
    splits: tuple[float, float, float] = (0.96, 0.02, 0.02)
    domains: Path | None = None
    min_match: float = 0.2
    max_domain_size: int = 100_000
    pictures_per_cluster: int = 5
    neighbors: int = 10
    members: int = 5
    sameness: Sameness = field(default_factory=Sameness)
    seed: int = 0
    shard_clusters: int = 5000

    def check(self) -> None:
        """Raises SettingsError for a value out of its range."""
        least = dict(size=1, max_repeats=1, max_domain_size=self.members, pictures_per_cluster=1, members=2, seed=0)
        least |= dict(neighbors=self.members - 1, shard_clusters=1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise SettingsError(f"--{name}={getattr(self, name)}: must be {value} or more")
        if not 0 < self.sameness.similarity <= 1:
            raise SettingsError(f"--threshold={self.sameness.similarity}: must lie in 0..1")

    def of_blocks(self) -> dict:
        """What a finished block depends on: a rerun with other values must not use it."""
        names = ("input", "image_column", "caption_column", "embedder", "size", "same", "group")
        chosen = {name: getattr(self, name) for name in names} | {"limits": asdict(self.limits)}
        return chosen | {"same": list(self.same), "embeddings": str(self.embeddings or ""), "splits": list(self.splits)}


def check_fields(settings: Settings, found: Collection[str]) -> None:
    """Raises SettingsError where --group or --same name a field that is none of those found, nor known of all pairs."""
    named = [("group", settings.group)] + [("same", part) for name in settings.same for part in name.split("+")]
    for option, field_name in named:
        if field_name and field_name not in {*found, "url", "caption", "licence"}:
            has = ", ".join(sorted(found)) or "none"
            raise SettingsError(f"--{option}: the first pairs have no field '{field_name}': name one of theirs: {has}")


def _fields_of(pair: Captioned) -> dict[str, str]:
    return {**pair.meta, "url": pair.url, "caption": pair.caption, "licence": pair.licence}


def same_marks(pair: Captioned, same: tuple[str, ...]) -> tuple[str, ...]:
    """The metadata that no two members of a cluster may share: 'url', or fields joined by + ('root+house').

    A field that the pair lacks makes nothing the same.
    """
    known = _fields_of(pair)
    found = [(name, [known.get(part, "") for part in name.split("+")]) for name in same]
    return tuple(f"{name}={'+'.join(values)}" for name, values in found if all(values))


def split_of(pair: Captioned, settings: Settings) -> str:
    """The data set's own split, else that of the pair's group, as stage 2 deals it (data_pipelines/splits.py).

    Of copies of a picture in two groups the selection keeps the one of the earliest split.
    """
    return pair.split or deal(_fields_of(pair).get(settings.group) or pair.group or pair.key, settings.splits)
