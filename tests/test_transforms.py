"""Geometry and background: literal pixels, and the names that must not be mirrored."""

import numpy as np
import pytest

from data_pipelines.transforms import (
    BACKGROUND_PROBABILITY,
    WHITE,
    Geometry,
    composite,
    may_flip,
    sample_background,
    sample_geometry,
    transform,
)

FILL = (9, 8, 7)


def test_composite_is_the_weighted_mean_rounded_to_nearest():
    rgba = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 128]]], np.uint8)
    half = [round((a * 128 + b * 127) / 255) for a, b in zip((200, 100, 0), (10, 20, 30), strict=True)]
    assert composite(rgba, (10, 20, 30)).tolist() == [[[10, 20, 30], [200, 100, 0], half]]


def test_identity_mirror_and_shift_move_whole_pixels():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(transform(image, Geometry(), FILL), image)
    np.testing.assert_array_equal(transform(image, Geometry(flip=True), FILL), image[:, ::-1])
    moved = transform(image, Geometry(dx=2, dy=-1), FILL)
    np.testing.assert_array_equal(moved[:7, 2:], image[1:, :6])
    assert (moved[7] == FILL).all() and (moved[:, :2] == FILL).all()


@pytest.mark.parametrize("geometry", [Geometry(scale=0.5), Geometry(scale=0.5, dx=2, dy=-2), Geometry(True, 0.5)])
def test_scale_shrinks_about_the_centre_then_shifts(geometry):
    out = transform(np.full((16, 16, 3), 200, np.uint8), geometry, FILL)
    rows, columns = np.nonzero(out[..., 0] > 100)
    assert (rows.min(), rows.max()) == (4 + geometry.dy, 11 + geometry.dy)
    assert (columns.min(), columns.max()) == (4 + geometry.dx, 11 + geometry.dx)
    assert tuple(out[0, 0]) == FILL


def test_names_that_mean_another_thing_when_mirrored():
    for name in ("one o'clock", "two-thirty", "man walking: facing right", "left-facing fist", "stop sign", "calendar"):
        assert not may_flip(name), name
    for name in ("red apple", "copyright holder", "sleigh", "cat face", "lefty's hat"):
        assert may_flip(name), name


def test_sampling_flips_only_where_it_may_and_stays_in_reach():
    rng = np.random.default_rng(0)
    geometries = [sample_geometry(rng, 64, flippable=i % 2 == 0) for i in range(2000)]
    assert not any(g.flip for g in geometries[1::2])
    assert 0.45 < np.mean([g.flip for g in geometries[::2]]) < 0.55
    assert {g.dx for g in geometries} == {g.dy for g in geometries} == set(range(-4, 5))


def test_most_backgrounds_are_white():
    rng = np.random.default_rng(0)
    white = np.mean([sample_background(rng) == WHITE for _ in range(4000)])
    assert abs(1 - white - BACKGROUND_PROBABILITY) < 0.02
