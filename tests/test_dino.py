"""DINO in JAX equals torch's recorded and live features, from every form of its weights; torch's newer file format."""

import io
import json
import pickle
import zipfile
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from data_pipelines.networks import dino
from data_pipelines.networks.torch_file import TorchFileError, read_state
from data_pipelines.networks.transformer import WeightsError
from imagen_jax.benchmarks import metrics

DATA = Path(__file__).parent / "data"
RECORDED = DATA / "dino.pth"
CONFIG = {"model_type": "vit", "hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 1,
          "num_hidden_layers": 2, "image_size": 12, "patch_size": 4, "layer_norm_eps": 1e-6}  # fmt: skip
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch: live parity; the recorded one runs")

apply = jax.jit(dino.apply, static_argnums=1)


def write_folder(folder: Path, **changes) -> Path:
    """The recorded weights as a Hugging Face folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file(dino.load(RECORDED)[0] | {"pooler.dense.weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as error:
        dino.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("form", ["pth", "folder", "folder with the .bin"])
def test_features_are_torch_s_recorded(tmp_path, form):
    path = RECORDED if form == "pth" else write_folder(tmp_path / "dino")
    if form.endswith("bin"):
        (path / "model.safetensors").unlink()
        (path / "pytorch_model.bin").write_bytes(zip_state(dino.load(RECORDED)[0]))
    params, config = dino.load(path)
    recorded = np.load(DATA / "dino.npz")
    np.testing.assert_allclose(apply(params, config, recorded["images"]), recorded["features"], atol=2e-5)


@needs_torch
def test_features_are_torch_s_live_with_several_heads(tmp_path):
    import torch
    from record_dino import SIDE, Vit, features

    torch.manual_seed(1)
    vit = Vit(heads=4)
    torch.save(vit.state_dict(), tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    torch.save(vit.state_dict(), tmp_path / "newer.pth")
    images = np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    for name in ("older.pth", "newer.pth"):
        params, config = dino.load(tmp_path / name)
        heads = dino.DinoConfig(**(vars(config) | {"num_attention_heads": 4}))  # of a width that no published one has
        np.testing.assert_allclose(apply(params, heads, images), features(vit, images), atol=2e-5)


def test_the_published_defaults_are_vit_s_16(tmp_path):
    config = dino.DinoConfig()
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (384, 6, 12)
    weights = sum(int(np.prod(shape)) for shape in dino._shapes(config).values())
    assert weights == 21_665_664  # as published: 21 million


def test_faults_are_one_line(tmp_path):
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(broken(tmp_path, "empty", CONFIG))
    assert "not a DINO folder" in refusal(broken(tmp_path, "bert", {"model_type": "bert"}))
    assert "config.json: unreadable" in refusal(tmp_path)
    assert "'swish' is not DINO's" in refusal(broken(tmp_path, "swish", CONFIG | {"hidden_act": "swish"}))
    assert "has the shape (20, 16), config.json asks for (24, 16)" in refusal(
        write_folder(tmp_path / "wide", intermediate_size=24)
    )
    (tmp_path / "other.pth").write_bytes(zip_state({"fc.weight": np.zeros((2, 2), np.float32)}))
    assert "lacks DINO's tensors" in refusal(tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(RECORDED.read_bytes()[:-99])
    assert "cut.pth: unreadable" in refusal(tmp_path / "cut.pth")
    assert "missing.pth: unreadable" in refusal(tmp_path / "missing.pth")


def broken(tmp_path: Path, name: str, config: dict) -> Path:
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(config))
    return tmp_path / name


# The published preparation


def test_pictures_are_prepared_as_the_benchmarks_say():
    picture = np.zeros((256, 512, 3), np.uint8)
    picture[:, 144:368] = (255, 102, 0)  # exactly the centre 224
    prepared = metrics.prepare_dino(picture)
    assert prepared.shape == (224, 224, 3)
    expected = (np.float32((1, 0.4, 0)) - np.float32((0.485, 0.456, 0.406))) / np.float32((0.229, 0.224, 0.225))
    np.testing.assert_allclose(prepared, np.broadcast_to(expected, prepared.shape), atol=1e-5)


def test_a_picture_is_first_scaled_by_bicubic_to_256():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)
    scaled = np.asarray(Image.fromarray(picture).resize((341, 256), Image.Resampling.BICUBIC), np.float32)
    found = metrics.prepare_dino(picture) * np.float32((0.229, 0.224, 0.225)) + np.float32((0.485, 0.456, 0.406))
    np.testing.assert_allclose(found * 255, scaled[16:240, 58:282], atol=1e-3)  # (341 - 224) / 2 to the even one


# torch's newer file format


def zip_state(tensors: dict[str, np.ndarray], byteorder: bytes = b"little") -> bytes:
    """The archive that torch.save writes, made without torch: a storage for each tensor."""
    keys = {name: str(i) for i, name in enumerate(tensors)}
    file, state = io.BytesIO(), io.BytesIO()
    pickler = _Pickler(state, protocol=2)
    pickler.dump({name: _Stored(keys[name], value) for name, value in tensors.items()})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", state.getvalue())
        archive.writestr("archive/byteorder", byteorder)
        for name, value in tensors.items():
            archive.writestr(f"archive/data/{keys[name]}", np.ascontiguousarray(value, np.float32).tobytes())
    return file.getvalue()


class _Stored:
    """A tensor that pickles as torch's do: a call of _rebuild_tensor_v2 on a persistent storage."""

    def __init__(self, key: str, value: np.ndarray):
        self.key, self.value = key, value

    def __reduce__(self):
        strides = tuple(step // self.value.itemsize for step in np.ascontiguousarray(self.value).strides)
        return _Global("torch._utils", "_rebuild_tensor_v2"), (
            _Storage(self.key),
            0,
            self.value.shape,
            strides,
            False,
            {},
        )


class _Storage(str):
    pass


class _Global:
    """A function that is named in the file and need not exist here."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError


class _Pickler(pickle._Pickler):
    def persistent_id(self, item):
        if isinstance(item, _Storage):
            return ("storage", _Global("torch", "FloatStorage"), str(item), "cpu", 0)
        return None

    def save(self, item, save_persistent_id=True):
        if isinstance(item, _Global):
            return self.write(b"c" + f"{item.module}\n{item.name}\n".encode())
        return super().save(item, save_persistent_id)


def test_an_archive_is_read_without_torch_and_without_trust():
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read_state(zip_state({"a": numbers}))["a"], numbers)
    with pytest.raises(TorchFileError, match="big-endian"):
        read_state(zip_state({"a": numbers}, b"big"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(TorchFileError, match=r"asks for os\.system"):
        read_state(file.getvalue())
