"""A model seen from eight sides: colour, coverage and true depth of each view, and how the views are named.

The pairs depth -> picture and view -> other view stand in for the control and subject rows of the paper's Table 1. The
camera circles the model at one height and distance, so sizes and depths of the views compare; +z is a model's front.
"""

from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.sources.furniture.obj import Mesh
from data_pipelines.sources.furniture.raster import Seen, rasterise, weights

COUNT = 8  # views, 45 degrees apart; view 0 is the front, then the camera moves to the viewer's right
ELEVATION = np.deg2rad(20)
FIELD_OF_VIEW = np.deg2rad(30)
FILL = 0.94  # of the picture's side, by the view that needs most
SAMPLES = 3  # along each side of a pixel

AMBIENT, SKY, KEY = 0.48, 0.22, 0.58  # together above 1: a surface that faces the light is a little overexposed
SHEEN = 0.05  # of the light comes back from the blackest paint, so that its shape shows
LIGHT = np.array([-0.40, -0.55, -0.73])  # towards the light, in the camera's axes: over the viewer's left shoulder
CLEAR = 0.98  # opacity below which what lies behind shows through
SOLID_TEXEL = 128  # alpha below which a texture has a hole
PAPER = 1.0  # what glass shows where the model has nothing behind it


@dataclass(frozen=True)
class Camera:
    """A pinhole. `rotation` [3, 3] turns the world to (right, down, forward); `focal` is in sides of the picture."""

    position: np.ndarray
    rotation: np.ndarray
    focal: float

    def project(self, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """[..., 3] -> their places [..., 2] in pixels of a size x size picture, and depths [...] along the axis."""
        seen = (points - self.position) @ self.rotation.T
        return (seen[..., :2] / seen[..., 2:] * self.focal + 0.5) * size, seen[..., 2]


@dataclass(frozen=True)
class View:
    """One picture of a model. Depth is that of the nearest surface, glass included, along the camera's axis."""

    rgba: np.ndarray  # [S, S, 4] uint8, straight alpha; alpha is the share of the pixel that the model covers
    inverse_depth: np.ndarray  # [S, S] float32, 1/m, the mean over what is covered; 0 where nothing is


def placed(mesh: Mesh, rotation: np.ndarray, extent: tuple[float, float, float]) -> Mesh:
    """The mesh turned, then stretched to `extent` (x, y, z) metres and centred, as Sweet Home 3D's catalogue asks."""
    corners = mesh.corners @ rotation.T
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    scale = np.asarray(extent) / np.where(high > low, high - low, np.inf)
    scale[scale == 0] = 1.0
    normals = mesh.normals @ rotation.T / scale
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    centred = (corners - (low + high) / 2) * scale
    return replace(mesh, corners=centred, normals=normals / np.where(lengths > 0, lengths, 1))


def cameras(corners: np.ndarray) -> list[Camera]:
    """One camera a view, for a model [T, 3, 3] about the origin: the nearest distance at which every view fits."""
    focal = 0.5 / np.tan(FIELD_OF_VIEW / 2)
    points = np.unique(corners.reshape(-1, 3), axis=0)
    rotations = [_rotation(2 * np.pi * k / COUNT) for k in range(COUNT)]
    distance = max(_distance(points @ rotation.T, focal) for rotation in rotations)
    return [Camera(-distance * rotation[2], rotation, focal) for rotation in rotations]


def _rotation(azimuth: float) -> np.ndarray:
    """World axes (x, y up, z) to the camera's, which looks at the origin from `azimuth` (0: +z, a quarter: +x)."""
    forward = -np.array([np.sin(azimuth) * np.cos(ELEVATION), np.sin(ELEVATION), np.cos(azimuth) * np.cos(ELEVATION)])
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    return np.stack([right, np.cross(forward, right), forward])


def _distance(points: np.ndarray, focal: float) -> float:
    """|x| * focal / (distance + z) must stay below FILL / 2 for points [N, 3] in the camera's axes, and |y| too."""
    reach = np.abs(points[:, :2]).max(axis=1)
    return float(max((reach * focal / (FILL / 2) - points[:, 2]).max(), 1.05 * -points[:, 2].min(), 1e-3))


def render(mesh: Mesh, camera: Camera, size: int) -> View:
    """A view of size x size pixels, SAMPLES x SAMPLES samples a pixel."""
    fine = size * SAMPLES
    xy, depth = camera.project(mesh.corners, fine)
    inverse = 1 / depth
    clear = np.array([material.opacity < CLEAR for material in mesh.palette])[mesh.materials]
    solid, glass = (_look(mesh, xy, inverse, fine, which) for which in (~clear, clear))
    colour = np.full((fine, fine, 3), PAPER)
    _paint(colour, mesh, camera, xy, inverse, solid, solid.triangle >= 0)
    front = (glass.triangle >= 0) & (glass.inverse_depth > solid.inverse_depth)
    _paint(colour, mesh, camera, xy, inverse, glass, front)
    return _downsample(colour, np.maximum(solid.inverse_depth, glass.inverse_depth))


def _look(mesh: Mesh, xy: np.ndarray, inverse: np.ndarray, size: int, which: np.ndarray) -> Seen:
    """What the triangles `which` alone would show; holes in their textures are holes."""
    ids = np.flatnonzero(which)
    holed = np.array([_has_holes(material.texture) for material in mesh.palette])

    def keep(triangle: np.ndarray, shares: np.ndarray) -> np.ndarray:
        stays = np.ones(len(triangle), bool)
        for number in np.flatnonzero(holed):
            at = np.flatnonzero(mesh.materials[ids[triangle]] == number)
            uv = _interpolate(mesh.uvs, inverse, ids[triangle[at]], shares[at])
            stays[at] = _texels(mesh.palette[number].texture, uv)[:, 3] >= SOLID_TEXEL
        return stays

    found = rasterise(xy[ids], inverse[ids], size, keep if holed[mesh.materials[ids]].any() else None)
    return Seen(np.where(found.triangle >= 0, ids[found.triangle] if len(ids) else -1, -1), found.inverse_depth)


def _has_holes(texture: np.ndarray | None) -> bool:
    return texture is not None and bool((texture[..., 3] < SOLID_TEXEL).any())


def _interpolate(values: np.ndarray, inverse: np.ndarray, triangle: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Corner values [T, 3, C] at samples: linear in space, so weighted by inverse depth on the picture."""
    in_space = shares * inverse[triangle]
    in_space /= in_space.sum(axis=1, keepdims=True)
    return np.einsum("nk,nkc->nc", in_space, values[triangle])


def _paint(colour, mesh: Mesh, camera: Camera, xy, inverse, seen: Seen, where: np.ndarray) -> None:
    """Shade the surfaces seen at `where` over `colour` [S, S, 3], in place; glass lets some of it through."""
    row, column = np.nonzero(where)
    triangle = seen.triangle[where]
    shares = weights(xy, triangle, row, column)
    materials = mesh.materials[triangle]
    albedo = np.array([material.colour for material in mesh.palette])[materials]
    for number, material in enumerate(mesh.palette):
        if material.texture is not None:
            at = np.flatnonzero(materials == number)
            uv = _interpolate(mesh.uvs, inverse, triangle[at], shares[at])
            albedo[at] = _texels(material.texture, uv)[:, :3] / 255
    albedo = SHEEN + (1 - SHEEN) * albedo
    normals = _interpolate(mesh.normals, inverse, triangle, shares)
    light = _light(normals, mesh.corners[triangle, 0] - camera.position, camera.rotation)
    opacity = np.array([material.opacity for material in mesh.palette])[materials, None]
    opacity = np.where(opacity < CLEAR, np.clip(opacity, 0.1, 1), 1)  # even the clearest glass can be seen
    colour[where] += opacity * (np.clip(albedo * light[:, None], 0, 1) - colour[where])


def _light(normals: np.ndarray, sight: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """[N]: ambient + sky + Lambert's cosine. Of a surface's two sides the one towards the camera is lit."""
    side = -np.sign(np.einsum("nx,nx->n", normals, sight))[:, None]
    normals = normals * np.where(side == 0, 1, side)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    return AMBIENT + SKY * (0.5 + 0.5 * normals[:, 1]) + KEY * np.maximum(normals @ (rotation.T @ LIGHT), 0)


def _texels(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The texel [N, 4] under each coordinate; textures repeat, and v points up."""
    height, width = texture.shape[:2]
    column = np.floor(uv[:, 0] % 1 * width).astype(int) % width
    row = np.floor((1 - uv[:, 1] % 1) * height).astype(int) % height
    return texture[row, column]


def _downsample(colour: np.ndarray, inverse_depth: np.ndarray) -> View:
    """Means over the covered samples of each pixel."""
    covered = inverse_depth > 0
    samples = np.concatenate([colour * covered[..., None], inverse_depth[..., None], covered[..., None]], axis=-1)
    rows = sum(samples[k::SAMPLES] for k in range(SAMPLES))
    sums = sum(rows[:, k::SAMPLES] for k in range(SAMPLES))  # [S, S, 5]
    means = sums[..., :4] / np.maximum(sums[..., 4:], 1)
    rgba = np.concatenate([means[..., :3], sums[..., 4:] / SAMPLES**2], axis=-1)
    return View((rgba * 255 + 0.5).astype(np.uint8), means[..., 3].astype(np.float32))
