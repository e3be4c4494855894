"""Foreign weights: T5 folders whole, sharded, damaged and misfitting; what a warm start takes over."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from record_t5_parity import tensors, write_folder
from safetensors.numpy import save_file

from imagen_jax.nn.t5 import T5Config, T5Encoder
from imagen_jax.pretrained import WeightsError, load_t5, t5_config, warm_start

CONFIG = T5Config(emb=32, heads=3, mlp=40, layers=3, head_dim=8, vocab_size=64)  # of the recorded weights
QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


def abstract(dtype=jnp.float32, **sizes):
    encoder = T5Encoder(T5Config(**(vars(CONFIG) | sizes)))
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), tokens, tokens == 0)["params"]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params)


def refusal(folder, **sizes):
    """The one line that load_t5 refuses with."""
    with pytest.raises(WeightsError) as error:
        load_t5(folder, abstract(**sizes))
    assert "\n" not in str(error.value)
    return str(error.value)


# T5 folders


def test_every_leaf_is_its_tensor(tmp_path):
    write_folder(tmp_path)
    params, saved = load_t5(tmp_path, abstract()), tensors()
    attention = params["encoder"]["layers_1"]["attention"]
    np.testing.assert_array_equal(attention["query"]["kernel"], saved[QUERY].T)
    np.testing.assert_array_equal(attention["out"]["kernel"], saved[QUERY.replace("q.w", "o.w")].T)
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], saved["shared.weight"])
    numbers = [sorted(np.sort(x, axis=None).tobytes() for x in xs) for xs in (jax.tree.leaves(params), saved.values())]
    assert numbers[0] == numbers[1]  # each tensor is taken once


def test_shards_give_what_one_file_gives(tmp_path):
    for name, shards in (("whole", 1), ("sharded", 3)):
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name, shards)
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    whole, sharded = (load_t5(tmp_path / name, abstract()) for name in ("whole", "sharded"))
    jax.tree.map(np.testing.assert_array_equal, whole, sharded)


def test_leaves_take_the_dtype_and_sharding_asked_for(tmp_path):
    write_folder(tmp_path)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    asked = abstract(jnp.bfloat16)
    rows, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), (None, "fsdp")))
    shardings = jax.tree.map(lambda x: columns if x.ndim == 2 else rows, asked)
    shardings["token_embedder"]["embedding"] = rows
    shardings["encoder"]["relpos_bias"]["rel_embedding"] = NamedSharding(mesh, PartitionSpec())
    params = load_t5(tmp_path, asked, shardings)
    jax.tree.map(lambda x, s: np.testing.assert_(x.sharding == s and x.dtype == jnp.bfloat16), params, shardings)
    whole = load_t5(tmp_path, abstract())
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), params, whole)


def test_bfloat16_files_are_read(tmp_path):
    save_file({name: x.astype(ml_dtypes.bfloat16) for name, x in tensors().items()}, tmp_path / "model.safetensors")
    kernel = load_t5(tmp_path, abstract())["encoder"]["layers_1"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors()[QUERY].T.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_a_decoder_and_either_name_of_the_table_are_fine(tmp_path):
    saved = tensors()
    saved["encoder.embed_tokens.weight"] = saved.pop("shared.weight")
    saved["decoder.block.0.layer.0.SelfAttention.q.weight"] = np.zeros((2, 2), np.float32)
    save_file(saved, tmp_path / "model.safetensors")
    params = load_t5(tmp_path, abstract())
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], saved["encoder.embed_tokens.weight"])


def test_missing_tensor_is_named(tmp_path):
    saved = tensors()
    del saved[QUERY]
    save_file(saved, tmp_path / "model.safetensors")
    line = refusal(tmp_path)
    assert f"tensor {QUERY} is missing" in line and "download the folder again" in line


def test_wrong_shape_names_tensor_both_shapes_and_mend(tmp_path):
    write_folder(tmp_path)
    line = refusal(tmp_path, mlp=48)
    assert "wi_0.weight has shape (40, 32), the config asks for (48, 32)" in line and "config.json" in line


@pytest.mark.parametrize(("layers", "named"), [(2, "encoder.block.2."), (4, "encoder.block.3.")])
def test_another_number_of_layers_is_refused(tmp_path, layers, named):
    write_folder(tmp_path)
    assert named in refusal(tmp_path, layers=layers)


def test_truncated_file_names_the_tensor(tmp_path):
    write_folder(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    header.pop("__metadata__", None)
    last = max(header, key=lambda name: header[name]["data_offsets"])
    file.write_bytes(whole[:-4])
    assert f"cut off before the end of tensor {last}; download the folder again" in refusal(tmp_path)
    for damaged in (whole[:100], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(damaged)
        assert "no safetensors header" in refusal(tmp_path)


def test_missing_shard_is_named(tmp_path):
    write_folder(tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    line = refusal(tmp_path)
    assert "model-00002-of-00003.safetensors: no such file" in line and "tensor encoder." in line


def test_folder_without_safetensors_is_refused(tmp_path):
    assert "give a Hugging Face T5 folder" in refusal(tmp_path)


def test_nothing_is_read_before_all_is_checked(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setattr("imagen_jax.pretrained.safe_open", lambda *_, **__: pytest.fail("read before checking"))
    refusal(tmp_path, mlp=48)


def test_sizes_come_from_config_json(tmp_path):
    write_folder(tmp_path)
    assert t5_config(tmp_path) == CONFIG


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feed_forward_proj": "relu"}, "not a T5 1.1"),
        ({"model_type": "umt5"}, "not a T5 1.1"),
        ({"d_kv": None}, "d_kv missing"),
    ],
)
def test_other_configs_are_refused(tmp_path, change, words):
    write_folder(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(WeightsError, match=words):
        t5_config(tmp_path)


def test_absent_or_broken_config_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json: No such file"):
        t5_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: not JSON"):
        t5_config(tmp_path)


# Warm start


def tree(**leaves):
    """'a__b' -> {'a': {'b': leaf}}."""
    nested = {}
    for name, shape in leaves.items():
        *parents, last = name.split("__")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
    return nested


def test_warm_start_takes_over_what_matches_and_says_so():
    params = tree(unet__down_0__conv__kernel=(3, 4), unet__down_1__conv__kernel=(3, 4), unet__context__out__kernel=(5,))
    loaded = tree(unet__down_0__conv__kernel=(3, 4), unet__down_1__conv__kernel=(3, 4), old__kernel=(2, 2))
    loaded["unet"]["down_0"]["conv"]["kernel"] += 1
    merged, report = warm_start(params, loaded)
    assert report.loaded == ("unet/down_0/conv/kernel", "unet/down_1/conv/kernel")
    assert report.new == ("unet/context/out/kernel",)
    assert report.unused == ("old/kernel",)
    flat, before, source = (flatten_dict(x, sep="/") for x in (merged, params, loaded))
    assert flat.keys() == before.keys()
    for path in report.loaded:
        np.testing.assert_array_equal(flat[path], source[path])
    np.testing.assert_array_equal(flat["unet/context/out/kernel"], before["unet/context/out/kernel"])
    assert report.summary() == (
        "loaded     2 leaves, 24 parameters: unet/down_*/conv 24\n"
        "new        1 leaves, 5 parameters: unet/context/out 5\n"
        "unused     1 leaves, 4 parameters: old 4"
    )


def test_summary_shows_the_largest_groups_and_counts_the_others():
    params = tree(a__k=(1,), b__k=(20,), c__k=(3000,), d__k=(2,))
    line = warm_start(params, {})[1].summary(groups=2).splitlines()[1]
    assert line == "new        4 leaves, 3,023 parameters: c 3,000; b 20; 2 more groups"


def test_warm_start_casts_to_the_dtype_of_the_model():
    params = {"kernel": jnp.zeros(3, jnp.bfloat16)}
    merged, _ = warm_start(params, {"kernel": np.array([1.0, 2.0, 3.001], np.float32)})
    assert merged["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged["kernel"].astype(np.float32), [1, 2, 3])


def test_warm_start_accepts_abstract_leaves():
    params = {"kernel": jax.ShapeDtypeStruct((3,), jnp.float32), "new": jax.ShapeDtypeStruct((2,), jnp.float32)}
    merged, report = warm_start(params, {"kernel": np.ones(3, np.float32)})
    np.testing.assert_array_equal(merged["kernel"], np.ones(3))
    assert merged["new"] is params["new"] and report.new == ("new",)


def test_warm_start_refuses_another_shape():
    with pytest.raises(WeightsError) as error:
        warm_start(tree(unet__conv__kernel=(3, 4)), tree(unet__conv__kernel=(4, 3)))
    assert str(error.value) == (
        "unet/conv/kernel: the model's shape is (3, 4), the loaded one (4, 3); "
        "give both runs the same model sizes, or start without init_from"
    )
