"""T5-XXL's checkpoint, its names, depth, heads and files, at an eighth of its width: it streams onto the devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

EMB, HEADS, HEAD_DIM, MLP, LAYERS, VOCAB, FILES = 512, 64, 8, 1280, 24, 32128, 5
ROOT = Path(__file__).parent.parent


def shapes() -> dict[str, tuple[int, int] | tuple[int]]:
    """Hugging Face's names and shapes of the encoder of google/t5-v1_1-xxl (24 layers, 64 heads)."""
    inner, found = HEADS * HEAD_DIM, {"shared.weight": (VOCAB, EMB), "encoder.final_layer_norm.weight": (EMB,)}
    for i in range(LAYERS):
        attention, mlp = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        found |= {f"{attention}.SelfAttention.{name}.weight": (inner, EMB) for name in "qkv"}
        found |= {f"{attention}.SelfAttention.o.weight": (EMB, inner), f"{attention}.layer_norm.weight": (EMB,)}
        found |= {f"{mlp}.DenseReluDense.{name}.weight": (MLP, EMB) for name in ("wi_0", "wi_1")}
        found |= {f"{mlp}.DenseReluDense.wo.weight": (EMB, MLP), f"{mlp}.layer_norm.weight": (EMB,)}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return found | {bias: (32, HEADS)}


def write_folder(folder: Path) -> None:
    """Five files and their index, as the published folder has."""
    names, rng = list(shapes()), np.random.default_rng(0)
    weight_map = {}
    for number, part in enumerate(np.array_split(np.array(names), FILES), 1):
        file = f"model-{number:05}-of-{FILES:05}.safetensors"
        save_file({n: rng.standard_normal(shapes()[n], np.float32) for n in part.tolist()}, folder / file)
        weight_map |= dict.fromkeys(part.tolist(), file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = dict(model_type="t5", feed_forward_proj="gated-gelu", d_model=EMB, num_heads=HEADS, d_ff=MLP)
    config |= dict(num_layers=LAYERS, d_kv=HEAD_DIM, vocab_size=VOCAB)
    (folder / "config.json").write_text(json.dumps(config))


def test_xxl_streams_onto_eight_devices_in_less_memory_than_one_of_them_has(tmp_path):
    write_folder(tmp_path)
    command = [sys.executable, str(Path(__file__).parent / "load_sharded_t5.py"), str(tmp_path)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout.splitlines()[-1])
    assert took["devices"] == 8
    assert took["whole"] == 4 * sum(int(np.prod(shape)) for shape in shapes().values())
    assert took["share"] < 1.02 * took["whole"] / 8  # spread evenly, small leaves repeated
    assert took["beyond"] < took["share"], took
