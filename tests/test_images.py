"""Picture files become what the eye sees, cut to a square and never stretched."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from data_pipelines import images
from data_pipelines.benchmarks.decode import psnr
from data_pipelines.benchmarks.photographs import make_photographs, to_jpeg
from data_pipelines.images import ImageError, encode_image, fit_image, read_image


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


def test_malformed_exif_costs_no_picture():
    picture = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    orientation, resolution = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0), struct.pack(">HHI4s", 0x011A, 2, 2, b"7")
    turned = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + orientation + resolution + bytes(4)  # a text for a number
    for exif, shape in ((turned, (16, 8, 3)), (b"Exif\0\0MM\0*", (8, 16, 3)), (b"Exif\0\0words", (8, 16, 3))):
        for form in ("JPEG", "PNG", "WEBP"):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, form, exif=exif)
            assert read_image(file.getvalue()).shape == shape, (form, exif)


def test_a_field_of_the_wrong_type_is_a_broken_picture():
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "TIFF")
    offset = struct.pack("<HH", 0x0111, 4)
    assert offset in file.getvalue()
    with pytest.raises(ImageError, match="broken or cut off"):
        read_image(file.getvalue().replace(offset, struct.pack("<HH", 0x0111, 11)))  # a place that is a float


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


@pytest.fixture(scope="module")
def photograph():
    return make_photographs(1, 256, seed=3)[0]


def test_bytes_are_read_as_their_file_is(tmp_path, photograph):
    for name, file in (("a.jpg", to_jpeg(photograph, 90)), ("a.png", encode_image(photograph, "png"))):
        (tmp_path / name).write_bytes(file)
        np.testing.assert_array_equal(read_image(file), read_image(tmp_path / name))
    with pytest.raises(ImageError, match="not an image"):
        read_image(b"")


@pytest.mark.parametrize(("shape", "at_least", "read"), [
    ((256, 256), 64, (64, 64)),
    ((256, 200), 64, (128, 100)),
    ((200, 256), 101, (200, 256)),
    ((256, 256), 128, (128, 128)),
    ((256, 256), 32, (32, 32)),
    ((256, 256), 8, (32, 32)),
    ((256, 256), 300, (256, 256)),
    ((255, 131), 0, (255, 131)),
])  # fmt: skip
def test_large_jpegs_are_read_at_the_least_size_that_is_enough(photograph, shape, at_least, read):
    file = to_jpeg(np.ascontiguousarray(photograph[: shape[0], : shape[1]]), 90)
    assert read_image(file, at_least).shape == (*read, 3)
    png = encode_image(photograph, "png")
    assert read_image(png, 16).shape == (256, 256, 3)


@pytest.mark.skipif(not images.simplejpeg, reason="simplejpeg is not installed")
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("shape", [(256, 256), (201, 255), (128, 97)])
def test_both_decoders_give_the_same_pixels(monkeypatch, photograph, shape, subsampling):
    file = to_jpeg(np.ascontiguousarray(photograph[: shape[0], : shape[1]]), 90, subsampling)
    for at_least in (0, 20, 40, 100):
        fast = read_image(file, at_least)
        assert images._read_plain_jpeg(file, at_least) is not None
        with monkeypatch.context() as patch:
            patch.setattr(images, "simplejpeg", None)
            np.testing.assert_array_equal(read_image(file, at_least), fast)


def test_reading_small_keeps_what_the_model_sees(photograph):
    """DCT scaling and LANCZOS differ in their filter alone; a picture of the model's own size is untouched."""
    for quality in (75, 95):
        file = to_jpeg(photograph, quality)
        for size in (32, 64, 50, 100):
            assert psnr(fit_image(read_image(file, size), size), fit_image(read_image(file), size)) > 32
        np.testing.assert_array_equal(fit_image(read_image(file, 256), 256), read_image(file))


def test_jpegs_that_need_more_than_decoding_are_left_to_pillow():
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), "red").save(buffer, "JPEG", exif=exif)
    assert read_image(buffer.getvalue()).shape == (64, 32, 3) and read_image(buffer.getvalue(), 8).shape == (16, 8, 3)
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(buffer, "JPEG")
    assert np.abs(read_image(buffer.getvalue()).astype(int) - (255, 0, 0)).max() < 8
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 70).save(buffer, "JPEG")
    assert (read_image(buffer.getvalue()) == 70).all()


@pytest.mark.parametrize("at_least", [0, 16])
def test_broken_bytes_are_told_in_one_line(photograph, at_least):
    for file in (to_jpeg(photograph, 90), encode_image(photograph, "png")):
        with pytest.raises(ImageError, match="broken or cut off") as caught:
            read_image(file[: len(file) // 2], at_least)
        assert "\n" not in str(caught.value)


def test_drawings_and_maps_are_kept_exactly_and_photographs_small(photograph):
    drawing = np.full((64, 64, 3), 255, np.uint8)
    drawing[10:50, 20:40] = (200, 30, 30)
    depth = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    for exact in (drawing, depth):
        assert encode_image(exact).startswith(b"\x89PNG")
        np.testing.assert_array_equal(read_image(encode_image(exact)), exact)
    small = fit_image(photograph, 64)
    for picture in (photograph, small):
        file = encode_image(picture)
        assert file.startswith(b"\xff\xd8") and len(file) < 0.7 * len(encode_image(picture, "png"))
        assert psnr(read_image(file), picture) > 35  # its edges are harder than any photograph's
