"""Text features in records: the same batches and losses as with the text encoder in the step, and what is refused."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import save_file

pytest.importorskip("tensorflow")
pytest.importorskip("array_record")

from data_pipelines import embed_text, features, records
from data_pipelines.images import encode_image
from data_pipelines.instruction import Instruction, Layout, context_text, layout_of, pack
from data_pipelines.loader import LoaderError, make_loader
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.records import RecordError, RecordReader
from data_pipelines.retrieval.clusters import MEMBERS, Cluster, Member, encode_cluster
from data_pipelines.text import load_tokenizer
from imagen_jax import model as model_lib
from imagen_jax import partition, pretrained, runs
from imagen_jax import train as train_lib
from imagen_jax.evaluation import training_report
from imagen_jax.nn.t5 import T5Config, T5Encoder
from imagen_jax.train_step import Objective, draw, losses
from tests import test_t5x, tiny
from tests.small_corpus import LAYOUT, make_memory_loader
from tests.small_run import write_run

TASKS = ("text_to_image", "style_transfer")
T5 = dict(emb=16, heads=2, head_dim=8, mlp=24, layers=2, vocab_size=32128)
COUNT = 6  # records of a set
DTYPES = ("float32", "bfloat16")


def t5_params(seed: int = 0) -> dict:
    encoder, token = T5Encoder(T5Config(**T5)), jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), token, token == 0)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def write_t5(folder, seed: int = 0):
    """A Hugging Face folder of random weights."""
    folder.mkdir()
    named = {}
    for path, leaf in flatten_dict(t5_params(seed), sep="/").items():
        turned = path.endswith(("/kernel", "/rel_embedding"))
        named[pretrained._tensor_name(path, "shared.weight")] = np.ascontiguousarray(leaf.T if turned else leaf)
    save_file(named, folder / "model.safetensors")
    sizes = {key: T5[field] for field, key in pretrained._SIZES.items()}
    config = {"model_type": "t5", "feed_forward_proj": "gated-gelu"} | sizes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_set(folder, encoded, splits=("train", "test"), **fields):
    with DatasetWriter(folder, shard_records=4) as writer:
        for split in splits:
            for record in encoded:
                writer.split(split).write(record)
            writer.split(split).finish(**{"kind": "examples", "size": LAYOUT.image_size, "licence": "ours"} | fields)
    return folder


def embed(inputs, output, weights, dtype="float32", **options):
    """The command's exit code."""
    given = [f"--{name}={value}" for name, value in options.items()]
    paths = ["--input", *map(str, inputs), f"--output={output}", f"--weights={weights}"]
    return embed_text.main([*paths, f"--dtype={dtype}", "--batch_size=8", *given])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A T5 folder, plain records of two tasks, and the same with features of either dtype."""
    root, memory = tmp_path_factory.mktemp("embed"), make_memory_loader(*TASKS)
    for task in TASKS:
        examples = [memory.example(i, task) for i in range(COUNT)]
        write_set(root / "plain" / task, [records.encode(e, f"{task}/{i}") for i, e in enumerate(examples)])
    write_t5(root / "t5")
    for dtype in DTYPES:
        assert embed([root / "plain" / task for task in TASKS], root / dtype, root / "t5", dtype) == 0
    return root


def config_of(root, records, precomputed=False, dtype="float32"):
    config = tiny.config(dtype=dtype)
    config.text_encoder.update(T5, frozen=True, weights=str(root / "t5"), precomputed=precomputed)
    config.data.mixture = ConfigDict(dict.fromkeys(TASKS, 0.5))
    config.data.update(loader="records", records=str(records))
    config.data.update(max_references=3, text_length=LAYOUT.text_length, reference_text_length=24)
    return config


def loader_of(config, split="train"):
    return make_loader(config.data, layout_of(config), split, seed=0)


def test_records_keep_everything_and_gain_the_features_of_their_own_texts(root):
    apply = jax.jit(T5Encoder(T5Config(**T5)).apply)
    encode = load_tokenizer().encode
    for task in TASKS:
        plain, more = (RecordReader(root / name / task / "train", "train") for name in ("plain", "float32"))
        assert more.verify() == len(plain) == COUNT
        for i in range(COUNT):
            before, after = records.decode(plain.read(i)), records.decode(more.read(i))
            assert (before.instruction.text, before.task) == (after.instruction.text, after.task)
            np.testing.assert_array_equal(before.target, after.target)
            old, new = (records.split_parts(reader.read(i)) for reader in (plain, more))
            assert new[1:-1] == old[1:]  # the pictures, byte for byte
            fields = [records.parse_header(header) for header in (old[0], new[0])]
            assert fields[1] == fields[0] | {"features": fields[1]["features"]}
            words = [after.instruction.text, *map(context_text, after.instruction.references)]
            for text, rows in zip(words, after.instruction.features, strict=True):
                ids = np.array([encode(text) + [0] * (80 - len(encode(text)))])
                wanted = apply({"params": t5_params()}, ids, np.arange(80)[None] < len(encode(text)))
                np.testing.assert_allclose(rows, wanted[0, : len(rows)], atol=2e-5)
                assert len(rows) == len(encode(text))


def test_the_manifest_says_what_made_the_features(root):
    manifests = {name: RecordReader(root / name / TASKS[1] / "test", "test").manifest for name in ("plain", *DTYPES)}
    about = manifests["bfloat16"]["text_features"]
    assert about | {"width": 16, "dtype": "bfloat16", "weights": str(root / "t5")} == about
    assert about["digest"] == embed_text.digest(t5_params()) != embed_text.digest(t5_params(1))
    assert manifests["bfloat16"]["licence"] == "ours" and manifests["bfloat16"]["longest"]["references"] == 2
    readers = [RecordReader(root / name / TASKS[1] / "test", "test") for name in ("plain", *DTYPES)]
    sizes = [sum(len(reader.read(i)) for i in range(COUNT)) for reader in readers]
    assert sizes[2] - sizes[0] < 0.6 * (sizes[1] - sizes[0])  # half the bytes, and a few of JSON
    assert manifests["plain"] == {key: manifests["float32"][key] for key in manifests["plain"] if key != "shards"} | {
        "shards": manifests["plain"]["shards"]
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_streamed_batches_carry_them_and_are_otherwise_the_same(root, dtype):
    configs = config_of(root, root / "plain"), config_of(root, root / dtype, True)
    plain, more = (loader_of(config, "test") for config in configs)
    streams = [loader.batches(3, 8) for loader in (plain, more)]
    before, after = (next(stream) for stream in streams)
    for texts, words in ((after.text, before.text), (after.context.text, before.context.text)):
        assert texts.features.dtype == features.DTYPES[dtype] and words.features is None
        assert texts.features.shape == (*texts.mask.shape, 16)
        assert (np.abs(texts.features.astype(np.float32)).sum(-1) > 0).tolist() == texts.mask.tolist()
    jax.tree.map(np.testing.assert_array_equal, after, more.batch(3, 8))
    bare = after.replace(text=after.text.replace(features=None))
    bare = bare.replace(context=after.context.replace(text=after.context.text.replace(features=None)))
    jax.tree.map(np.testing.assert_array_equal, bare, before)
    assert loader_of(config_of(root, root / dtype)).batch(3, 8).text.features is None  # T5 in the step reads either
    markers = [loader_of(config).batch(0, 8, "style_transfer").context.text.tokens[:, 0, 0] for config in configs]
    assert len(set(markers[0])) > 1 and len(set(markers[1])) == 1  # stored features are of the markers as prepared


@functools.cache
def unet_params():
    """Of config_of's model, every leaf random; dtype and text encoder change none of them."""
    model = model_lib.make_model(config_of(Path(), ""))
    shapes = jax.eval_shape(functools.partial(model_lib.init, model), jax.random.key(0))["unet"]
    rng = np.random.default_rng(0)
    return {"unet": jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)}


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_the_losses_are_those_of_the_encoder_in_the_step(root, dtype, tolerance):
    found = []
    for name, precomputed in (("plain", False), (dtype, True)):
        config = config_of(root, root / name, precomputed, dtype)
        model, objective = model_lib.make_model(config), Objective(runs.make_schedule(config), 0.1, 0.1, 0)
        params = unet_params() | ({} if precomputed else {"text_encoder": t5_params()})
        draws = draw(model, objective, 8, jax.random.key(0))
        found.append(
            jax.jit(losses, static_argnums=(0, 1))(
                model, objective, params, loader_of(config, "test").batch(0, 8), draws
            )
        )
    np.testing.assert_allclose(found[1], found[0], rtol=tolerance)
    assert np.ptp(found[0]) > 0.01  # the examples do differ


def test_the_features_go_with_the_references_that_are_shuffled(root):
    batch = loader_of(config_of(root, root / "float32", True)).batch(0, 4, "style_transfer")
    shuffled = training_report.shuffle_references(batch)
    np.testing.assert_array_equal(shuffled.context.text.features[1:], batch.context.text.features[:-1])
    assert shuffled.text.features is batch.text.features


def test_a_run_trains_without_the_encoder_and_samples_with_it(root, tmp_path, monkeypatch):
    config = config_of(root, root / "float32", precomputed=True)
    config.init_from = ""

    def loop(trainer, state, window, _signals):
        """One step, traced and not compiled, which would take long; and a checkpoint."""
        assert set(state.params) == {"unet"} and trainer.frozen == {}
        parts = config, trainer.model, trainer.tx, trainer.loader.tasks, trainer.mesh
        jax.eval_shape(train_lib.compile_step(*parts), state, trainer.frozen, trainer.loader.batch(0, 8))
        train_lib.save(trainer, state, 1, window)
        return state

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "load_t5", lambda *_: pytest.fail("training read the text encoder"))
        patch.setattr(train_lib, "loop", loop)
        patch.setattr(train_lib, "finish", lambda *_: None)
        train_lib.train(config, tmp_path, loader_of(config), loader_of(config, "test"))
    run = runs.open_run(tmp_path, partition.make_mesh(config.mesh))
    jax.tree.map(np.testing.assert_array_equal, run.params["text_encoder"], t5_params())
    text, context = pack(Instruction("a fox"), load_tokenizer(), layout_of(run.config))
    assert text.features is None and context.text.features is None  # new words: to be encoded now


def test_settings_that_cannot_work_are_told_before_training(root, tmp_path):
    config = config_of(root, root / "float32", precomputed=True)
    for part, key, value in (
        ("data", "loader", "memory"),
        ("text_encoder", "weights", ""),
        ("text_encoder", "frozen", False),
    ):
        changed = ConfigDict(config.to_dict())
        changed[part][key] = value
        with pytest.raises(train_lib.TrainError, match=r"text_encoder.precomputed=True needs data.loader='records'"):
            train_lib.check(changed, tmp_path)


def refused(config, **changes):
    config.text_encoder.update(changes)
    with pytest.raises(LoaderError) as caught:
        loader_of(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_data_sets_that_do_not_fit_are_one_line_when_opened(root, tmp_path):
    told = refused(config_of(root, root / "plain", True))
    assert "holds no text features" in told and f"embed_text --input {root / 'plain' / TASKS[0]}" in told
    told = refused(config_of(root, root / "float32", True), emb=32)
    assert f"16 wide ({root / 't5'}), and text_encoder.emb is 32" in told
    (tmp_path / TASKS[0]).symlink_to(root / "float32" / TASKS[0])
    assert embed([root / "plain" / TASKS[1]], tmp_path, write_t5(tmp_path / "other", seed=1)) == 0
    assert "by another encoder, tokenizer or --dtype than" in refused(config_of(root, tmp_path, True))
    config = config_of(root, root / "float32", True)
    config.data.text_length = 4
    assert "longest text are" in refused(config)


def test_features_of_other_tokens_are_refused_when_read(root):
    reader = RecordReader(root / "float32" / TASKS[1] / "train", "train")
    instruction = records.decode(reader.read(0)).instruction
    layout = Layout(16, 3, LAYOUT.text_length, 24, feature_width=16)
    swapped = instruction.features[1], instruction.features[0], instruction.features[2]
    for wrong in (swapped, instruction.features[:2], tuple(rows[:, :8] for rows in instruction.features)):
        with pytest.raises(features.FeatureError, match="embed again"):
            pack(type(instruction)(instruction.text, instruction.references, features=wrong), load_tokenizer(), layout)


def test_damaged_features_are_one_clear_line(root):
    record = RecordReader(root / "bfloat16" / TASKS[0] / "train", "train").read(0)
    header, *files = records.split_parts(record)
    for changed in (
        [header, *files[:-1], files[-1][:-2]],
        [header, *files[:-1], b""],
        [header.replace(b"bfloat16", b"complex7"), *files],
        [header.replace(b'"tokens"', b'"token"'), *files],
        [header, *files[:-1]],
    ):
        with pytest.raises(RecordError) as caught:
            records.decode(records.join_parts(changed))
        assert "\n" not in str(caught.value)


def test_a_recurring_text_is_encoded_once_and_memory_is_bounded(root, monkeypatch):
    encoder = embed_text.TextEncoder(str(root / "t5"), "", "", "bfloat16", batch_size=8)
    first = encoder.features(["a fox", "a cat", "a fox"])
    again = encoder.features(["a fox", "a dog"])
    assert encoder.encoded == 3 and first["a fox"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(first["a fox"], again["a fox"])
    monkeypatch.setattr(embed_text, "REMEMBERED", 0)
    assert set(encoder.features(["a cat", "a hat"])) == {"a cat", "a hat"} and not encoder._latest


def test_what_cannot_be_embedded_is_one_line_and_leaves_nothing(root, tmp_path, capsys):
    picture = encode_image(np.zeros((4, 4, 3), np.uint8), "png")
    cluster = encode_cluster(Cluster((Member("a thing", picture),) * MEMBERS, np.eye(MEMBERS)))
    clusters = write_set(tmp_path / "neighbors", [cluster], kind="clusters", threshold=0.9)
    broken = write_set(tmp_path / "broken", [records.join_parts([b"{}", picture])])
    plain, output = root / "plain" / TASKS[0], tmp_path / "out"
    for folder, weights, words in (
        (clusters, root / "t5", "holds clusters, whose words are drawn when read"),
        (root / "float32" / TASKS[0], root / "t5", "has text features already"),
        (tmp_path / "nowhere", root / "t5", "no data set, it has none of train, validation, test"),
        (plain, tmp_path / "nowhere", "nowhere/config.json: No such file"),
        (broken, root / "t5", "00000.array_record: record 0: the record's JSON is damaged"),
    ):
        assert embed([folder], output, weights) == 2
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(err) == 1 and words in err[0]
        assert not output.exists() or not list(output.iterdir())
    assert embed([plain], root / "float32", root / "t5") == 2
    assert "exists already" in capsys.readouterr().err


def test_two_folders_of_one_name_are_one_line(tmp_path, capsys):
    folders = [write_set(tmp_path / name / "edge", [b"record"]) for name in "ab"]
    assert embed(folders, tmp_path / "out", tmp_path / "nowhere") == 2
    assert "a/edge: another --input is called so, too: embed each to an --output of its own" in capsys.readouterr().err


def test_the_encoder_may_be_a_runs_or_a_t5x_checkpoint(tmp_path, monkeypatch):
    mesh = partition.make_mesh({"fsdp": -1})
    config, params = embed_text.load_encoder(str(write_run(tmp_path / "run")), "", mesh)
    assert params["token_embedder"]["embedding"].shape == (config.vocab_size, config.emb) == (32128, 16)
    (tmp_path / "t5x").mkdir()
    test_t5x.write(tmp_path / "t5x", test_t5x.arrays())
    with pytest.raises(embed_text.EmbedError, match=r"a T5X checkpoint does not tell its sizes: give --size=small"):
        embed_text.load_encoder(str(tmp_path / "t5x"), "", mesh)
    monkeypatch.setitem(embed_text.T5_SIZES, "small", T5Config(**test_t5x.CONFIG))
    _, params = embed_text.load_encoder(str(tmp_path / "t5x"), "small", mesh)
    saved = test_t5x.arrays()
    assert {path: leaf.tobytes() for path, leaf in flatten_dict(jax.device_get(params), sep="/").items()} == {
        path: leaf.tobytes() for path, leaf in saved.items()
    }
