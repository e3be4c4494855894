"""Stage 2, instruction tuning on the mixture of tasks (paper, section 3.2 and Table 1).

    python -m imagen_jax.main --config=experiments/stage2.py            bundled pictures, 32 px, any laptop
    python -m imagen_jax.main --config=experiments/stage2.py:laptop     full emoji and furniture, 32 px, a laptop, hours
    python -m imagen_jax.main --config=experiments/stage2.py:small      full emoji and furniture, 64 px, one accelerator
    python -m imagen_jax.main --config=experiments/stage2.py:paper      the paper: 128 px, 2.76B, 64 TPU v4

Bare, it starts from runs/stage1 when that is there, else from scratch with a small T5 trained along. What it takes on
two cores and what you should see stands in docs/training.md. `:small` and `:paper`: not measured.
"""

from experiments import common

MIXTURES = {
    "tiny": dict(  # the bundled corpus has no depth
        text_to_image=0.10, line=0.14, edge=0.14, mask=0.10, subject=0.14, style=0.10, style_transfer=0.18, edit=0.10,
    ),
    "laptop": dict(  # more of what is hard to learn: subject and style
        text_to_image=0.08, line=0.11, edge=0.10, depth=0.08, mask=0.08, subject=0.18, style=0.14, style_transfer=0.15,
        edit=0.08,
    ),
    "small": dict(
        text_to_image=0.08, line=0.12, edge=0.13, depth=0.10, mask=0.08, subject=0.14, style=0.10, style_transfer=0.16,
        edit=0.09,
    ),
    "paper": dict(  # [P] Table 1, its eleven data sets; each a folder in data.records (data_pipelines.prepare)
        captions=0.15, wikiart=0.05,  # text to image
        depth=0.06, mask=0.06, edge=0.06, sketch=0.02,  # control
        subjects=0.30, celeba=0.05, celeba_hq=0.05,  # subject
        styles=0.10, style_transfer=0.10,
    ),
}  # fmt: skip
STEPS = {"tiny": 550, "laptop": 6_000, "small": 3_000, "paper": 400_000}  # [P] the last


def get_config(size: str = "tiny"):
    config = common.get_config("stage2", size)
    common.follow(config, "stage1", size)
    config.data.mixture.update(MIXTURES[size])
    config.train.steps = STEPS[size]
    if size == "laptop":
        config.model.context_zero_start = False  # as in its stage 1
        config.optim.update(name="muon", learning_rate=1e-3, decay_share=0.75)  # WORKSPACE.md has what it gave
        config.train.update(batch_size=8, noises=4)  # docs/training.md has what that gave
    elif size == "tiny":  # it often runs alone, and a model trained from scratch wants an ordinary start (WORKSPACE.md)
        config.model.context_zero_start = False
        config.train.update(checkpoint_every=100, sample_every=300)
    return config
