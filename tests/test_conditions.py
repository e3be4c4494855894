"""Edges and masks: closed forms on simple pictures."""

import numpy as np

from data_pipelines import conditions


def test_a_step_has_one_line_at_full_strength():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    expected = np.zeros((16, 16), np.uint8)
    expected[:, 8] = 255
    np.testing.assert_array_equal(conditions.edges(image), np.repeat(expected[..., None], 3, -1))


def test_edges_turn_with_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    turned = conditions.edges(image.swapaxes(0, 1)).swapaxes(0, 1)
    np.testing.assert_array_equal(turned, conditions.edges(image))


def test_colours_of_one_brightness_still_have_an_edge_and_flat_pictures_none():
    image = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    assert not conditions.edges(image).any()
    image[4:] = (0, 200, 0)
    assert (conditions.edges(image)[4] > 200).all()


def test_weak_gradients_are_no_edges():
    ramp = np.repeat(np.arange(0, 80, 5, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, -1)
    assert not conditions.edges(ramp)[:, 1:-1].any()


def test_mask_is_the_alpha():
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    np.testing.assert_array_equal(conditions.mask(rgba), np.stack([rgba[..., 3]] * 3, -1))
