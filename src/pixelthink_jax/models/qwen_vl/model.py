"""Qwen2.5-VL as pure functions of an explicit parameter tree.

    {"vision": {"patch_embed", "blocks" [layer, ...], "merger"},
     "text": {"embed" [v, d], "blocks" [layer, ...], "final_norm", "lm_head" [v, d], absent if tied}}

Order of use: `vision_layout` and `position_ids` on the host; `encode_images`, `embed_prompt`; then `forward`
for training on whole rows, or `prefill` and `decode_step` for generation, or `prefill` and `suffix_forward`
for the log-probabilities of all completions of a group at once; `logits` last. Activations have the dtype
that `encode_images` and `embed_prompt` were given; weights are cast to it where they are used.

Source: transformers `models/qwen2_5_vl/modeling_qwen2_5_vl.py`.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models.attention import attend
from pixelthink_jax.models.axes import on_axes, shards_of
from pixelthink_jax.models.layers import AnyArray, RMSNorm, apply
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig
from pixelthink_jax.models.qwen_vl.rope import text_rope
from pixelthink_jax.models.qwen_vl.text import LayerFns, Params, causal_mask, run_layers
from pixelthink_jax.models.remat import Remat


def embed_prompt(
    params: Params,
    input_ids: Int[AnyArray, "b t"],
    image_embeds: Float[Array, "n d"] | None,
    config: QwenVLConfig,
    *,
    dtype: DTypeLike | None = None,
) -> Float[Array, "b t d"]:
    """Embeds tokens; the i-th image placeholder of the flattened batch gets the i-th image token.

    Args:
        params: The whole model's parameters.
        input_ids: Tokens, placeholders expanded.
        image_embeds: What `encode_images` returned; None without images.
        config: The model.
        dtype: Dtype of the result; None takes that of the weights.

    Returns:
        The input of the first block.
    """
    table = params["text"]["embed"]
    embeds = on_axes(_rows_of(table, input_ids).astype(dtype or table.dtype), "b t d")
    if image_embeds is None:
        return embeds
    is_image = input_ids == config.image_token_id
    index = jnp.cumsum(is_image.reshape(-1)).reshape(is_image.shape) - 1
    images = jnp.take(image_embeds, index, axis=0, mode="clip").astype(embeds.dtype)
    return jnp.where(is_image[..., None], images, embeds)


def _rows_of(table: Float[Array, "v d"], ids: Int[AnyArray, "b t"]) -> Float[Array, "b t d"]:
    """Rows of the table, of which every chip holds some columns."""
    if shards_of("s") == 1 or shards_of("e") == 1:
        return jnp.take(table, ids, axis=0, mode="clip")
    # Each chip looks its columns up, and then columns are exchanged for rows. Where two axes of the mesh cut the rows,
    # the compiler would put all columns of all rows on every chip.
    found = jnp.take(table, on_axes(jnp.asarray(ids), "s t"), axis=0, mode="clip")
    return on_axes(found, "s t e")


def final_norm(params: Params, x: Float[Array, "*axes d"], config: QwenVLConfig) -> Float[Array, "*axes d"]:
    """The normalisation after the last block."""
    norm = RMSNorm(config.text.rms_norm_eps, parent=None)
    return apply(norm, params["text"]["final_norm"], x)


def forward(
    params: Params,
    embeds: Float[Array, "b t d"],
    positions: Int[AnyArray, "3 b t"],
    mask: Bool[AnyArray, "b t"],
    config: QwenVLConfig,
    *,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> Float[Array, "b t d"]:
    """Runs whole rows through the language model, each token seeing the real tokens up to itself.

    Args:
        params: The whole model's parameters.
        embeds: From `embed_prompt`.
        positions: From `position_ids`.
        mask: True at real tokens; padding may be left or right.
        config: The model.
        remat: What blocks keep for the backward pass.
        unroll: Blocks per scan step; True unrolls the scan.

    Returns:
        Hidden states after the final normalisation; meaningless at padding.
    """
    cos_sin, visible = text_rope(positions, config.text), causal_mask(mask)
    fns = LayerFns(config.text)

    def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        q, k, v = fns.project(layer, x, cos_sin)
        return fns.merge(layer, x, attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), visible)), None

    x, _ = run_layers(body, embeds, params["text"]["blocks"], remat=remat, unroll=unroll)
    return final_norm(params, x, config)


def logits(params: Params, hidden: Float[Array, "*axes d"], config: QwenVLConfig) -> Float[Array, "*axes v"]:
    """Next-token logits, accumulated and returned in float32."""
    return head_logits(output_head(params, config), hidden)


def output_head(params: Params, config: QwenVLConfig) -> Float[Array, "v d"]:
    """The matrix that turns hidden states into logits."""
    text = params["text"]
    return text["embed"] if config.tie_word_embeddings else text["lm_head"]


def head_logits(head: Float[Array, "v d"], hidden: Float[Array, "*axes d"]) -> Float[Array, "*axes v"]:
    """`logits` of a head."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    out = jnp.einsum("nd,vd->nv", rows, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return out.reshape(*hidden.shape[:-1], -1)
