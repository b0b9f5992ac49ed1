"""SAM2's image path as pure functions of an explicit parameter tree.

    features = encode_image(params, pixels, config)                    once per image
    predictions = decode_masks(params, features, prompts, config)      once per set of prompts
    predictions = segment_logits(params, pixels, prompts, config)      both, all masks, for training

`config` is static, everything else is traced. Pixels are normalised squares `[b, S, S, 3]`; the parameter tree carries
transformers' module names, so that `names` can say where each leaf lives in a file.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.hiera import VisionEncoder
from pixelthink_jax.models.sam2.mask_decoder import MaskDecoder, MaskPredictions, choose_masks
from pixelthink_jax.models.sam2.prompt_encoder import (
    FourierFeatures,
    PromptEncoder,
    Prompts,
    grid_places,
)

Params = dict[str, Any]

_NECK_GAIN, _PLACE_GAIN = 0.5, 2.0
_SMALL = ("pos_embed", "pos_embed_window", "no_memory_embedding")


@struct.dataclass
class ImageFeatures:
    """What the decoder needs to know about an image.

    Attributes:
        image_embed: `[b, S/16, S/16, d]`, the no-memory embedding added.
        high_res_feats: `[b, S/4, S/4, d/8]` and `[b, S/8, S/8, d/4]`, projected.
    """

    image_embed: Float[Array, "b e e d"]
    high_res_feats: tuple[Float[Array, "b s s c0"], Float[Array, "b h h c1"]]


def abstract_params(config: Sam2Config) -> Params:
    """Shape and dtype of every parameter, without computing any."""
    return jax.eval_shape(lambda: _init_modules(config))


def init_params(config: Sam2Config, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Random parameters from which a small model learns where its prompts are within a hundred steps.

    Kernels are scaled by their fan-in, norms are one, biases zero, embeddings normal 1. Cross attentions begin as a
    comparison of places: equal query and key kernels with a gain, on image content that does not drown the places.
    The Fourier frequencies are the same for the image and the prompts, though the file holds both.
    """
    abstract = abstract_params(config)
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    # One draw for all leaves: a draw for each would compile a program for each shape.
    normal = np.asarray(jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),)))
    parts = np.split(normal, np.cumsum([leaf.size for _, leaf in leaves])[:-1])
    drawn = [
        _scaled(path[-1].key, part.reshape(leaf.shape))
        for (path, leaf), part in zip(leaves, parts, strict=True)
    ]
    params = jax.tree.unflatten(jax.tree.structure(abstract), drawn)
    params["shared_image_embedding"] = dict(params["prompt_encoder"]["shared_embedding"])
    for level in params["vision_encoder"]["neck"].values():
        level["kernel"] *= _NECK_GAIN
    transformer = params["mask_decoder"]["transformer"]
    cross = [
        part
        for layer in transformer.values()
        for name, part in layer.items()
        if name.startswith("cross_attn")
    ]
    for attention in [*cross, transformer["final_attn_token_to_image"]]:
        attention["q_proj"]["kernel"] *= _PLACE_GAIN
        attention["k_proj"]["kernel"] = attention["q_proj"]["kernel"]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def encode_image(params: Params, pixels: Float[Array, "b S S 3"], config: Sam2Config) -> ImageFeatures:
    """Runs the trunk and the pyramid, in the dtype of `pixels`.

    Args:
        params: The model's parameters.
        pixels: Normalised images at the model's size.
        config: The model's shape.

    Returns:
        The features of each image.

    Raises:
        ValueError: The images are not squares of the model's size.
    """
    if pixels.shape[1:] != (config.image_size, config.image_size, 3):
        raise ValueError(
            f"pixels have shape {pixels.shape}, expected [b, {config.image_size}, {config.image_size}, 3]"
        )
    levels: Any = VisionEncoder(config).apply({"params": params["vision_encoder"]}, pixels)
    fine, middle, coarse = levels
    decoder = {"params": params["mask_decoder"]}
    high_res: Any = MaskDecoder(config).apply(decoder, fine, middle, method="project_high_res")
    no_memory = params["no_memory_embedding"].astype(coarse.dtype).reshape(1, 1, 1, -1)
    return ImageFeatures(coarse + no_memory, high_res)


def decode_masks(
    params: Params, features: ImageFeatures, prompts: Prompts, config: Sam2Config, *, multimask: bool = True
) -> MaskPredictions:
    """Masks of several prompts for each image.

    Args:
        params: The model's parameters.
        features: Encoded images.
        prompts: `q` prompts for each image, of `n` points.
        config: The model's shape.
        multimask: Three masks for each prompt, or the single one (see `choose_masks`).

    Returns:
        The predictions.
    """
    every = decode_all_masks(params, features, prompts, config)
    masks, ious = choose_masks(every.low_res_masks, every.iou_predictions, config, multimask=multimask)
    return MaskPredictions(masks, ious, every.object_score_logits)


def decode_all_masks(
    params: Params, features: ImageFeatures, prompts: Prompts, config: Sam2Config
) -> MaskPredictions:
    """The single mask of each prompt and the masks for ambiguous ones, in this order; see `decode_masks`."""
    b, q = prompts.labels.shape[:2]
    prompt_encoder = {"params": params["prompt_encoder"]}
    encoded: Any = PromptEncoder(config).apply(prompt_encoder, prompts)
    sparse, real, dense = encoded
    image = features.image_embed[:, None] + dense.astype(features.image_embed.dtype)
    image = jnp.broadcast_to(image, (b, q, *image.shape[2:])).reshape(b * q, *image.shape[2:])
    frequencies = {"params": params["shared_image_embedding"]}
    places = FourierFeatures(config.embed_dim).apply(frequencies, grid_places(config.embed_size)[None])
    fine, middle = (jnp.repeat(level, q, axis=0) for level in features.high_res_feats)
    decoded: Any = MaskDecoder(config).apply(
        {"params": params["mask_decoder"]},
        image,
        places,
        fine,
        middle,
        sparse.reshape(b * q, *sparse.shape[2:]),
        real.reshape(b * q, -1),
    )
    masks, ious, scores = decoded
    return MaskPredictions(
        masks.reshape(b, q, *masks.shape[1:]), ious.reshape(b, q, -1), scores.reshape(b, q)
    )


def segment_logits(
    params: Params, pixels: Float[Array, "b S S 3"], prompts: Prompts, config: Sam2Config
) -> MaskPredictions:
    """Encodes and decodes in one differentiable call: all masks of every prompt, the single one first."""
    return decode_all_masks(params, encode_image(params, pixels, config), prompts, config)


def _scaled(name: str, normal: np.ndarray) -> np.ndarray:
    """One leaf from its name and standard normal numbers."""
    if name in ("scale", "bias"):
        return np.full(normal.shape, float(name == "scale"), np.float32)
    if "kernel" in name:
        fan_in = normal.shape[-2] if name == "transpose_kernel" else math.prod(normal.shape[:-1])
        return normal * np.float32(fan_in**-0.5)
    # Tokens as large as the Fourier features they are added to, as the original draws them; maps start small.
    return normal * np.float32(0.02 if name in _SMALL else 1.0)


def _init_modules(config: Sam2Config) -> Params:
    """Lets every module declare its parameters."""
    key, d = jax.random.key(0), config.embed_dim
    prompts = Prompts(jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 1, 1), jnp.int32), jnp.zeros((1, 1, 4, 4, 1)))
    prompt = PromptEncoder(config).init(key, prompts)["params"]
    pyramid = (jnp.zeros((1, 4, 4, d)), jnp.zeros((1, 2, 2, d)))
    cell = jnp.zeros((1, 1, 1, d))

    def decode(decoder: MaskDecoder) -> None:
        fine, middle = decoder.project_high_res(*pyramid)
        decoder(cell, cell, fine, middle, cell[:, 0], jnp.ones((1, 1), bool))

    side = config.image_size
    return {
        "vision_encoder": VisionEncoder(config).init(key, jnp.zeros((1, side, side, 3)))["params"],
        "prompt_encoder": prompt,
        "mask_decoder": MaskDecoder(config).init(key, method=decode)["params"],
        "no_memory_embedding": jnp.zeros((1, 1, d)),
        "shared_image_embedding": prompt["shared_embedding"],
    }
