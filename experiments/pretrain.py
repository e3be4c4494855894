"""Text-to-image pre-training: the 2.51B model that the paper adapts, without context attention (Imagen, 2205.11487).

    python -m imagen_jax.main --config=experiments/pretrain.py[:laptop|:small|:paper]

Starts from scratch. What the bare one gives stands in docs/training.md; the others were not measured.
"""

from experiments import common

STEPS = {"tiny": 400, "laptop": 1_000, "small": 1_500, "paper": 2_500_000}  # [P Imagen] the last


def get_config(size: str = "tiny"):
    config = common.get_config("pretrain", size)
    config.model.context_levels = ()
    config.data.mixture.update({"captions" if size == "paper" else "text_to_image": 1.0})
    config.data.max_references = 0
    config.train.steps = STEPS[size]
    if size == "tiny":
        config.train.update(checkpoint_every=200, sample_every=200)
    return config
