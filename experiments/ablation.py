"""The paper's comparisons (Tables 3 and 4): stage 2 with one thing left out, every arm for as many steps.

    python -m imagen_jax.main --config=experiments/ablation.py:ARM[,laptop|small|paper]

Arms: full (stage 2 as it is); no_stage1 (starts from runs/pretrain; docs/comparisons.md starts it from one of equal
budget); no_instructions (captions alone: no word says what to do or what a reference is; not for paper, whose data sets
have their words); no_edit (without the task that the paper's stage 2 lacks, to be fine-tuned on it, Table 2); only_TASK
(a single-task model, e.g. only_line). Bare is tiny.
The runs are runs/ablation_ARM[_SIZE]; `python -m imagen_jax.evaluation.compare` puts their evaluations side by side.
"""

from experiments import common, stage1, stage2

STEPS = {"tiny": 300, "laptop": 1_000, "small": 400, "paper": 400_000}
ARMS = ("full", "no_stage1", "no_instructions", "no_edit")


def get_config(arguments: str = "full"):
    arm, _, size = arguments.partition(",")
    size = size or "tiny"
    config = stage2.get_config(size)
    config.name = common.run_name(f"ablation_{arm}", size)
    config.train.update(steps=STEPS[size], sample_every=0)
    common.warm_up_within(config)
    task = arm.removeprefix("only_")
    if arm == "no_stage1":
        common.follow(config, "pretrain", size)
        config.model.context_zero_start = stage1.get_config(size).model.context_zero_start  # it is as new as there
    elif arm == "no_instructions":
        if config.data.loader == "records":
            raise ValueError(f"experiments/ablation.py:{arguments}: its data sets have their words; use another arm")
        config.data.instructions = False
    elif arm == "no_edit":
        if "edit" not in config.data.mixture:
            raise ValueError(f"experiments/ablation.py:{arguments}: that is full, which has no edits: use it")
        others = {name: ratio for name, ratio in config.data.mixture.items() if name != "edit"}
        config.data.mixture = {name: ratio / sum(others.values()) for name, ratio in others.items()}
    elif arm != task and task in config.data.mixture:
        config.data.mixture = {task: 1.0}
    elif arm != "full":
        tasks = ", ".join(f"only_{name}" for name in config.data.mixture)
        raise ValueError(f"experiments/ablation.py:{arm}: unknown arm; use one of {', '.join(ARMS)}, {tasks}")
    return config
