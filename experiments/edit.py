"""Fine-tuning on editing: a content image and a change, as in the paper's Table 2.

    python -m imagen_jax.main --config=experiments/edit.py              the bundled edit pairs, 32 px
    python -m imagen_jax.main --config=experiments/edit.py:laptop       those of the full emoji corpus, 32 px
    python -m imagen_jax.main --config=experiments/edit.py:small        those of the full emoji corpus, 64 px
    python -m imagen_jax.main --config=experiments/edit.py:paper        MagicBrush, prepared as data/records/magicbrush

It takes over the weights of runs/stage2. Table 2 compares two other starts (`--config.init_from=RUN --workdir=DIR`):
instruction tuning without edits, runs/ablation_no_edit (for `:paper` runs/stage2_paper, which has none), and stage 1
for as many steps in all. The commands, and what came out at the bare size, stand in docs/comparisons.md.
"""

from experiments import common

STEPS = {"tiny": 200, "laptop": 400, "small": 200, "paper": 10_000}  # [P] the last


def get_config(size: str = "tiny"):
    config = common.get_config("edit", size)
    common.follow(config, "stage2", size)
    config.data.mixture.update({"magicbrush" if size == "paper" else "edit": 1.0})
    config.train.steps = STEPS[size]
    common.warm_up_within(config)
    if size in ("tiny", "laptop"):
        config.model.context_zero_start = False  # as in stage 2
    if size == "tiny":
        config.train.update(checkpoint_every=100, sample_every=100)
    return config
