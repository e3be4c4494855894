"""--mode=noise: what it says of gradients whose noise is known, and of real ones."""

import json

import jax
import jax.numpy as jnp
import pytest

from imagen_jax import gradient_noise
from imagen_jax.gradient_noise import Filling, NoiseError, collect, compared, measure_noise, told
from tests import tiny


def around(truth: dict, spread: float, count: int, seed: int) -> gradient_noise.Gradients:
    """Sums of `count` gradients, normally distributed around the true one."""
    keys = jax.random.split(jax.random.key(seed), count + 1)
    return collect(jax.tree.map(lambda x, k=k: x + spread * jax.random.normal(k, x.shape), truth) for k in keys)


def test_noise_is_what_was_put_in():
    truth = {"a": jnp.full((30, 10), 0.1), "b": jnp.full((100,), -0.2)}  # |G|^2 = 3 + 4
    first, second = around(truth, 0.4, 200, 1), around(truth, 0.2, 200, 2)
    found = {Filling(8, 1): first._replace(seconds=1.0), Filling(8, 4): second._replace(seconds=3.0)}
    rows = compared(found)
    assert [row["noise"] for row in rows] == pytest.approx([400 * 0.16 / 7, 400 * 0.04 / 7], rel=0.05)
    assert [row["cost"] for row in rows] == pytest.approx([1 + 64 / 7, 3 * (1 + 16 / 7)], rel=0.05)
    assert "--config.train.batch_size=8 --config.train.noises=4" in told({"fillings": rows})


def test_gradients_that_cancel_are_refused():
    up = {"a": jnp.ones(4)}
    down = jax.tree.map(jnp.negative, up)
    with pytest.raises(NoiseError, match=r"^2 gradients are too few .* raise config\.noise\.steps$"):
        compared({Filling(4, 1): collect([up, up, down])})


class Loader:
    """Batches of tiny random pictures, none of them twice."""

    def batches(self, start: int, size: int):
        while True:
            yield tiny.batch(size, seed=start)
            start += size


def test_more_examples_and_more_noises_are_less_noise(tmp_path, capsys):
    config = tiny.config()
    config.noise.update(fillings="8x1, 32x1, 8x4", steps=6)
    report = measure_noise(config, tmp_path / "run", Loader(), "command")
    few, many, copies = (row["noise"] for row in report["fillings"])
    assert many < 0.6 * few and copies < 0.9 * few
    assert json.loads((tmp_path / "run/noise.json").read_text()) == report
    assert "start from scratch" in capsys.readouterr().out


def test_settings_that_cannot_be_measured_are_told():
    config = tiny.config()
    assert gradient_noise.check(config) == [Filling(32, 1), Filling(16, 2), Filling(8, 4)]
    config.train.accumulate = 2  # on eight devices 8 examples cannot be split
    assert gradient_noise.check(config) == [Filling(32, 1), Filling(16, 2)]
    config.noise.fillings = "32x1,8x4"
    with pytest.raises(NoiseError, match=r"^config\.noise\.fillings, 8x4: .* choose a multiple of 16$"):
        gradient_noise.check(config)
    config.noise.fillings = "32x1,16"
    with pytest.raises(NoiseError, match=r"^config\.noise\.fillings: '16' is not EXAMPLESxNOISES, as in 32x1,16x4$"):
        gradient_noise.check(config)
    config.noise.update(fillings="32x1", steps=1)
    with pytest.raises(NoiseError, match=r"^config\.noise\.steps=1: at least 2 are needed"):
        gradient_noise.check(config)
