"""A look at every control map that can be made of a picture: `python -m data_pipelines.conditions IMAGE OUT.png`.

One row for the picture, one for its depth map and one for its mask where --network or --maps give them: edges by HED,
these dilated, thinned, as a line drawing, and edges by Canny (the control rows of the paper's Table 1).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines import commands
from data_pipelines.images import ImageError, fit_image, read_image, save_png
from data_pipelines.sources.item import SourceError

try:
    from data_pipelines.conditions import extract, planes
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(commands.missing(error))

TITLE_HEIGHT = 14


def make_sheet(image: np.ndarray, name: str, size: int, find: extract.EdgeFinder, makers: dict[str, extract.Maker]):
    """The contact sheet of a picture [h, w, 3] uint8 as an array of the same kind; tiles of `size` pixels."""
    picture = extract.Picture(name, name, fit_image(image, size), image.shape[:2])
    bases = {"image": picture.image}
    for kind, make in makers.items():
        (plane,) = make([picture])
        if isinstance(plane, str):
            raise SourceError(f"{name}: {kind}: {plane}")
        bases[kind] = planes.to_picture(plane)
    return np.concatenate([_row(kind, base, find) for kind, base in bases.items()])


def _row(kind: str, base: np.ndarray, find: extract.EdgeFinder) -> np.ndarray:
    (edges,) = find(base[None])
    plane = planes.to_plane(edges)
    tiles = {
        kind: base,
        f"HED of {kind}": planes.to_picture(plane),
        "dilated by 1": planes.to_picture(planes.dilate(plane, 1)),
        "dilated by 2": planes.to_picture(planes.dilate(plane, 2)),
        "thinned": planes.to_picture(planes.to_plane(planes.thin(edges))),
        "line drawing": planes.to_picture(planes.sketch(edges)),
        f"Canny of {kind}": planes.to_picture(planes.canny(base)),
    }
    return np.concatenate([_titled(title, tile) for title, tile in tiles.items()], axis=1)


def _titled(title: str, tile: np.ndarray) -> np.ndarray:
    above = Image.new("RGB", (tile.shape[1], TITLE_HEIGHT), "white")
    ImageDraw.Draw(above).text((2, 1), title, fill="black")
    return np.concatenate([np.asarray(above), tile])


def _read(path: str) -> np.ndarray:
    try:
        return read_image(path)
    except ImageError as error:
        raise SourceError(f"{path}: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Write the sheet; 0, or 2 with one line on stderr when something is wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.conditions", description="Look at control maps.")
    parser.add_argument("image", metavar="IMAGE", help="any picture")
    parser.add_argument("output", type=Path, metavar="OUT.png", help="the contact sheet to write")
    parser.add_argument("--size", type=int, default=256, help="side of a tile in pixels (default: %(default)s)")
    extract.add_arguments(parser)
    chosen = parser.parse_args(arguments)

    def work() -> None:
        image, makers = _read(chosen.image), extract.open_makers(chosen)
        sheet = make_sheet(image, chosen.image, chosen.size, extract.open_hed(chosen.cache), makers)
        save_png(sheet, chosen.output)
        print(f"wrote {chosen.output}")

    return commands.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
