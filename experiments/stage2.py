"""Stage 2, instruction tuning on the mixture of tasks (paper, section 3.2 and Table 1).

    python -m imagen_jax.main --config=experiments/stage2.py            bundled pictures, 32 px, any laptop
    python -m imagen_jax.main --config=experiments/stage2.py:small      full emoji corpus, 64 px, one accelerator
    python -m imagen_jax.main --config=experiments/stage2.py:paper      the paper: 128 px, 2.76B, 64 TPU v4

Bare, it starts from runs/stage1 when that is there, else from scratch with a small T5 trained along. What it takes on
two cores and what you should see stands in README.md. `:small` and `:paper`: not measured.
"""

from experiments import common

EMOJI_MIXTURE = dict(
    text_to_image=0.10, line=0.14, edge=0.14, mask=0.10, subject=0.14, style=0.10, style_transfer=0.18, edit=0.10
)  # fmt: skip
# [P] Table 1, summed over the datasets of a task; its sketches are our line drawings.
PAPER_MIXTURE = dict(
    text_to_image=0.20, line=0.02, edge=0.06, depth=0.06, mask=0.06, subject=0.30, face=0.10, style=0.10,
    style_transfer=0.10
)  # fmt: skip
STEPS = {"tiny": 650, "small": 6_000, "paper": 400_000}  # [P] the last


def get_config(size: str = "tiny"):
    config = common.get_config("stage2", size)
    common.follow(config, "stage1", size)
    config.data.mixture.update(PAPER_MIXTURE if size == "paper" else EMOJI_MIXTURE)
    config.train.steps = STEPS[size]
    if size == "tiny":  # it often runs alone, and a model trained from scratch wants an ordinary start (WORKSPACE.md)
        config.model.context_zero_start = False
        config.train.update(checkpoint_every=100, sample_every=300)
    return config
