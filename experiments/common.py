"""Every key of an experiment, with its default, and the named model sizes. The files beside this one pick from here.

[P] marks a value of the paper (arXiv 2401.01952; P Imagen: 2205.11487), [I] a choice of ours where it is silent.
"""

from ml_collections import ConfigDict

from imagen_jax.partition import DEFAULT_TABLE

# One text encoder a size; the paper's is T5 v1.1 XXL, frozen. The others are trained along with the UNet.
TEXT_ENCODERS = {
    "tiny": dict(emb=64, heads=4, head_dim=16, mlp=128, layers=2, frozen=False),
    "laptop": dict(emb=128, heads=4, head_dim=32, mlp=256, layers=2, frozen=False),
    "small": dict(emb=256, heads=8, head_dim=32, mlp=512, layers=4, frozen=False),
    "paper": dict(emb=4096, heads=64, head_dim=64, mlp=10240, layers=24, frozen=True),
}

# Levels count from 1 and work at image_size / 2^level (Table 5).
BASE = {
    "tiny": dict(
        image_size=32, channels=(48, 128), blocks=(1, 2), text_levels=(2,), context_levels=(2,),
        heads=4, head_dim=32, cond_channels=128, context_positions=True,
    ),
    "laptop": dict(
        image_size=32, channels=(128, 160), blocks=(4, 3), self_levels=(2,), text_levels=(2,), context_levels=(1, 2),
        context_in_place=(1,), heads=4, head_dim=32, cond_channels=160, context_positions=True, context_pool=True,
        upsample="shuffle",
    ),
    "small": dict(
        image_size=64, channels=(192, 448), blocks=(4, 4), text_levels=(2,), context_levels=(2,),
        heads=8, head_dim=64, cond_channels=512, context_positions=True, dtype="bfloat16",
    ),
    "paper": dict(  # [P] Table 5; cond_channels [I]: the value that gives 2.51B and 2.76B
        image_size=128, channels=(512, 1024, 2048), blocks=(8, 8, 8), text_levels=(3,), context_levels=(3,),
        heads=32, head_dim=64, cond_channels=512, context_positions=False, dtype="bfloat16",
    ),
}  # fmt: skip

SUPER_RES = {
    "tiny": dict(
        image_size=64, lowres_size=32, channels=(24, 48, 96), blocks=(1, 1, 2), text_levels=(3,), context_levels=(),
        heads=4, head_dim=24, cond_channels=96,
    ),
    "laptop": dict(
        image_size=64, lowres_size=32, channels=(64, 64, 128), blocks=(2, 1, 2), text_levels=(3,), context_levels=(),
        heads=4, head_dim=32, cond_channels=128,
    ),
    "small": dict(
        image_size=128, lowres_size=64, channels=(64, 128, 256, 384), blocks=(2, 2, 4, 4), text_levels=(4,),
        context_levels=(), heads=8, head_dim=48, cond_channels=256, dtype="bfloat16",
    ),
    "paper": dict(  # [P] Table 5, 8 heads; head_dim and cond_channels [I]: the values that give 581M
        image_size=1024, lowres_size=128, channels=(128, 256, 512, 1024), blocks=(2, 4, 8, 8), text_levels=(4,),
        context_levels=(), heads=8, head_dim=64, cond_channels=512, dtype="bfloat16",
    ),
}  # fmt: skip

# [I] Drawings stand on white, 1.0: dynamic thresholding divides by what overshoots it, so that white becomes gray. And
# their flat colours show the noise that super-resolution's input is given. 16 steps of the solver take a quarter of the
# time of 64 of ddpm.
DRAWINGS = dict(
    method="dpm_solver_2m", steps=16, guidance="constant", threshold="static",
    super_res=dict(threshold="static", aug_level=0.02),
)  # fmt: skip

# What follows from the machine that a size is for; everything else is the paper's.
SCALE = {
    "tiny": dict(  # two CPU cores and the bundled pictures
        optim=dict(name="muon", learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),  # docs/training.md
        train=dict(batch_size=32, log_every=20),
        sample=dict(guidance_weight=2.0, **DRAWINGS),
    ),
    "laptop": dict(  # two CPU cores for some hours, the full emoji and furniture corpora
        data=dict(corpus="data/emoji,data/furniture", max_references=3),
        optim=dict(learning_rate=1.5e-3, warmup_steps=50, ema_decay=0.998),
        train=dict(batch_size=32, log_every=20, checkpoint_every=100, sample_every=1000),
        sample=dict(guidance_weight=2.0, **DRAWINGS),
    ),
    "small": dict(  # one accelerator, the same corpora
        data=dict(corpus="data/emoji,data/furniture"),
        optim=dict(learning_rate=3e-4, warmup_steps=500, ema_decay=0.999),
        train=dict(batch_size=256, sample_every=2000),
        sample=dict(guidance_weight=3.0, **DRAWINGS),
    ),
    "paper": dict(  # 64 TPU v4
        data=dict(loader="records", max_references=3, text_length=128, reference_text_length=32),
        model=dict(remat="block", scan=True),
        train=dict(checkpoint_every=5000),
    ),
}


def get_config(name: str, size: str, unets: dict = BASE) -> ConfigDict:
    """All keys of one experiment at one size; the experiment's file then sets what it is about.

    Raises:
      ValueError: an unknown size.
    """
    if size not in SCALE:
        raise ValueError(f"experiments/{name}.py:{size}: unknown size; use one of {', '.join(SCALE)}, or nothing")
    config = defaults(run_name(name, size))
    config.model.update(unets[size])
    config.text_encoder.update(TEXT_ENCODERS[size])
    config.plan.super_res.update(SUPER_RES[size])
    config.update(SCALE[size])
    config.sample.super_res.name = run_name("super_res", size)
    return config


def run_name(name: str, size: str) -> str:
    """The run of an experiment at a size: its default workdir is runs/<this>."""
    return name if size == "tiny" else f"{name}_{size}"


def follow(config: ConfigDict, before: str, size: str) -> None:
    """Start from the weights of the run `before`: where the laptop's may be missing, an expensive one's must not."""
    config.follows = run_name(before, size)
    config.init_from = "auto" if size == "tiny" else f"runs/{config.follows}"


def warm_up_within(config: ConfigDict) -> None:
    """[I] A short run warms up for a quarter of its steps at most; call it when train.steps is set."""
    config.optim.warmup_steps = min(config.optim.warmup_steps, config.train.steps // 4)


def defaults(name: str) -> ConfigDict:
    """Every key, with the paper's values where it states them."""
    config = ConfigDict()
    config.name = name  # the default --workdir is runs/<name>
    config.seed = 0
    # Weights to take over: '' none; a workdir (an error when it holds no checkpoint); or 'auto': the run named
    # `follows` beside this workdir when it is there, otherwise from scratch, and the log says which.
    # It may have fewer blocks a level, or a narrower level: what is new adds nothing at first (imagen_jax/growth.py).
    config.init_from = ""
    config.follows = ""
    config.init_parts = ("unet", "text_encoder")  # which of its parameters

    config.model = ConfigDict(
        dict(
            image_size=0,
            lowres_size=0,  # > 0: a super-resolution model, conditioned on a picture of this side
            lowres_gap=0.0,  # [I] > 0: it corrects the best guess around its input, enlarged with this squared error
            channels=(),
            blocks=(),
            text_levels=(),
            context_levels=(),
            heads=0,
            head_dim=0,
            cond_channels=0,
            context_zero_start=True,  # [I] the adapted model starts equal to the one it takes over
            context_positions=False,  # [I] 2-D sine code on context queries and keys
            context_in_place=(),  # [I] of context_levels, those that read the same place of each reference only
            self_levels=(),  # [I] levels with self-attention, too; new layers add nothing at first
            context_pool=False,  # [I] references, pooled, join the time embedding as the text does
            upsample="nearest",  # after a convolution [P]; or 'shuffle': depth to space of four times its channels
            dtype="float32",  # of the computation; parameters are float32
            remat="none",  # 'block': less memory, as the backward pass computes every block again
            scan=False,  # True: a level's blocks are a loop over stacked parameters, which compiles sooner
        )
    )
    config.text_encoder = ConfigDict(
        dict(
            emb=0,
            heads=0,
            head_dim=0,
            mlp=0,
            layers=0,
            vocab_size=32128,  # the T5 vocabulary; `[ref#k]` is <extra_id_{k-1}>
            frozen=False,  # True: outside the optimizer, weights from `weights`; False: trained along from scratch
            weights="",  # t5 v1.1 or flan-t5, a Hugging Face folder or T5X checkpoint; or a workdir of a run
            precomputed=False,  # True: training reads features from data.records (data_pipelines/embed_text.py)
        )
    )

    config.diffusion = ConfigDict(
        dict(
            schedule="cosine",  # [P]; or 'linear'
            logsnr_min=-15.0,
            logsnr_max=15.0,
            shift_from=0,  # > 0: shift the log-SNR by 2 log(shift_from / image_size), off at 0 as in the paper
            prediction="v",  # [P]; or 'eps', 'x0'
            drop_all=0.1,  # [P] drop text and context
            drop_context=0.1,  # [P] drop the context only
        )
    )
    config.data = ConfigDict(
        dict(
            loader="memory",  # a corpus held in memory; or 'records': ArrayRecord shards streamed with tf.data
            corpus="fixture",  # the bundled one; or folders of `python -m data_pipelines.prepare`, comma-separated
            records="data/records",  # for loader='records': a folder of prepared data sets, NAME/SPLIT/
            mixture=ConfigDict(),  # {task: ratio}, for loader='records' {NAME: ratio}; sums to 1
            allow_missing=False,  # True: data sets that are not prepared are left out and the ratios renormalised
            augment=True,  # False: pictures lie still on white, as those that are evaluated (loader='memory')
            told_styles=0.0,  # [I] share of style pictures whose text names the style, in training (loader='memory')
            instructions=True,  # False: no word says what to do, the multi-task baseline of Table 4 (loader='memory')
            max_references=2,  # K, the reference slots of an example
            text_length=48,  # tokens
            reference_text_length=16,  # tokens
            tokenizer="",  # '' the bundled T5 SentencePiece model; or a .model or tokenizer.json path
        )
    )
    config.optim = ConfigDict(
        dict(
            name="adafactor",  # [P]; or 'adam', 'muon'
            learning_rate=1e-4,  # [P]
            warmup_steps=10_000,  # [P]
            decay_share=0.0,  # [I] of train.steps, the last ones, over which the rate falls evenly to 0
            beta1=0.9,  # [P]
            beta2=0.999,  # [P]
            eps=0.0,  # 0: the rule's own, 1e-8 of adam, 1e-30 of the others
            clip_norm=1.0,  # [I] global gradient norm; 0 is off
            ema_decay=0.9999,  # [P]
        )
    )
    config.train = ConfigDict(
        dict(
            steps=0,
            batch_size=512,  # [P] the global batch
            accumulate=1,  # micro-batches a step; more of them need less memory
            noises=1,  # [I] noisy copies of each example in a step, which share its encoded instruction
            log_every=50,
            checkpoint_every=1000,
            keep_checkpoints=2,  # the newest ones
            keep_every=0,  # beside them, for good, those of every so many steps, a multiple of checkpoint_every; 0 none
            sample_every=5000,  # a grid of held-out instructions; 0 only at the end
            crop_size=0,  # super-resolution trains on crops of this side [P Imagen]; 0 whole pictures
            matmul_precision="",  # of float32 products: '' JAX's default; 'bfloat16' for new CPUs (nn/products.py)
            max_aug_level=1.0,  # [P Imagen] the most noise on its low-resolution input, a time of the noise schedule
        )
    )
    config.sample = sampler(steps=256, guidance="oscillating", guidance_weight=25.0)  # [P]
    config.sample.count = 1  # pictures an instruction
    config.sample.run = ""  # the model: '' that of --workdir; or another run or release; 'released': the package's
    config.sample.super_res = sampler(steps=30, guidance="none", guidance_weight=1.0)  # [I] the paper states none
    config.sample.super_res.workdir = "auto"  # a run; 'auto': the one named below beside this one, if there; '' none
    config.sample.super_res.name = ""
    config.sample.super_res.aug_level = 0.1  # [P Imagen] 0.1 to 0.3: noise on the low-resolution input
    config.eval = ConfigDict(  # --mode=eval; it samples as `sample` says
        dict(
            suites="",  # comma-separated, e.g. 'line,styled_subject'; '' all
            count=64,  # cases a suite, fewer where the corpus has no more; 0 draws none and measures losses alone
            batch_size=32,  # pictures drawn at once
            seed=0,  # of the cases, their noise and the intervals
            corpus="",  # '' the run's own data.corpus, or where that has moved
            cache="data/cache",  # folder of fetched packages; the judges that are trained here are kept in judges/
            clip="",  # a local CLIP folder, for CLIP-I and CLIP-T beside the rest; '' none
        )
    )
    config.serve = ConfigDict(  # --mode=serve; it samples as `sample` says
        dict(
            host="127.0.0.1",  # this machine alone; '0.0.0.0': whoever can reach it
            port=7860,
        )
    )
    config.plan = ConfigDict(  # --mode=plan
        dict(
            target="",  # a TPU slice (v4, v5e, v5p, v6e), as v5e:8x8, or h200:1 to h200:8; '' counts parameters only
            compile=False,  # True: beside the estimate, compile for the target; needs pip install -e '.[plan]'
            utilization=0.4,  # the part of the chips' peak that the cost reckons with; see docs/plan.md
            pictures=0,  # that the sampler makes at once; 0: one a device
            super_res=ConfigDict(),  # the cascade's second UNet, to be counted beside a base model's
        )
    )
    config.noise = ConfigDict(  # --mode=noise
        dict(
            fillings="",  # of a step, as '32x1,16x4': examples x noises; '' train's own, 1/2 and 1/4 x 2 and x 4 of it
            steps=10,  # gradients of each
        )
    )
    config.hosts = ConfigDict(  # the processes of --mode=train, by default this one alone
        dict(
            coordinator="",  # 'auto': as the TPU pod, Slurm or cluster says; or HOST:PORT, any free port of process 0
            count=1,  # with HOST:PORT: how many processes,
            index=0,  # and which of them this is
            timeout=300,  # seconds to wait for the others
        )
    )
    config.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))  # -1: all remaining devices
    config.sharding = DEFAULT_TABLE  # ordered (path regex, spec); the first match wins
    return config


def sampler(steps: int, guidance: str, guidance_weight: float) -> ConfigDict:
    """How one model of the cascade is sampled."""
    return ConfigDict(
        dict(
            method="ddpm",  # [P]; or 'ddim', 'dpm_solver_2m', 'heun'
            steps=steps,
            # 'none', 'constant', 'oscillating', 'interval', 'text_and_context'; or 'interleaved', whose text steps drop
            # the text and keep the references, as training never does.
            guidance=guidance,
            guidance_weight=guidance_weight,
            context_guidance_weight=1.0,  # for 'text_and_context' and 'interleaved'
            guidance_interval=(-5.0, 5.0),  # log-SNR, for 'interval'
            reference_probability=0.5,  # for 'interleaved'
            threshold="dynamic",  # [P Imagen]; or 'static', 'none'
            threshold_percentile=99.5,  # [P Imagen]
        )
    )
