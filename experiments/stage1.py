"""Stage 1, retrieval-augmented text to image: neighbours of the target as references (paper, section 3.2).

    python -m imagen_jax.main --config=experiments/stage1.py[:laptop|:small|:paper]

It takes over the weights of runs/pretrain; the context attention is new and starts at zero, but for `:laptop`. What the
bare one gives stands in docs/training.md; the others were not measured.
"""

from experiments import common

STEPS = {"tiny": 400, "laptop": 600, "small": 1_000, "paper": 500_000}  # [P] the last


def get_config(size: str = "tiny"):
    config = common.get_config("stage1", size)
    common.follow(config, "pretrain", size)
    config.data.mixture.update(neighbors=1.0)  # for loader='records' made by `python -m data_pipelines.retrieval`
    config.data.max_references = 3  # [P] clusters of five pairs: the target, three neighbours and one to spare
    config.train.steps = STEPS[size]
    if size != "paper":  # the captions of three neighbours are longer than the other tasks' texts
        config.data.update(text_length=64, reference_text_length=24)
    if size == "laptop":
        config.model.context_zero_start = False  # too few steps to wake a layer that starts at zero
    elif size == "tiny":
        config.train.update(checkpoint_every=200, sample_every=200)
    return config
