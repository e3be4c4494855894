"""A release gives the weights back as bfloat16 keeps them, stands in for a run, and says when it is not whole."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from imagen_jax import export, partition, pipeline, release, runs, sample
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


def test_a_table_in_int8_is_as_near_as_its_rows_allow(folder, tmp_path):
    """And what else there is, as in bfloat16."""
    assert "int8" in export.export(folder, tmp_path / "smaller", "int8")
    mesh = partition.make_mesh(MESH)
    there, here = (flatten_dict(runs.open_run(path, mesh).params, sep="/") for path in (folder, tmp_path / "smaller"))
    table = np.asarray(there.pop("text_encoder/token_embedder/embedding"))
    step = np.abs(table).max(1, keepdims=True) / 127
    error = np.abs(here.pop("text_encoder/token_embedder/embedding") - table)
    assert error.max() > 0 and (error <= 0.501 * step).all()
    jax.tree.map(np.testing.assert_array_equal, here, there)
    sizes = [(path / "weights.safetensors").stat().st_size for path in (folder, tmp_path / "smaller")]
    assert sizes[1] < sizes[0]


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


@pytest.fixture
def frozen(folder, tmp_path):
    """A release whose text encoder was frozen and lay in another folder, which has moved to `folder` since."""
    config = tiny.config()
    config.text_encoder.update(frozen=True, weights=str(tmp_path / "gone"))
    config.data.tokenizer = str(tmp_path / "gone.model")
    unet = {"unet": tiny.model_and_params()[1]["unet"]}
    release.write_release(tmp_path / "frozen", unet, {"config": config_json(config), "next_example": 0})
    return tmp_path / "frozen"


def test_a_frozen_encoder_and_a_tokenizer_that_moved_are_named_when_opened(folder, frozen):
    mesh, given = partition.make_mesh(MESH), tiny.config()
    with pytest.raises(ValueError, match="gone"):
        runs.open_run(frozen, mesh, given)
    given.text_encoder.weights, given.data.tokenizer = str(folder), "here.model"
    run = runs.open_run(frozen, mesh, given)
    ours, theirs = run.params["text_encoder"], runs.open_run(folder, mesh).params["text_encoder"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert run.config.data.tokenizer == "here.model"
    given.sample.update(run=str(frozen), super_res=dict(workdir=""))
    assert pipeline.open_pipeline(given, "any").base.params["text_encoder"].keys() == ours.keys()


def test_held_out_texts_are_read_by_the_run_s_own_tokenizer(folder, frozen, tmp_path):
    given = tiny.config()
    given.text_encoder.weights = str(folder)
    given.sample.update(run=str(frozen), super_res=dict(workdir=""))
    with pytest.raises(ValueError, match=r"gone\.model: no such tokenizer"):
        sample.sample_held_out(given, tmp_path, 0)


@pytest.mark.parametrize("part", ["sample", "sample.super_res"])
def test_a_sampler_that_cannot_draw_is_told_before_its_model_is_read(part, folder):
    given = tiny.config()
    given.sample.update(run=str(folder), super_res=dict(workdir=str(folder)))
    given.update_from_flattened_dict({f"{part}.method": "ddmp"})
    with pytest.raises(ValueError, match=rf"^config\.{part}\.method 'ddmp' is unknown"):
        pipeline.open_pipeline(given, "any")


def test_export_does_not_read_a_frozen_encoder(frozen, tmp_path):
    export.export(frozen, tmp_path / "again")
    assert (tmp_path / "again/weights.safetensors").read_bytes() == (frozen / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("source", "sizes", "told"),
    [
        ("frozen", {}, r"frozen and is not in it; name its own weights, .*gone$"),
        ("small", dict(emb=32), r"scale is \(16,\) there and \(32,\) here; set text_encoder to"),
        ("small", dict(layers=2), r"layers_1/.* is absent there and \(16, 16\) here"),
    ],
)
def test_a_run_that_has_no_such_text_encoder_is_one_line(source, sizes, told, frozen, tmp_path):
    config = tiny.config()
    config.text_encoder.update(frozen=True, weights=str(tmp_path / source), **sizes)
    with pytest.raises(runs.RunError, match=told) as error:
        runs.load_frozen(config, partition.make_mesh(MESH))
    assert "\n" not in str(error.value)


def test_unknown_dtype(tmp_path):
    with pytest.raises(release.ReleaseError, match="none of bfloat16, int8, float32"):
        release.write_release(tmp_path, {}, {}, "int4")
