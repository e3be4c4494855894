"""What `python -m imagen_jax.checkpoint describe` tells, from metadata alone, and its one line for each bad folder."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from imagen_jax import checkpoint, checkpoint_describe

CONFIG = {"name": "edit", "seed": 0, "model": {"image_size": 32, "channels": [8, 16]}, "train": {"batch_size": 4}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with the checkpoints of steps 1 and 2, whose state has the parts of TrainState."""
    workdir = tmp_path_factory.mktemp("run")
    noise = jax.random.normal(jax.random.key(0), (3, 3, 8, 16))  # what compresses well is stored in the index
    unet = {"conv": {"kernel": noise, "bias": jnp.ones(16)}}
    params = {"unet": unet, "text_encoder": {"embedding": jnp.ones((32, 4), jnp.bfloat16)}}
    state = {"step": jnp.int32(1), "params": params, "ema": params, "opt_state": [None, {"v": unet}]}
    checkpointer = checkpoint.Checkpointer(workdir / checkpoint.FOLDER, keep=2)
    for step in (1, 2):
        checkpointer.save(step, state, {"next_example": 4 * step, "config": CONFIG})
    checkpointer.close()
    return workdir


def test_every_number_is_that_of_the_state(workdir):
    found = checkpoint.describe(workdir)
    assert found == checkpoint.describe(workdir / checkpoint.FOLDER)
    folder = workdir / checkpoint.FOLDER
    on_disk = {step: sum(p.stat().st_size for p in (folder / step).rglob("*") if p.is_file()) for step in ("1", "2")}
    assert {str(row["step"]): row["bytes"] for row in found["checkpoints"]} == on_disk
    assert all(abs(row["saved"] - (folder / str(row["step"])).stat().st_mtime) < 60 for row in found["checkpoints"])
    assert (found["step"], found["next_example"]) == (2, 8)
    settings = {"name": "edit", "model.image_size": 32, "model.channels": [8, 16], "train.batch_size": 4}
    assert found["settings"] == settings | {"seed": 0}
    conv = dict(parameters=3 * 3 * 8 * 16 + 16, bytes=4 * (3 * 3 * 8 * 16 + 16), dtypes=["float32"])
    embedding = dict(parameters=32 * 4, bytes=2 * 32 * 4, dtypes=["bfloat16"])
    both = {key: conv[key] + embedding[key] for key in ("parameters", "bytes")} | {"dtypes": ["bfloat16", "float32"]}
    assert found["parts"] == {"unet": conv, "text_encoder": embedding, "ema": both, "opt_state": conv}
    first = found["largest"][0]
    assert first == dict(name="params/unet/conv/kernel", shape=[3, 3, 8, 16], dtype="float32", bytes=4608)
    assert [leaf["bytes"] for leaf in found["largest"]] == [4608, 256, 64]
    assert checkpoint.describe(workdir, step=1)["next_example"] == 4


def test_the_command_tells_it_as_text_and_as_json(workdir, capsys):
    assert checkpoint.main(["describe", str(workdir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == checkpoint.describe(workdir)
    assert checkpoint.main(["describe", str(workdir)]) == 0
    text = capsys.readouterr().out
    assert f"{workdir / checkpoint.FOLDER}: 2 checkpoints, " in text and "step 2, next example 8" in text
    assert "4.6 kB  float32[3, 3, 8, 16]  params/unet/conv/kernel" in text


def test_no_array_is_read(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "copy")
    for data in (tmp_path / "copy").rglob("d/*"):
        if data.parent.parent.name.startswith("ocdbt.process"):  # where the numbers are; state/d is their index
            data.write_bytes(b"")
    found, expected = checkpoint.describe(tmp_path / "copy"), checkpoint.describe(workdir)
    assert {name: found[name] for name in ("settings", "parts", "largest")} == {
        name: expected[name] for name in ("settings", "parts", "largest")
    }
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.restore_params(tmp_path / "copy" / checkpoint.FOLDER)


@pytest.mark.parametrize("lost", ["state/_METADATA", "state/manifest.ocdbt", "extra", "state"])
def test_a_damaged_checkpoint_is_one_line(workdir, tmp_path, lost, capsys):
    shutil.copytree(workdir, tmp_path / "copy")
    path = tmp_path / "copy" / checkpoint.FOLDER / "2" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    gc.collect()  # what an earlier test left half read is told on stderr when it goes
    capsys.readouterr()
    assert checkpoint.main(["describe", str(tmp_path / "copy")]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "2: not a readable checkpoint (" in told.err and told.err.endswith(f"{checkpoint.MEND}\n")
    assert checkpoint.main(["describe", str(tmp_path / "copy"), "--step=1"]) == 0


def test_a_folder_that_is_none_is_one_line(workdir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for directory, step, told in (
        (tmp_path, "1", "holds no complete checkpoint; train first"),
        (tmp_path / "absent", "1", "no such folder; train first, or give the folder with the checkpoints"),
        (tmp_path / "file", "1", "is a file, not a folder of checkpoints"),
        (workdir, "7", "no checkpoint of step 7, only 1, 2"),
    ):
        assert checkpoint.main(["describe", str(directory), f"--step={step}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("error: ") and error.endswith(f"{told}\n")


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1234567, "1.2 MB"), (4.2e15, "4200.0 TB")])
def test_sizes(count, text):
    assert checkpoint_describe.size(int(count)) == text
