"""T5X checkpoints: plain and scanned, arrays inside and beside; one line for what is missing, cut off or misfits."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax import t5x
from imagen_jax.nn.t5 import T5Config, T5Encoder
from imagen_jax.pretrained import WeightsError

LAYERS = 3
CONFIG = dict(emb=32, heads=3, mlp=40, layers=LAYERS, head_dim=8, vocab_size=64)


def abstract(**sizes):
    encoder, tokens = T5Encoder(T5Config(**(CONFIG | sizes))), jnp.zeros((1, 4), jnp.int32)
    return jax.eval_shape(encoder.init, jax.random.key(0), tokens, tokens == 0)["params"]


def arrays() -> dict[str, np.ndarray]:
    """Random values for every leaf of the encoder, by path."""
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in flatten_dict(abstract(), sep="/").items()
    }


def stack(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scanned layout: the layers on axis 1 of one array."""
    first = "encoder/layers_0/"
    stacked = {path: x for path, x in leaves.items() if "layers_" not in path}
    for path in (path for path in leaves if path.startswith(first)):
        parts = [leaves[path.replace("layers_0", f"layers_{i}")] for i in range(LAYERS)]
        stacked[path.replace(first, "encoder/encoder/")] = np.stack(parts, axis=1)
    return stacked


def write(folder, leaves: dict[str, np.ndarray]):
    """A checkpoint as t5x writes it: small arrays in the msgpack file, others as zarr folders with a foreign path."""
    target = {}
    for path, x in (leaves | {"decoder/decoder_norm/scale": np.ones(32, np.float32)}).items():
        if x.ndim == 1:
            target[path] = x
            continue
        name = "target." + path.replace("/", ".")
        kvstore = {"driver": "file", "path": str(folder / name) + "/"}
        metadata = {"shape": x.shape, "chunks": [-(-size // 2) for size in x.shape], "dtype": "<f4"}
        spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
        tensorstore.open(spec, create=True).result().write(x).result()
        foreign = {"driver": "gfile", "path": f"/cns/somewhere/checkpoint_1/{name}"}
        target[path] = {"driver": "zarr", "dtype": "float32", "kvstore": foreign, "metadata": {"shape": list(x.shape)}}
    tree = {"version": 3, "optimizer": {"target": unflatten_dict(target, sep="/"), "state": {"step": np.int32(1)}}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint_1"), arrays())


def refusal(folder, **sizes) -> str:
    with pytest.raises(WeightsError) as error:
        t5x.load(folder, abstract(**sizes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_leaf_is_its_array(saved):
    assert t5x.is_checkpoint(saved) and not t5x.is_checkpoint(saved.parent)
    loaded, wanted = flatten_dict(t5x.load(saved, abstract()), sep="/"), arrays()
    assert loaded.keys() == wanted.keys()
    for path, x in wanted.items():
        np.testing.assert_array_equal(loaded[path], x)


def test_scanned_layers_are_the_same_weights(saved, tmp_path):
    scanned = t5x.load(write(tmp_path, stack(arrays())), abstract())
    jax.tree.map(np.testing.assert_array_equal, scanned, t5x.load(saved, abstract()))


def test_each_device_reads_its_own_part(saved, monkeypatch):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    asked = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), abstract())
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    placed = jax.tree.map(lambda x: rows if x.shape[0] % 2 == 0 else NamedSharding(mesh, PartitionSpec()), asked)
    read, sizes = t5x._Source.read, []
    monkeypatch.setattr(
        t5x._Source, "read", lambda self, index: sizes.append(read(self, index).shape) or read(self, index)
    )
    params = t5x.load(saved, asked, placed)
    table = params["token_embedder"]["embedding"]
    assert table.sharding == rows and table.dtype == jnp.bfloat16
    assert (64, 32) not in sizes and sizes.count((32, 32)) == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), params, t5x.load(saved, abstract())
    )


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


QUERY = "target.encoder.layers_1.attention.query.kernel"


def test_a_missing_chunk_is_not_read_as_zeros(copy):
    (copy / QUERY / "1.0").unlink()
    assert "chunk 1.0 of array encoder/layers_1/attention/query/kernel is missing" in refusal(copy)


def test_a_cut_off_chunk_is_named(copy):
    chunk = copy / QUERY / "1.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert "encoder/layers_1/attention/query/kernel" in refusal(copy)


def test_a_missing_array_is_named(copy):
    shutil.rmtree(copy / QUERY)
    assert "encoder/layers_1/attention/query/kernel cannot be opened" in refusal(copy)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (dict(layers=4), "encoder/layers_3/"),
        (dict(layers=2), "encoder/layers_2/"),
        (dict(mlp=48), "has shape (32, 40), encoder/layers_0/mlp/wi_0/kernel asks for (32, 48)"),
    ],
)
def test_other_sizes_are_refused(saved, sizes, said):
    assert said in refusal(saved, **sizes)


@pytest.mark.parametrize("layers", [2, 4])
def test_other_depths_of_a_scanned_checkpoint_are_refused(tmp_path, layers):
    assert "layers" in refusal(write(tmp_path, stack(arrays())), layers=layers)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    assert "give a T5X checkpoint_<step> folder" in refusal(tmp_path)
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize({"version": 3}))
    assert "not a T5X checkpoint" in refusal(tmp_path)
