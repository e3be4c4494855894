"""The z-buffer against geometry in closed form: depth, area, order, watertight edges, textures."""

import numpy as np
import pytest

from data_pipelines.sources.furniture import raster, views
from data_pipelines.sources.furniture.obj import Material, Mesh
from data_pipelines.sources.furniture.raster import rasterise
from data_pipelines.sources.furniture.views import ELEVATION, FIELD_OF_VIEW, SAMPLES, Camera, cameras, placed, render

SIZE = 64
PLAIN = Material()
FOCAL = 0.5 / np.tan(FIELD_OF_VIEW / 2)


def mesh_of(corners, uvs=None, palette=(PLAIN,), materials=None):
    corners = np.asarray(corners, float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.repeat((normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))[:, None], 3, 1)
    uvs = np.zeros((len(corners), 3, 2)) if uvs is None else np.asarray(uvs, float)
    return Mesh(corners, normals, uvs, np.zeros(len(corners), int) if materials is None else materials, palette)


def quads(points):
    """[Q, 4, 3] -> [2 Q, 3, 3]"""
    points = np.asarray(points, float)
    return np.concatenate([points[:, [0, 1, 2]], points[:, [0, 2, 3]]])


def sphere(radius, steps=96):
    """Quads between circles of latitude."""
    theta, phi = np.linspace(0, np.pi, steps + 1), np.linspace(0, 2 * np.pi, 2 * steps + 1)
    ring = np.stack([np.cos(phi), np.zeros_like(phi), np.sin(phi)], axis=-1)
    grid = radius * (np.sin(theta)[:, None, None] * ring + np.cos(theta)[:, None, None] * np.array([0, 1, 0]))
    return quads(np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2).reshape(-1, 4, 3))


def cube(half):
    faces = []
    for axis in range(3):
        for side in (-1, 1):
            square = np.insert([[-1, -1], [-1, 1], [1, 1], [1, -1]], axis, side, axis=1)
            faces.append(half * square)
    return quads(faces)


def rays(camera, size):
    """Directions [S, S, 3] through the pixel centres, of length 1 along the camera's axis."""
    at = ((np.arange(size) + 0.5) / size - 0.5) / camera.focal
    x, y = np.meshgrid(at, at)
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.rotation


def depth_of_sphere(camera, size, radius):
    d = rays(camera, size)
    a, b = (d * d).sum(-1), d @ camera.position
    root = b * b - a * (camera.position @ camera.position - radius**2)
    return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def depth_of_cube(camera, size, half):
    d = rays(camera, size)
    with np.errstate(divide="ignore"):
        first, second = (-half - camera.position) / d, (half - camera.position) / d
    enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return np.where(enter < leave, enter, np.inf)


def seen_depth(corners, camera, size):
    xy, depth = camera.project(np.asarray(corners, float), size)
    inverse = rasterise(xy, 1 / depth, size).inverse_depth
    with np.errstate(divide="ignore"):
        return 1 / inverse


@pytest.mark.parametrize("view", range(8))
def test_a_cube_has_the_depth_of_its_ray_intersections(view):
    corners = cube(0.5)
    camera = cameras(corners)[view]
    found, expected = seen_depth(corners, camera, SIZE), depth_of_cube(camera, SIZE, 0.5)
    both = np.isfinite(found) & np.isfinite(expected)
    assert (np.isfinite(found) != np.isfinite(expected)).sum() <= 2  # rays that graze an edge
    np.testing.assert_allclose(found[both], expected[both], rtol=1e-9)
    assert 0.25 < both.mean() < 0.95


def test_a_sphere_has_the_depth_and_the_area_of_its_ray_intersections():
    corners = sphere(1.0)
    camera = cameras(corners)[1]
    found, expected = seen_depth(corners, camera, 256), depth_of_sphere(camera, 256, 1.0)
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.sum() / np.isfinite(expected).sum() > 0.998
    inside = both & (expected < np.quantile(expected[both], 0.9))  # at the rim depth is steep: facets miss by more
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-3)  # of a radius of 1
    # The outline is a circle of radius focal * r / sqrt(d^2 - r^2).
    distance = np.linalg.norm(camera.position)
    radius = camera.focal / np.sqrt(distance**2 - 1)
    assert np.isfinite(found).mean() == pytest.approx(np.pi * radius**2, rel=2e-3)


def test_a_view_carries_depth_coverage_and_alpha():
    mesh = mesh_of(sphere(0.5, 48))
    camera = cameras(mesh.corners)[0]
    view = render(mesh, camera, 32)
    distance = np.linalg.norm(camera.position)
    radius = 32 * camera.focal * 0.5 / np.sqrt(distance**2 - 0.25)
    assert view.rgba[..., 3].sum() / 255 == pytest.approx(np.pi * radius**2, rel=0.01)
    assert ((view.rgba[..., 3] > 0) == (view.inverse_depth > 0)).all()
    assert 1 / view.inverse_depth.max() == pytest.approx(distance - 0.5, abs=5e-3)
    assert 6 < len(np.unique(view.rgba[..., 3])) <= SAMPLES**2 + 1  # the outline is smooth


def test_the_nearest_wins_whatever_the_order_or_the_direction_of_turning():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-1, 1, (60, 3, 3))
    camera = Camera(np.array([0, 0, 4.0]), np.diag([1.0, -1.0, -1.0]), FOCAL)
    straight = seen_depth(corners, camera, SIZE)
    turned = corners[::-1, ::-1]
    np.testing.assert_allclose(seen_depth(turned, camera, SIZE), straight, rtol=1e-9)
    one_by_one = np.min([seen_depth(corner[None], camera, SIZE) for corner in corners], axis=0)
    np.testing.assert_allclose(straight, one_by_one, rtol=1e-9)


def test_neighbours_leave_no_gap_and_do_not_overlap(monkeypatch):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-5, SIZE + 5, 20), np.linspace(-5, SIZE + 5, 20)), axis=-1)
    grid[1:-1, 1:-1] += rng.uniform(-1, 1, (18, 18, 2))
    grid[8:12] = np.round(grid[8:12]) + 0.5  # corners and edges right on samples
    flat = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2).reshape(-1, 4, 2)
    triangles = np.concatenate([flat[:, [0, 1, 2]], flat[:, [2, 3, 0]]])
    monkeypatch.setattr(raster, "BLOCK", 100)  # many blocks
    counts = np.zeros((SIZE, SIZE), int)
    for _, row, column in raster._fragments(triangles, SIZE):
        np.add.at(counts, (row, column), 1)
    np.testing.assert_array_equal(counts, 1)


def test_nothing_and_slivers_show_nothing_and_equals_do_not_flicker():
    empty = rasterise(np.zeros((0, 3, 2)), np.zeros((0, 3)), 8)
    assert (empty.triangle == -1).all() and not empty.inverse_depth.any()
    sliver = np.array([[[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]]])
    assert not rasterise(sliver, np.ones((1, 3)), 8).inverse_depth.any()
    twice = np.array([[[1.0, 1.0], [7.0, 1.0], [1.0, 7.0]]] * 2)
    assert set(np.unique(rasterise(twice, np.ones((2, 3)), 8).triangle)) == {-1, 1}  # of equals the later one


QUAD = quads([[[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]])
QUAD_UV = quads([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]])[..., :2]


def test_a_texture_lies_on_its_quad_in_perspective():
    texture = np.zeros((2, 2, 4), np.uint8)
    texture[..., 3] = 255
    texture[0, 0, 0] = texture[0, 1, 1] = texture[1, 0, 2] = 200  # red, green over blue, black
    mesh = mesh_of(QUAD @ np.diag([1, 0, 1]) + QUAD[..., [0, 2, 1]] * (0, 0, -1), QUAD_UV, (Material(texture=texture),))
    camera = cameras(mesh.corners)[0]  # the quad lies on the floor, v away from the viewer
    view = render(mesh, camera, SIZE)
    far, near = (camera.project(np.array([0, 0, z]), SIZE)[0][1] for z in (-1, 1))
    middle = camera.project(np.zeros(3), SIZE)[0][1]
    assert near - middle > middle - far + 1  # perspective, so the texture's middle is not the picture's
    strongest = view.rgba[..., :3].argmax(-1)
    for y, x, channel in ((far + 2, 20, 0), (middle - 2, 20, 0), (far + 2, 44, 1), (middle + 2, 20, 2)):
        assert strongest[int(y), x] == channel and view.rgba[int(y), x, 3] == 255
    assert view.rgba[int(middle + 2), 44, :3].max() < 60


def test_holes_in_a_texture_are_holes_in_the_depth():
    texture = np.full((2, 2, 4), 255, np.uint8)
    texture[:, 0, 3] = 0  # the left half is cut out
    back = QUAD * 0.9 - (0, 0, 0.5)
    uvs = np.concatenate([QUAD_UV, np.full_like(QUAD_UV, 0.99)])
    mesh = mesh_of(np.concatenate([QUAD, back]), uvs, (Material(texture=texture),))
    camera = Camera(np.array([0, 0, 8.0]), np.diag([1.0, -1.0, -1.0]), FOCAL)
    inverse = render(mesh, camera, SIZE).inverse_depth[SIZE // 2]
    assert inverse[[26, 38]] == pytest.approx([1 / 8.5, 1 / 8], rel=1e-6)


def test_glass_shows_what_is_behind_it_and_counts_as_a_surface():
    red, glass = Material((1.0, 0, 0)), Material((0, 0, 1.0), 0.25)
    mesh = mesh_of(np.concatenate([QUAD - (0, 0, 1), QUAD]), None, (red, glass), np.array([0, 0, 1, 1]))
    camera = Camera(np.array([0, 0, 8.0]), np.diag([1.0, -1.0, -1.0]), FOCAL)
    view = render(mesh, camera, SIZE)
    r, _, b, alpha = view.rgba[SIZE // 2, SIZE // 2].astype(int)
    assert r > 2 * b > 50 and alpha == 255
    assert 1 / view.inverse_depth[SIZE // 2, SIZE // 2] == pytest.approx(8, rel=1e-6)


def test_views_fill_the_picture_and_go_round_from_the_front():
    mesh = placed(mesh_of(cube(1.0)), np.eye(3), (2.0, 0.5, 1.0))
    np.testing.assert_allclose(np.ptp(mesh.corners, axis=(0, 1)), (2.0, 0.5, 1.0))
    reach = []
    for k, camera in enumerate(cameras(mesh.corners)):
        xy, depth = camera.project(mesh.corners, 1)
        reach.append(np.abs(xy - 0.5).max())
        assert depth.min() > 0
        azimuth = np.arctan2(camera.position[0], camera.position[2]) % (2 * np.pi)
        assert azimuth == pytest.approx(2 * np.pi * k / 8, abs=1e-9)
        assert camera.position[1] == pytest.approx(np.linalg.norm(camera.position) * np.sin(ELEVATION))
        np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
    assert max(reach) == pytest.approx(views.FILL / 2)
    up, right = (cameras(mesh.corners)[0].project(np.array(p), 1)[0] for p in ((0, 0.2, 0), (0.2, 0, 0)))
    assert up[1] < 0.5 < right[0]  # upright, not mirrored
