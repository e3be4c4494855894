"""A model of a library as the tiles of the corpus: eight views in colour, and their depth as grey.

Depth follows what MiDaS-like networks give (the paper's depth condition, section 3.2): inverse, near is bright, scaled
by the nearest and farthest surface over all views of the model, so that its views compare. Black is nothing at all.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from data_pipelines.sources.furniture import views
from data_pipelines.sources.furniture.catalog import Model
from data_pipelines.sources.furniture.obj import Mesh, ModelError, read_mtl, read_obj

FAR_GREY = 0.2  # of white: the farthest surface must differ from nothing
TEXTURE = 256  # px, at most: finer detail would only flicker at the size of a tile


@dataclass(frozen=True)
class Drawn:
    """A model's tiles, and the depths in metres that its greys run between."""

    colour: np.ndarray  # [COUNT, S, S, 4] uint8, straight-alpha RGBA
    depth: np.ndarray  # [COUNT, S, S, 4] uint8: equal channels, and the alpha of the colour
    near: float
    far: float


def draw(model: Model, folder: Path, size: int) -> Drawn:
    """All views of a model of a library in `folder`. Raises ModelError."""
    mesh = views.placed(open_mesh(model, folder / model.library), model.rotation, model.extent)
    seen = [views.render(mesh, camera, size) for camera in views.cameras(mesh.corners)]
    colour = np.stack([view.rgba for view in seen])
    inverse = np.stack([view.inverse_depth for view in seen])
    if not inverse.any():
        raise ModelError(f"{model.library}: {model.path}: nothing of it can be seen")
    far, near = inverse[inverse > 0].min(), inverse.max()
    grey = np.where(inverse > 0, depth_grey(inverse, near, far), 0)[..., None]
    depth = np.concatenate([np.repeat(grey, 3, axis=-1), colour[..., 3:]], axis=-1)
    return Drawn(colour, depth, float(1 / near), float(1 / far))


def depth_grey(inverse: np.ndarray, near: float, far: float) -> np.ndarray:
    """Inverse depth -> uint8 grey, `near` and `far` being inverse too: far is FAR_GREY of white, near is white."""
    share = (inverse - far) / max(near - far, 1e-9)
    return ((FAR_GREY + (1 - FAR_GREY) * share) * 255 + 0.5).clip(0, 255).astype(np.uint8)


def open_mesh(model: Model, library: Path) -> Mesh:
    """A model's OBJ with its materials and textures, out of the library's zip. Raises ModelError."""
    where = f"{library.name}: {model.path}"
    try:
        with zipfile.ZipFile(library) as archive:
            folder = PurePosixPath(model.path).parent
            text = archive.read(model.path).decode("utf-8", "replace")
            return read_obj(text, lambda name: _materials(archive, folder, name), where)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{where}: cannot be read ({error})") from error


def _materials(archive: zipfile.ZipFile, folder: PurePosixPath, name: str) -> dict:
    """The MTL beside the OBJ; some exporters wrote whole paths of their own machine, of which the last step counts."""

    def texture(value: str) -> np.ndarray | None:
        path = _beside(archive, folder, value)
        return None if path is None else _open_texture(archive.read(path), path)

    path = _beside(archive, folder, name)
    return {} if path is None else read_mtl(archive.read(path).decode("utf-8", "replace"), texture)


def _beside(archive: zipfile.ZipFile, folder: PurePosixPath, name: str) -> str | None:
    """The archive's member for a file named in a model, or None. Options before the name (-s 1 1 1) are left out."""
    names = [name, name.split()[-1]]
    candidates = [str(folder / wanted.replace("\\", "/").rpartition("/")[2]) for wanted in names]
    return next((path for path in candidates if path in archive.NameToInfo), None)


def _open_texture(data: bytes, where: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture = picture.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise ModelError(f"{where}: not a readable picture ({error})") from error
    picture.thumbnail((TEXTURE, TEXTURE), Image.Resampling.BOX)
    return np.asarray(picture)
