"""Picture files become what the eye sees, cut to a square and never stretched."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import ImageError, fit_image, read_image


def _save(path, array, mode=None, **options):
    Image.fromarray(np.asarray(array), mode).save(path, **options)
    return path


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    assert read_image(_save(tmp_path / "a.png", pixels)).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_palette_transparency_is_laid_on_white(tmp_path):
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    image.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png").tolist() == [[[255, 255, 255]]]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = _save(tmp_path / "turned.png", np.array([[[1, 1, 1], [2, 2, 2]]], np.uint8), exif=exif)
    assert read_image(path).tolist() == [[[1, 1, 1]], [[2, 2, 2]]]


def test_greyscale_of_8_and_16_bits_become_equal_channels(tmp_path):
    assert read_image(_save(tmp_path / "8.png", np.array([[7]], np.uint8))).tolist() == [[[7, 7, 7]]]
    sixteen = _save(tmp_path / "16.png", np.array([[0, 1000, 25700, 65535]], np.uint16))
    assert read_image(sixteen)[0, :, 0].tolist() == [0, 4, 100, 255]


def test_fit_is_the_identity_at_the_right_size():
    image = np.zeros((8, 8, 3), np.uint8)
    assert fit_image(image, 8) is image


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_fit_cuts_the_centre_square_without_stretching(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[:, :, 0] = 255  # the red frame lies outside the centre
    centre = image[16:32] if shape[0] > shape[1] else image[:, 16:32]
    centre[:] = (0, 200, 0)
    assert (fit_image(image, 16) == (0, 200, 0)).all()


def test_fit_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = fit_image(stripes, 16)[:, 2:-2].astype(int)  # away from the border
    assert abs(small - 127).max() <= 2


def test_broken_files_are_named_for_what_they_are(tmp_path):
    rng = np.random.default_rng(0)
    whole = _save(tmp_path / "whole.png", rng.integers(0, 255, (64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.png").write_bytes(flipped)
    (tmp_path / "words.png").write_text("words")
    (tmp_path / "empty.png").touch()
    complaints = {
        "none.png": "no such image",
        "cut.png": "broken or cut off",
        "flipped.png": "broken or cut off",
        "words.png": "not an image",
        "empty.png": "not an image",
        ".": "cannot be read",
    }
    for name, complaint in complaints.items():
        with pytest.raises(ImageError, match=complaint) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_floating_point_pixels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="floating-point"):
        read_image(_save(tmp_path / "f.tiff", np.zeros((2, 2), np.float32)))
