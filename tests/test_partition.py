"""Mesh sizes, the table's rules, the same loss on every mesh, and the batch's division."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from imagen_jax import optim, partition

DEVICES = jax.devices()[:8]
needs_eight = pytest.mark.skipif(len(DEVICES) < 8, reason="needs 8 devices (conftest.py makes virtual ones)")
MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 4, 2))


def mesh_of(data, fsdp, tensor):
    return partition.make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor}, DEVICES)


def specs(tree, mesh, table=partition.DEFAULT_TABLE):
    return jax.tree.map(lambda s: tuple(s.spec), partition.shardings(tree, mesh, table))


def arrays(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def test_one_device_needs_no_config():
    mesh = partition.make_mesh({"data": 1, "fsdp": -1, "tensor": 1}, DEVICES[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@needs_eight
def test_minus_one_takes_the_remaining_devices():
    assert dict(partition.make_mesh({"data": 2, "fsdp": -1}, DEVICES).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert mesh_of(2, 2, 2).devices.shape == (2, 2, 2)


@needs_eight
@pytest.mark.parametrize(
    "config, message",
    [
        ({"data": 3, "fsdp": -1}, "mesh data=3 fsdp=-1: the sizes must multiply to the 8 devices; set one to -1"),
        ({"fsdp": 4}, "mesh fsdp=4: the sizes must multiply to the 8 devices; set one to -1"),
        ({"model": 8}, "mesh model=8: unknown axis 'model'; the axes are data, fsdp, tensor"),
        ({"data": -1, "fsdp": -1}, "mesh data=-1 fsdp=-1: every size must be positive, and at most one may be -1"),
        ({"data": 0}, "mesh data=0: every size must be positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(config, message):
    with pytest.raises(partition.PartitionError) as error:
        partition.make_mesh(config, DEVICES)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@needs_eight
def test_a_bare_axis_goes_to_the_largest_axis_it_divides():
    tree = arrays(conv=(3, 3, 64, 128), reduce=(3, 3, 128, 3), odd=(1, 1, 9, 16), none=(3, 3, 3, 6))
    found = specs(tree, mesh_of(1, 4, 2), ((".*", "fsdp"),))
    assert found["conv"] == (None, None, None, "fsdp")
    assert found["reduce"] == (None, None, "fsdp", None)
    assert found["odd"] == (None, None, None, "fsdp")
    assert found["none"] == (None,) * 4


@needs_eight
def test_a_tuple_is_aligned_to_the_last_axes_and_drops_what_does_not_divide():
    tree = arrays(flat=(8, 6), stacked=(5, 8, 6), row=(6,), odd=(8, 7), scalar=())
    found = specs(tree, mesh_of(1, 4, 2), ((".*", ("fsdp", "tensor")),))
    assert found["flat"] == ("fsdp", "tensor")
    assert found["stacked"] == (None, "fsdp", "tensor")
    assert found["row"] == ("tensor",)
    assert found["odd"] == ("fsdp", None)
    assert found["scalar"] == ()
    assert specs(arrays(x=(16, 3)), mesh_of(2, 4, 1), ((".*", [["data", "fsdp"], None]),))["x"] == (
        ("data", "fsdp"),
        None,
    )


@needs_eight
def test_first_matching_row_wins_and_a_missing_row_is_one_line():
    mesh = mesh_of(1, 8, 1)
    assert specs(arrays(a=(8, 8)), mesh, (("a", ()), (".*", "fsdp")))["a"] == (None, None)
    with pytest.raises(partition.PartitionError, match=r"no row matches outer/a; end the table with"):
        partition.shardings({"outer": arrays(a=(8,))}, mesh, (("b", "fsdp"),))
    with pytest.raises(partition.PartitionError, match=r"a: unknown axis 'model'"):
        partition.shardings(arrays(a=(8,)), mesh, (("a", "model"),))


@needs_eight
def test_dropped_axes_are_logged_once(caplog):
    tree = {"kernel": jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32), "count": jax.ShapeDtypeStruct((1,), jnp.int32)}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            partition.shardings(tree, mesh_of(1, 8, 1), ((".*", "fsdp"),))
    assert [r.getMessage() for r in caplog.records] == [
        "partition: 1 leaves have no axis to divide as the table says, e.g. kernel [3, 3, 3, 5]"
    ]


def optimizer(name):
    config = {"name": name, "learning_rate": 1e-2, "warmup_steps": 0, "decay_share": 0.0, "clip_norm": 0.0}
    return optim.make_optimizer(ConfigDict(config | {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}), steps=1)


def unet_like():
    kernel = {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    attention = dict.fromkeys(("query", "key", "value", "out"), kernel)
    conv = {"kernel": jax.ShapeDtypeStruct((3, 3, 256, 512), jnp.float32), "bias": arrays(b=(512,))["b"]}
    return {"down_2": {"conv_1": conv, "text_attention": attention}, "scale": arrays(s=(256,))["s"]}


@needs_eight
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_optimizer_state_follows_its_parameters(name):
    mesh = mesh_of(1, 4, 2)
    params = unet_like()
    state = jax.eval_shape(optimizer(name).init, params)
    wanted = specs(params, mesh)
    moments = next(s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    kept = specs({"mu": moments.mu}, mesh)["mu"]
    if name == "muon":  # the kernels; the rest is Adafactor's
        kept = kept | {"scale": wanted["scale"]}
        kept["down_2"]["conv_1"]["bias"] = wanted["down_2"]["conv_1"]["bias"]
    assert kept == wanted
    assert wanted["down_2"]["text_attention"]["query"]["kernel"] == ("fsdp", "tensor")
    assert wanted["down_2"]["text_attention"]["out"]["kernel"] == ("tensor", "fsdp")
    assert wanted["down_2"]["conv_1"] == {"kernel": (None, None, None, "fsdp"), "bias": (None,)}


@needs_eight
@pytest.mark.parametrize("name", ["adafactor", "muon"])
@pytest.mark.parametrize("axes", MESHES)
def test_state_can_be_made_sharded(axes, name):
    tx, mesh = optimizer(name), mesh_of(*axes)
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), unet_like())
    placed = partition.shardings(jax.eval_shape(tx.init, params), mesh)
    state = jax.jit(tx.init, out_shardings=placed)(params)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, placed))


@needs_eight
def test_one_loss_on_every_mesh():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 8, 16)).astype(np.float32)},
        "attention": {"query": {"kernel": rng.normal(size=(16, 32)).astype(np.float32)}},
        "head": {"out": {"kernel": rng.normal(size=(32, 8)).astype(np.float32)}},
    }
    batch = {"x": rng.normal(size=(16, 8, 8, 8)).astype(np.float32)}

    def loss(params, batch):
        x = jax.lax.conv_general_dilated(
            batch["x"], params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.tanh(x @ params["attention"]["query"]["kernel"]) @ params["head"]["out"]["kernel"]
        return jnp.mean((x - batch["x"]) ** 2)

    expected, gradient = jax.value_and_grad(loss)(params, batch)
    shard_shapes = set()
    for axes in MESHES:
        mesh = mesh_of(*axes)
        placed = jax.device_put(params, partition.shardings(params, mesh))
        found, found_gradient = jax.jit(jax.value_and_grad(loss))(placed, partition.shard_batch(batch, mesh))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found_gradient, gradient)
        shard_shapes.add(tuple(str(leaf.addressable_shards[0].data.shape) for leaf in jax.tree.leaves(placed)))
    assert len(shard_shapes) == len(MESHES), "the meshes must differ in what a device holds"


@needs_eight
def test_shard_batch_splits_the_examples_over_data_and_fsdp():
    batch = {"image": np.arange(16 * 4, dtype=np.uint8).reshape(16, 4), "nothing": None}
    placed = partition.shard_batch(batch, mesh_of(2, 2, 2))
    assert placed["image"].addressable_shards[0].data.shape == (4, 4)
    np.testing.assert_array_equal(placed["image"], batch["image"])


@needs_eight
def test_activations_are_held_to_their_batch_axis_where_it_divides():
    mesh = partition.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})

    def held(x):
        with partition.on(mesh):
            return partition.split_batch(x)

    for rows, part in ((8, 2), (3, 3)):
        x = jax.device_put(jnp.ones((rows, 4)), NamedSharding(mesh, PartitionSpec()))
        assert jax.jit(held)(x).sharding.shard_shape(x.shape) == (part, 4)
        assert partition.split_batch(x) is x, "outside of the context"


@needs_eight
def test_an_array_is_read_one_part_at_a_time():
    mesh, whole, asked = partition.make_mesh({"fsdp": 4, "tensor": 2}), np.arange(32.0).reshape(8, 4), []
    sharding = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))

    def read(index):
        asked.append(whole[index].shape)
        return whole[index]

    np.testing.assert_array_equal(partition.make_array(whole.shape, sharding, read), whole)
    assert asked == [(2, 2)] * 8


@needs_eight
def test_a_batch_that_does_not_divide_is_one_line():
    with pytest.raises(
        partition.PartitionError,
        match=r"^a batch of 6 does not divide over data\*fsdp = 4 devices; choose a multiple of 4$",
    ):
        partition.shard_batch({"x": np.zeros((6, 2))}, mesh_of(2, 2, 2))
