"""The UNet and its context encoder: published sizes, and what a reference may and may not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pretrain, stage2, super_res
from imagen_jax import model as model_lib
from imagen_jax import pretrained
from imagen_jax.nn.attention import CrossAttention, attend_in_place
from imagen_jax.planning.parameters import leaf_sizes
from tests import tiny

FINER = dict(context_levels=(1, 2), context_in_place=(1,), self_levels=(2,))  # as the laptop's model


def output(net, params, batch, context=None, text=None, drop_text=False, drop_context=False):
    """The UNet's raw output on noise at log-SNR 0."""
    return _output(net, params, text or batch.text, context or batch.context, drop_text, drop_context)


@functools.partial(jax.jit, static_argnums=0)
def _output(net, params, text, context, drop_text, drop_context):
    cond = model_lib.encode(net, params, text, context).drop(text=drop_text, context=drop_context)
    size = text.mask.shape[0]
    z = jax.random.normal(jax.random.key(1), (size, net.image_size, net.image_size, 3))
    return model_lib.predict(net, params, z, jnp.zeros(size), cond)


def difference(a, b):
    return float(jnp.abs(a - b).max())


@pytest.mark.parametrize(
    ("get_config", "published"),
    [(pretrain, 2.51e9), (stage2, 2.76e9), (super_res, 581e6)],
    ids=["base", "context", "sr"],
)
def test_paper_sizes_within_1_5_percent(get_config, published):
    sizes = leaf_sizes(get_config.get_config("paper"))
    unet = sum(size for name, size in sizes.items() if name.startswith("unet/"))
    assert abs(unet / published - 1) < 0.015


def test_output_is_zero_at_initialisation():
    net = model_lib.make_model(tiny.config())
    params = tiny.init(net)
    assert difference(output(net, params, tiny.batch()), 0.0) == 0.0
    assert difference(output(net, tiny.perturbed(params), tiny.batch()), 0.0) > 0.1


def test_adapted_model_starts_equal_to_the_one_it_takes_over():
    batch = tiny.batch()
    plain, before = tiny.model_and_params(context_levels=())
    adapted = model_lib.make_model(tiny.config(context_zero_start=True, context_pool=True))
    params, report = pretrained.warm_start(tiny.init(adapted, seed=3), before)
    assert report.new and all("context" in name for name in report.new)
    assert difference(output(adapted, params, batch), output(plain, before, batch)) == 0.0
    moved = tiny.perturbed(params)
    assert difference(output(adapted, moved, batch), output(adapted, moved, batch, drop_context=True)) > 0.01


def test_a_model_that_also_reads_finer_maps_starts_equal_to_the_one_that_does_not():
    batch = tiny.batch()
    plain, before = tiny.model_and_params()
    finer = model_lib.make_model(tiny.config(context_zero_start=True, **FINER))
    params, report = pretrained.warm_start(tiny.init(finer, seed=3), before)
    assert report.new and not report.unused
    assert difference(output(finer, params, batch), output(plain, before, batch)) == 0.0
    assert difference(output(finer, tiny.perturbed(params), batch), output(plain, before, batch)) > 0.01


@pytest.mark.parametrize("scan", [True, False])
def test_each_level_attends_to_the_map_of_its_own_resolution(scan):
    net, params = tiny.model_and_params(scan=scan, **FINER)
    batch = tiny.batch(slots=3)
    for project in (True, False):
        cond = jax.eval_shape(
            functools.partial(model_lib.encode, net, project=project), params, batch.text, batch.context
        )
        tokens = [jax.tree.leaves(row)[0].shape[-3 if project else -2] - project for row in cond.context]
        assert tokens == [3 * 16, 3 * 4, 3 * 4, 3 * 16]


@pytest.mark.parametrize("key", ["text_levels", "context_levels", "context_in_place", "self_levels"])
def test_a_level_that_does_not_exist_is_one_clear_line(key):
    with pytest.raises(ValueError, match=rf"^model\.{key}: there is no level 3, model\.channels has levels 1 to 2$"):
        model_lib.make_model(tiny.config(**{key: (2, 3)}))


SHAPES = [
    (dict(image_size=50), "model.image_size=50 must be a multiple of 4"),
    (dict(channels=(48, 144)), "model.channels=(48, 144): 144 does not divide"),
    (dict(channels=(72, 128)), "model.channels=(72, 128): 72 does not divide"),
    (dict(blocks=(1,)), "model.blocks=(1,) needs a number for each of model.channels=(8, 16)"),
    (dict(dtype="bf16"), "model.dtype 'bf16' is unknown: use one of float32, bfloat16"),
]


@pytest.mark.parametrize(("changes", "told"), SHAPES)
def test_a_shape_that_cannot_be_built_is_one_clear_line(changes, told):
    with pytest.raises(ValueError) as error:
        model_lib.make_model(tiny.config(**changes))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_attention_in_place_is_attention_to_the_same_place_of_each_reference():
    places, references = 9, 3
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, places, 2, 4))
    k, v = (jax.random.normal(key, (2, 1 + references * places, 2, 4)) for key in keys[1:])
    mask = jnp.array([[True, False, True], [False, False, False]])
    same = jnp.tile(jnp.eye(places, dtype=bool), references)[None] & jnp.repeat(mask, places, axis=1)[:, None]
    seen = jnp.pad(same, ((0, 0), (0, 0), (1, 0)), constant_values=True)  # the null pair, always
    expected = jax.nn.dot_product_attention(q, k, v, mask=seen[:, None])
    np.testing.assert_allclose(attend_in_place(q, k, v, mask), expected, atol=1e-6)


def test_self_attention_reads_every_place_of_its_own_map():
    layer, x = CrossAttention(channels=8, heads=2, head_dim=4), jax.random.normal(jax.random.key(0), (1, 3, 3, 8))
    params = layer.init(jax.random.key(1), x, None)
    moved = layer.apply(params, x.at[0, 2, 2].multiply(-1.0), None) - layer.apply(params, x, None)
    assert (jnp.abs(moved).max(-1) > 1e-4).all()


@pytest.mark.parametrize("in_place", [None, (), (1,)])
def test_a_masked_reference_has_exactly_zero_gradient(in_place):
    levels = dict(context_levels=(2,)) if in_place is None else FINER | dict(context_in_place=in_place)
    net, params = tiny.model_and_params(context_pool=True, **levels)
    batch = tiny.batch()
    mask = np.array([[True, False], [False, True]])

    def loss(features):
        cond = net.unet.apply({"params": params["unet"]}, *features, method="encode")
        z = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
        return jnp.square(net.unet.apply({"params": params["unet"]}, z, jnp.zeros(2), cond)).sum()

    encode_text = jax.jit(functools.partial(net.text_encoder.apply, {"params": params["text_encoder"]}))
    text = encode_text(batch.text.tokens, batch.text.mask)
    own_text = encode_text(batch.context.text.tokens, batch.context.text.mask)
    pictures = model_lib.to_float(jnp.asarray(batch.context.images))
    grad = jax.jit(jax.grad(lambda x: loss((text, batch.text.mask, (x, own_text, batch.context.text.mask, mask)))))(
        pictures
    )
    assert difference(grad[~mask], 0.0) == 0.0
    assert all(difference(g, 0.0) > 1e-4 for g in grad[mask])


def test_no_reference_and_no_text_give_numbers():
    net, params = tiny.model_and_params(context_pool=True)
    batch = tiny.batch()
    empty = batch.context.replace(mask=np.zeros((2, 2), bool))
    no_text = batch.text.replace(mask=np.zeros((2, 6), bool))
    grads = jax.jit(jax.grad(lambda p: jnp.square(output(net, p, batch, empty, no_text)).sum()))(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def test_order_of_the_references_carries_no_meaning():
    net, params = tiny.model_and_params(context_pool=True, **FINER)
    batch = tiny.batch()
    reversed_list = jax.tree.map(lambda x: x[:, ::-1], batch.context)
    assert difference(output(net, params, batch), output(net, params, batch, reversed_list)) < 1e-4


@pytest.mark.parametrize("positions", [True, False])
def test_swapping_pictures_between_markers_changes_the_output(positions):
    net, params = tiny.model_and_params(context_positions=positions)
    batch = tiny.batch()
    swapped = batch.context.replace(images=batch.context.images[:, ::-1])
    assert difference(output(net, params, batch), output(net, params, batch, swapped)) > 0.01


def test_position_code_tells_where_in_the_reference_a_pixel_is():
    """Without the code, attention over a 1-token-wide neighbourhood is blind to a permutation of its tokens."""
    tokens = jax.random.normal(jax.random.key(0), (1, 16, 8))
    from imagen_jax.nn.attention import CrossAttention, Tokens, sine_code

    for positions in (True, False):
        layer = CrossAttention(8, heads=2, head_dim=4, positions=positions)
        code = sine_code(4, 4, 8) if positions else 0.0

        def attend(module, x, y, code=code):
            return module(x, Tokens(y, y + code), jnp.ones((1, 16), bool))

        x = jax.random.normal(jax.random.key(1), (1, 4, 4, 8))
        params = layer.init(jax.random.key(2), x, tokens, method=attend)
        change = difference(*(layer.apply(params, x, y, method=attend) for y in (tokens, tokens[:, ::-1])))
        assert (change > 1e-2) == positions


def test_dropped_conditions_have_no_influence():
    net, params = tiny.model_and_params(context_pool=True, **FINER)
    batch, other = tiny.batch(seed=0), tiny.batch(seed=1)
    none = output(net, params, batch, drop_text=True, drop_context=True)
    assert (
        difference(none, output(net, params, batch, other.context, other.text, drop_text=True, drop_context=True))
        == 0.0
    )
    text_only = output(net, params, batch, drop_context=True)
    assert difference(text_only, output(net, params, batch, other.context, drop_context=True)) == 0.0
    assert difference(text_only, none) > 0.01
    assert difference(text_only, output(net, params, batch)) > 0.01


def test_pooled_references_reach_a_model_without_context_attention_on_them():
    """The pooled vector alone carries a reference: every layer's context attention is switched off."""
    net, params = tiny.model_and_params(context_pool=True)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if "context_attention" in jax.tree_util.keystr(path) else x, params
    )
    batch, other = tiny.batch(seed=0), tiny.batch(seed=1)
    assert difference(output(net, silent, batch), output(net, silent, batch, other.context)) > 1e-3


def test_shuffled_up_sampling_tells_the_quarters_of_a_position_apart():
    """One constant lower level: copied it stays constant away from the border, shuffled it has four values."""
    for mode, values in (("nearest", 1), ("shuffle", 4)):
        net, params = tiny.model_and_params(upsample=mode)
        h = jnp.ones((1, 8, 8, 16))
        fine = net.unet.apply({"params": params["unet"]}, 0, h, method="_finer")
        assert len(np.unique(np.round(np.asarray(fine[0, 4:-4, 4:-4, 0]), 4))) == values


def test_super_resolution_reads_its_low_resolution_picture_and_its_noise_level():
    net, params = tiny.model_and_params(lowres_size=4, context_levels=())
    batch = tiny.batch()
    cond = jax.jit(functools.partial(model_lib.encode, net))(params, batch.text)
    z, small = jnp.zeros((2, 8, 8, 3)), jax.random.normal(jax.random.key(0), (2, 4, 4, 3))

    @jax.jit
    def predict(lowres, logsnr):
        return model_lib.predict(net, params, z, jnp.zeros(2), model_lib.with_lowres(cond, lowres, logsnr))

    plain = predict(small, jnp.zeros(2))
    assert difference(plain, predict(-small, jnp.zeros(2))) > 0.01
    assert difference(plain, predict(small, jnp.full(2, 5.0))) > 0.01
