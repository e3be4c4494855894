"""The model: encode an instruction once, denoise under it many times (paper, section 3 and appendix Table 5).

Parameters are one tree, {"unet": ..., "text_encoder": ...}. Everything here is a pure function of it.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from imagen_jax import diffusion
from imagen_jax.nn.t5 import T5Config, T5Encoder
from imagen_jax.nn.unet import UNet, make_unet
from imagen_jax.schedules import alpha_sigma, choose
from imagen_jax.types import Array, Cond, Context, Denoiser, Text

COMPUTED = r"(kernel|/embedding)$"  # the parameters that layers cast to their dtype,
FLOAT32 = r"^unet/out/kernel$"  # but for the last convolution


@dataclasses.dataclass(frozen=True)
class Model:
    """The static half of a model: modules and sizes, no arrays; hashable, so it can be a static argument of jit."""

    unet: UNet
    text_encoder: T5Encoder
    prediction: str  # what the UNet's output is: 'v', 'eps' or 'x0'
    image_size: int
    lowres_size: int  # 0: no low-resolution input
    lowres_gap: float = 0.0  # > 0: the network corrects the estimate around its enlarged input, which errs so much

    def __post_init__(self):
        least = 2 ** len(self.unet.config.channels)
        if self.image_size < 1 or self.image_size % least:
            raise ValueError(f"model.image_size={self.image_size} must be a multiple of {least}: each level halves it")
        choose("diffusion.prediction", self.prediction, dict.fromkeys(diffusion.PREDICTIONS))


def make_model(config) -> Model:
    """Model from a whole config (experiments/common.py)."""
    sizes, unet = {f.name for f in dataclasses.fields(T5Config)}, make_unet(config.model)
    t5 = T5Config(**{key: value for key, value in config.text_encoder.items() if key in sizes}, scan=unet.config.scan)
    return Model(
        unet=unet,
        text_encoder=T5Encoder(t5, config.model.dtype),
        prediction=config.diffusion.prediction,
        image_size=config.model.image_size,
        lowres_size=config.model.lowres_size,
        lowres_gap=config.model.get("lowres_gap", 0.0),  # newer than some runs
    )


def init(model: Model, key: Array) -> dict:
    """Parameters, float32. Trace with jax.eval_shape to learn their shapes without allocating."""
    unet_key, text_key = jax.random.split(key)
    tokens = jnp.zeros((1, 1), jnp.int32)
    text_params = model.text_encoder.init(text_key, tokens, tokens == 0)["params"]

    def once(unet: UNet) -> Array:
        size, features = model.image_size, jnp.zeros((1, 1, model.text_encoder.config.emb))
        some = jnp.ones((1, 1), bool)
        references = jnp.zeros((1, 1, size, size, 3)), features[None], some[None], some
        cond = unet.encode(features, some, references)
        if model.lowres_size:
            cond = with_lowres(cond, jnp.zeros((1, model.lowres_size, model.lowres_size, 3)), jnp.zeros(1))
        return unet(jnp.zeros((1, size, size, 3)), jnp.zeros(1), cond)

    return {"unet": model.unet.init(unet_key, method=once)["params"], "text_encoder": text_params}


def in_compute_dtype(model: Model, params: dict) -> dict:
    """The kernels in the dtype that their layers compute in; every layer does this cast itself, but one by one.

    Sharded weights should be cast before they are gathered, which halves what travels (partition.constrain).
    """
    dtype = model.text_encoder.dtype

    def cast(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf.astype(dtype) if re.search(COMPUTED, name) and not re.search(FLOAT32, name) else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def to_float(image: Array) -> Array:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def shrink(image: Array, size: int) -> Array:
    """[B, H, W, 3] -> [B, size, size, 3], antialiased: how super-resolution's input is made in training."""
    return jax.image.resize(image, (image.shape[0], size, size, 3), "linear", antialias=True)


def encode(model: Model, params: dict, text: Text, context: Context | None = None, project: bool = True) -> Cond:
    """Instruction arrays -> Cond: text encoder, context encoder, and every layer's keys and values.

    For one denoising step, as in training under one noise, `project=False` leaves those to the layers: less memory.

    Texts that carry their features need no text encoder, neither time nor parameters.
    """

    def features(x: Text) -> Array:
        if x.features is not None:
            return x.features.astype(model.text_encoder.dtype)
        return model.text_encoder.apply({"params": params["text_encoder"]}, x.tokens, x.mask)

    references = None
    if context is not None and model.unet.config.context_levels:
        references = to_float(context.images), features(context.text), context.text.mask, context.mask
    return model.unet.apply({"params": params["unet"]}, features(text), text.mask, references, project, method="encode")


def with_lowres(cond: Cond, lowres: Array, logsnr: Array) -> Cond:
    """Add super-resolution's input: lowres [B, h, w, 3] noised to logsnr [B]."""
    return cond.replace(lowres=lowres, lowres_logsnr=logsnr)


def predict(model: Model, params: dict, z: Array, logsnr: Array, cond: Cond) -> Array:
    """The model's raw output (v, eps or x0), [B, H, W, 3] float32."""
    if not model.lowres_gap:
        return model.unet.apply({"params": params["unet"]}, z, logsnr, cond)
    *expected, surprise = diffusion.gaussian_estimate(z, logsnr, *_expected(model, z, cond))
    correction = model.unet.apply({"params": params["unet"]}, surprise, logsnr, cond)
    return correction + diffusion.prediction_of(*expected, logsnr, model.prediction)


def _expected(model: Model, z: Array, cond: Cond) -> tuple[Array, Array]:
    """What super-resolution knows before it looks: x0 around its enlarged input, [B, H, W, 3], and the variance of
    that, [B, 1, 1, 1]: what enlarging leaves out, and the noise on the input.
    """
    alpha, sigma = alpha_sigma(cond.lowres_logsnr[:, None, None, None])
    return alpha * jax.image.resize(cond.lowres, z.shape, "cubic"), model.lowres_gap + jnp.square(sigma)


def denoiser(model: Model, params: dict) -> Denoiser:
    """(z, logsnr, cond) -> x0, the contract that every sampler and guidance works on."""

    def denoise(z: Array, logsnr: Array, cond: Cond) -> Array:
        x0, _ = diffusion.x0_and_eps(predict(model, params, z, logsnr, cond), z, logsnr, model.prediction)
        return x0

    return denoise
