"""T5 encoder: relative positions, padding, leading axes, sizes, and parity with the reference implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from record_t5_parity import answer, fixture, reference, write_folder

from imagen_jax.nn.t5 import T5_SIZES, T5Config, T5Encoder, relative_position_bucket
from imagen_jax.pretrained import load_t5, t5_config

CONFIG = T5Config(emb=16, heads=3, mlp=24, layers=2, head_dim=8, vocab_size=50)

# Of the published definition: 8 buckets of one offset, then 8 of which each spans a factor 16 ** (1 / 8).
BUCKET_OF_DISTANCE = {
    0: 0, 1: 1, 2: 2, 7: 7, 8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 22: 10, 23: 11, 31: 11, 32: 12, 45: 12, 46: 13,
    63: 13, 64: 14, 90: 14, 91: 15, 127: 15, 128: 15, 129: 15, 200: 15, 100_000: 15,
}  # fmt: skip


@pytest.fixture(scope="module")
def params():
    variables = jax.eval_shape(T5Encoder(CONFIG).init, jax.random.key(0), *text([4]))
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten(
        [jax.random.normal(k, x.shape) * 0.3 + (x.ndim == 1) for k, x in zip(keys, leaves, strict=True)]
    )


def text(lengths, width=12, seed=0):
    tokens = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (len(lengths), width))
    return tokens, np.arange(width) < np.array(lengths)[:, None]


def encode(params, tokens, mask, config=CONFIG, dtype=jnp.float32):
    return np.asarray(jax.jit(T5Encoder(config, dtype).apply)({"params": params}, tokens, mask))


def relative_error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_buckets_are_the_published_ones():
    distance = np.array(list(BUCKET_OF_DISTANCE))
    bucket = np.array(list(BUCKET_OF_DISTANCE.values()))
    np.testing.assert_array_equal(relative_position_bucket(-distance), bucket)  # keys before the query
    np.testing.assert_array_equal(relative_position_bucket(distance[1:]), bucket[1:] + 16)  # keys after it


def test_leaf_names_and_shapes_are_t5x_s(params):
    layer = {
        "pre_attention_layer_norm/scale": (16,),
        "attention/query/kernel": (16, 24),
        "attention/key/kernel": (16, 24),
        "attention/value/kernel": (16, 24),
        "attention/out/kernel": (24, 16),
        "pre_mlp_layer_norm/scale": (16,),
        "mlp/wi_0/kernel": (16, 24),
        "mlp/wi_1/kernel": (16, 24),
        "mlp/wo/kernel": (24, 16),
    }
    expected = {f"encoder/layers_{i}/{name}": shape for i in range(2) for name, shape in layer.items()}
    expected |= {"token_embedder/embedding": (50, 16), "encoder/encoder_norm/scale": (16,)}
    expected |= {"encoder/relpos_bias/rel_embedding": (3, 32)}  # one table for all layers
    assert {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()} == expected


def test_masked_tokens_have_no_influence(params):
    tokens, mask = text([12, 5, 1])
    other = np.where(mask, tokens, (tokens + 17) % CONFIG.vocab_size)
    assert (other != tokens).any()
    np.testing.assert_array_equal(encode(params, tokens, mask), encode(params, other, mask))


def test_real_tokens_have_influence_in_both_directions(params):
    tokens, mask = text([12])
    other = tokens.copy()
    other[0, 6] = (tokens[0, 6] + 1) % CONFIG.vocab_size
    change = np.abs(encode(params, tokens, mask) - encode(params, other, mask)).max(-1)[0]
    assert (change > 1e-4).all()


def test_more_padding_changes_nothing(params):
    tokens, mask = text([12, 5, 1])
    short = encode(params, tokens, mask)
    padding = ((0, 0), (0, 30))
    long = encode(params, np.pad(tokens, padding, constant_values=3), np.pad(mask, padding))
    np.testing.assert_allclose(long[:, :12], short, rtol=1e-5, atol=1e-5)


def test_empty_text_is_zeros_with_finite_gradients(params):
    tokens, mask = text([0, 12])
    y = encode(params, tokens, mask)
    assert (y[0] == 0).all() and (np.abs(y[1]).max(-1) > 0).all()
    grads = jax.jit(jax.grad(lambda p: T5Encoder(CONFIG).apply({"params": p}, tokens, mask).sum()))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_loop_over_the_layers_gives_what_the_layers_give(params):
    tokens, mask = text([12, 5, 1])
    looped = encode(params, tokens, mask, dataclasses.replace(CONFIG, scan=True))
    assert relative_error(looped, encode(params, tokens, mask)) < 1e-6


def test_any_number_of_leading_axes(params):
    tokens, mask = text([12, 5, 0, 1, 7, 3])
    flat = encode(params, tokens, mask)
    np.testing.assert_array_equal(
        encode(params, tokens.reshape(2, 3, 12), mask.reshape(2, 3, 12)).reshape(6, 12, 16), flat
    )
    np.testing.assert_allclose(encode(params, tokens[0], mask[0]), flat[0], rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_close_to_float32(params):
    y = encode(params, *text([12, 5]), dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert relative_error(y.astype(np.float32), encode(params, *text([12, 5]))) < 0.03


def test_initial_logits_have_unit_variance_without_the_scale():
    config = T5Config(emb=256, heads=8, mlp=16, layers=1, head_dim=64, vocab_size=8)
    params = jax.jit(T5Encoder(config).init)(jax.random.key(0), *text([1]))["params"]
    kernels = params["encoder"]["layers_0"]["attention"]
    x = jax.random.normal(jax.random.key(1), (200, 256))
    query, key = ((x @ kernels[name]["kernel"]).reshape(200, 8, 64) for name in ("query", "key"))
    logits = jnp.einsum("qhd,khd->hqk", query, key)[:, ~np.eye(200, dtype=bool)]
    np.testing.assert_allclose(logits.std(), 1.0, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("small", 35_332_800),
        ("base", 109_628_544),
        ("large", 341_231_104),
        ("xl", 1_223_527_424),
        ("xxl", 4_762_310_656),
    ],
)
def test_named_sizes_have_the_published_parameter_counts(name, count):
    shapes = jax.eval_shape(T5Encoder(T5_SIZES[name]).init, jax.random.key(0), *text([1]))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def check_parity(folder, tokens, mask, output):
    config = t5_config(folder)
    params = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, mask)["params"]
    found = encode(load_t5(folder, params), tokens, mask, config)
    assert relative_error(found[mask], output[mask]) < 1e-5


def test_parity_with_the_recorded_reference(tmp_path):
    recorded = fixture()
    write_folder(tmp_path)
    check_parity(tmp_path, recorded["tokens"], recorded["mask"], recorded["output"])


def test_parity_with_the_live_reference(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = reference(seed=7)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    check_parity(tmp_path, **answer(model, seed=7))
