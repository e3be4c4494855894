"""Records and reads tests/data/t5_parity.npz: what the reference T5 1.1 implementation answers on random weights.

    pip install torch transformers   # in an environment of its own
    python tests/record_t5_parity.py

The file holds the weights under their Hugging Face names, so that it also stands in for a published folder.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FIXTURE = Path(__file__).parent / "data" / "t5_parity.npz"
LENGTHS = (150, 37, 1)  # real tokens a row; 150 reaches past the last relative-position bucket


def reference(seed: int):
    """A random reference model of three small layers, with every tensor moved, layer norms too."""
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    sizes = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=40, num_layers=3, num_heads=3)  # heads * d_kv != d_model
    model = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def answer(model, seed: int) -> dict[str, np.ndarray]:
    """Random tokens [3, 150], their mask, and the reference's output [3, 150, 32]."""
    import torch

    tokens = np.random.default_rng(seed).integers(0, 64, (len(LENGTHS), max(LENGTHS)))
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    with torch.no_grad():
        output = model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64)))
    return {"tokens": tokens.astype(np.int32), "mask": mask, "output": output.last_hidden_state.numpy()}


def main() -> None:
    model = reference(seed=0)
    weights = {f"tensor:{name}": weight.detach().numpy() for name, weight in model.named_parameters()}
    np.savez_compressed(FIXTURE, config=json.dumps(model.config.to_dict()), **answer(model, seed=0), **weights)


def fixture() -> dict[str, np.ndarray]:
    """The recorded arrays."""
    with np.load(FIXTURE) as file:
        return dict(file)


def tensors() -> dict[str, np.ndarray]:
    """The recorded weights under their Hugging Face names."""
    return {key.removeprefix("tensor:"): value for key, value in fixture().items() if key.startswith("tensor:")}


def write_folder(folder: Path, shards: int = 1) -> None:
    """Write the recorded weights as a Hugging Face folder; more than one shard adds the index."""
    (folder / "config.json").write_text(str(fixture()["config"]))
    if shards == 1:
        save_file(tensors(), folder / "model.safetensors")
        return
    files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors())}
    for file in set(files.values()):
        save_file({name: x for name, x in tensors().items() if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


if __name__ == "__main__":
    main()
