"""Wavefront OBJ models with their MTL materials as triangles in arrays: what the rasteriser draws.

The corpus made from them gives the depth and novel-view pairs that stand in for paper section 4.1. Format: the "Object
Files" appendix of the Advanced Visualizer manual (v, vt, vn, f, s, usemtl, mtllib; newmtl, Kd, d, Tr, map_Kd).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.sources.furniture.polygons import triangulate

CREASE = 0.85  # cosine between a face and the mean around its corner: two faces that meet at 64 degrees or more
_NONE = -1  # no texture coordinate or normal given

Texture = np.ndarray  # [h, w, 4] uint8, straight-alpha RGBA


class ModelError(ValueError):
    """A model that cannot be read: one line with the file and the line number."""


@dataclass(frozen=True)
class Material:
    """A surface: its diffuse colour in 0..1, how much of it is solid, and a picture laid over it."""

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    opacity: float = 1.0
    texture: Texture | None = None


@dataclass(frozen=True)
class Mesh:
    """T triangles with attributes at their corners."""

    corners: np.ndarray  # [T, 3, 3] float64 positions
    normals: np.ndarray  # [T, 3, 3] float64 of length 1 (0 on a triangle without area); the side is not to be relied on
    uvs: np.ndarray  # [T, 3, 2] float64
    materials: np.ndarray  # [T] int, positions in `palette`
    palette: Sequence[Material]


@dataclass
class _Lines:
    """What the lines of a file say, numbers still as text; a corner is 'v', 'v/vt', 'v//vn' or 'v/vt/vn'."""

    positions: list
    uvs: list
    normals: list
    corners: list  # all faces' corners, one after another
    counts: list  # corners of each face
    materials: list  # of each face, by name
    smooth: list  # of each face: whether it may be shaded as curved
    library: str = ""


def read_obj(text: str, library: Callable[[str], dict[str, Material]], where: str) -> Mesh:
    """An OBJ file's text as triangles; `library` gives the materials of the MTL file named.

    Raises ModelError, naming `where`, for a line that is no OBJ, an index out of range, and a file without a face.
    """
    lines = _scan(text, where)
    if not lines.counts:
        raise ModelError(f"{where}: has no face")
    positions, uvs, normals = (
        np.array(values, np.float64).reshape(-1, width)
        for values, width in ((lines.positions, 3), (lines.uvs, 2), (lines.normals, 3))
    )
    index = _indices(lines.corners, (len(positions), len(uvs), len(normals)), where)  # [corners, 3]
    triangles, face = triangulate(positions, index[:, 0], np.array(lines.counts))  # [T, 3] places in index; [T]
    corners = index[triangles]  # [T, 3, (v, vt, vn)]
    known = library(lines.library) if lines.library else {}
    names = list(dict.fromkeys(lines.materials))
    materials = np.array([names.index(name) for name in lines.materials])[face]
    return Mesh(
        positions[corners[..., 0]],
        _normals(positions, corners, normals, np.array(lines.smooth)[face]),
        np.concatenate([uvs, np.zeros((1, 2))])[corners[..., 1]],  # the place -1 is the row of zeros
        materials,
        [known.get(name, Material()) for name in names],
    )


def read_mtl(text: str, texture: Callable[[str], Texture | None]) -> dict[str, Material]:
    """The materials of an MTL file by name; `texture` opens a picture, None where it is missing."""
    materials, fields = {}, {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key == "newmtl":
            fields = {}
            materials[value.strip()] = fields
        elif key == "Kd":
            fields["colour"] = tuple(float(number) for number in value.split()[:3])
        elif key in ("d", "Tr"):
            amount = float(value.split()[-1])
            fields["opacity"] = amount if key == "d" else 1 - amount
        elif key == "map_Kd":
            fields["texture"] = texture(value.strip())
    return {name: Material(**fields) for name, fields in materials.items()}


def _scan(text: str, where: str) -> _Lines:
    found = _Lines([], [], [], [], [], [], [])
    material, smooth = "", True
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), start=1):
        key, *values = line.split() or [""]
        try:
            if key == "v":
                found.positions.append([float(value) for value in values[:3]])
            elif key == "f":
                if len(values) > 2:
                    found.corners += values
                    found.counts.append(len(values))
                    found.materials.append(material)
                    found.smooth.append(smooth)
            elif key == "vt":
                found.uvs.append([float(value) for value in values[:2]])
            elif key == "vn":
                found.normals.append([float(value) for value in values[:3]])
            elif key == "usemtl":
                material = line.split(maxsplit=1)[1].strip() if values else ""
            elif key == "s":
                smooth = values[:1] not in (["off"], ["0"])
            elif key == "mtllib":
                found.library = line.split(maxsplit=1)[1].strip()
        except (ValueError, IndexError) as error:
            raise ModelError(f"{where}:{number}: {error}") from error
    return found


def _indices(corners: Sequence[str], counts: tuple[int, int, int], where: str) -> np.ndarray:
    """[corners, 3] places of position, texture coordinate and normal, from 0 on; _NONE where not given."""
    try:
        index = np.array([_corner(corner, counts) for corner in corners])
    except ValueError as error:
        raise ModelError(f"{where}: a face's corner is not 'v/vt/vn' ({error})") from error
    if (index >= counts).any() or (index[:, 0] < 0).any():
        raise ModelError(f"{where}: a face names a vertex that is not there")
    return index


def _corner(corner: str, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """Indices count from 1; a negative one from the end (exact where all vertices come first, as exporters write)."""
    values = [int(part) if part else 0 for part in corner.split("/")]
    values += [0] * (3 - len(values))
    v, vt, vn = (value - 1 if value >= 0 else count + value for value, count in zip(values, counts, strict=True))
    return v, vt, vn


def _normals(positions: np.ndarray, corners: np.ndarray, given: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """[T, 3, 3]: the file's own, else the mean over the faces around a vertex, else (at a CREASE) the face's own.

    A face counts by its angle at the vertex, so that it does not matter how polygons were cut (Thuermer, 1998).
    """
    places = corners[..., 0]
    points = positions[places]
    flat = np.repeat(_unit(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]))[:, None], 3, axis=1)
    sides = _unit(np.roll(points, -1, axis=1) - points)  # towards the next corner
    angles = np.arccos(np.clip(-np.einsum("tcx,tcx->tc", sides, np.roll(sides, 1, axis=1)), -1, 1))
    parts = (flat * angles[..., None]).reshape(-1, 3)
    summed = [np.bincount(places.reshape(-1), parts[:, axis], len(positions)) for axis in range(3)]
    mean = _unit(np.stack(summed, axis=-1))[places]
    curved = smooth[:, None] & (np.einsum("tcx,tcx->tc", mean, flat) > CREASE)
    normals = np.where(curved[..., None], mean, flat)
    own = _unit(np.concatenate([given, np.zeros((1, 3))]))[corners[..., 2]]
    return np.where((corners[..., 2:] == _NONE) | ~own.any(-1, keepdims=True), normals, own)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
