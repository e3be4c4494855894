"""A release gives the weights back as bfloat16 keeps them, stands in for a run, and says when it is not whole."""

import jax
import numpy as np
import pytest

from imagen_jax import export, partition, release, runs
from imagen_jax.train import config_json
from tests import tiny

MESH = dict(data=1, fsdp=-1, tensor=1)


@pytest.fixture
def folder(tmp_path):
    _, params = tiny.model_and_params()
    about = {"config": config_json(tiny.config()), "next_example": 7 * tiny.config().train.batch_size}
    release.write_release(tmp_path / "small", params, about)
    return tmp_path / "small"


def test_it_opens_as_a_run(folder):
    run = runs.open_run(folder, partition.make_mesh(MESH))
    net, params = tiny.model_and_params()
    assert run.model == net and run.step == 7
    assert jax.tree.structure(run.params) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(run.params), jax.tree.leaves(params), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs.astype("bfloat16").astype(np.float32))


def test_a_run_can_start_from_it(folder, tmp_path):
    config, mesh = tiny.config(), partition.make_mesh(MESH)
    config.init_from = str(folder)
    fresh = runs.init_params(config, tiny.model_and_params()[0], mesh)
    params, told = runs.take_over(config, fresh, runs.init_source(config, tmp_path / "run"), mesh)
    assert str(folder) in told
    assert not np.array_equal(jax.tree.leaves(params)[3], jax.tree.leaves(fresh)[3])


def test_a_run_in_the_other_form_of_its_blocks_is_refused(folder, tmp_path):
    config = tiny.config(scan=True)
    with pytest.raises(runs.RunError, match=r"set --config\.model\.scan=False") as told:
        runs.take_over(config, {}, folder, partition.make_mesh(MESH))
    assert "\n" not in str(told.value)


def test_a_cut_file_is_one_line(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(release.ReleaseError, match="not a whole release") as told:
        runs.open_run(folder, partition.make_mesh(MESH))
    assert "\n" not in str(told.value)


def test_export_of_a_release_is_the_release_again(folder, tmp_path):
    assert "MODEL_CARD.md" in export.export(folder, tmp_path / "again")
    assert (tmp_path / "again/weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_unknown_dtype(tmp_path):
    with pytest.raises(release.ReleaseError, match="none of bfloat16, float32"):
        release.write_release(tmp_path, {}, {}, "int4")
