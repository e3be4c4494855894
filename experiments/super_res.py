"""Super-resolution under the text, the second model of the cascade (paper, appendix Table 5; Imagen, section 2.3).

    python -m imagen_jax.main --config=experiments/super_res.py[:laptop|:small|:paper]

Bare 32 -> 64 px, `:small` 64 -> 128, `:paper` 128 -> 1024. The UNet is new. The text encoder is that of the stage-2
run, but for `:paper`, where it is frozen T5. The bare one and the released one, of `:laptop`'s size, are measured in
docs/training.md; the others are not.
"""

from experiments import common

STEPS = {"tiny": 400, "laptop": 3_600, "small": 1_000, "paper": 2_500_000}  # [P Imagen] the last


def get_config(size: str = "tiny"):
    config = common.get_config("super_res", size, common.SUPER_RES)
    if not config.text_encoder.frozen:
        common.follow(config, "stage2", size)
    config.init_parts = ("text_encoder",)
    config.data.mixture.update({"captions" if size == "paper" else "text_to_image": 1.0})
    config.data.max_references = 0
    config.train.steps = STEPS[size]
    if size != "paper":
        # [I] So few steps had better start from interpolation, which errs by about this (bicubic 32 -> 64 px: 23.9 dB,
        # so 0.016 in [-1, 1]), and train on no more noise than Imagen samples with.
        config.model.lowres_gap = 0.02
        config.train.max_aug_level = 0.3
    if size == "tiny":
        config.train.update(batch_size=16, checkpoint_every=200, sample_every=200)
    elif size == "laptop":
        config.optim.update(name="muon", learning_rate=1e-3, decay_share=0.25)
    elif size == "paper":
        config.optim.name = "adam"  # [P Imagen]
        config.train.crop_size = 256  # [P Imagen] 1024 px pictures are trained on in crops
        config.data.records = "data/records_1024"  # prepared with --size=1024
    return config
