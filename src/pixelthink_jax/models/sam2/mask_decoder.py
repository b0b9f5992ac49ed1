"""The mask decoder: a two-way transformer between a few tokens and the image, then masks by dot products.

Source: facebookresearch/sam2 `sam2/modeling/sam/mask_decoder.py` and `transformer.py`. Tokens are
`[object score, IoU, mask 0 .. mask 3, prompts]`; mask 0 is for unambiguous prompts, the others for ambiguous ones.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.layers import Linear
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.layers import BlockConv, BlockConvTranspose, LayerNorm, Mlp, attend, gelu

# transformers and the original both leave these two at their library defaults.
_TWO_WAY_EPS = 1e-5
_UPSCALE_EPS = 1e-6


@struct.dataclass
class MaskPredictions:
    """What the decoder says about each prompt; `m` masks.

    Attributes:
        low_res_masks: Logits at a quarter of the input's side, not clamped.
        iou_predictions: The model's own estimate of each mask's IoU, in (0, 1).
        object_score_logits: Whether the object is there at all; does not suppress masks.
    """

    low_res_masks: Float[Array, "b q m s s"]
    iou_predictions: Float[Array, "b q m"]
    object_score_logits: Float[Array, "b q"]


class DecoderAttention(nn.Module):
    """Multi-head attention between token sets, of smaller inner width."""

    config: Sam2Config
    downsample: int

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "n t d"],
        key: Float[Array, "n s d"],
        value: Float[Array, "n s d"],
        mask: Bool[Array, "n s"] | None = None,
    ) -> Float[Array, "n t d"]:
        """`query` attends to the keys that `mask` shows."""
        inner, heads = self.config.embed_dim // self.downsample, self.config.decoder_heads

        def split(x: jax.Array, name: str) -> jax.Array:
            projected = Linear(inner, use_bias=True, name=name)(x)
            return projected.reshape(*projected.shape[:2], heads, inner // heads).transpose(0, 2, 1, 3)

        out = attend(split(query, "q_proj"), split(key, "k_proj"), split(value, "v_proj"), mask)
        merged = out.transpose(0, 2, 1, 3).reshape(*query.shape[:2], inner)
        return Linear(self.config.embed_dim, use_bias=True, name="o_proj")(merged)


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, to the image, pass a perceptron, and the image attends to them."""

    config: Sam2Config
    first: bool

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "n t d"],
        image: Float[Array, "n s d"],
        token_places: Float[Array, "n t d"],
        image_places: Float[Array, "1 s d"],
        mask: Bool[Array, "n t"],
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n s d"]]:
        """Returns the new tokens and image; places are added to queries and keys, never to values."""
        config, cross = self.config, self.config.attention_downsample

        def norm(index: int, x: jax.Array) -> jax.Array:
            return LayerNorm(_TWO_WAY_EPS, name=f"layer_norm{index}")(x)

        self_attention = DecoderAttention(config, 1, name="self_attn")
        if self.first:
            # The first block's tokens are their own places, so nothing is added and nothing kept.
            tokens = self_attention(tokens, tokens, tokens, mask)
        else:
            placed = tokens + token_places
            tokens = tokens + self_attention(placed, placed, tokens, mask)
        tokens = norm(1, tokens)
        to_image = DecoderAttention(config, cross, name="cross_attn_token_to_image")
        tokens = norm(2, tokens + to_image(tokens + token_places, image + image_places, image))
        mlp = Mlp(config.decoder_mlp, config.embed_dim, config.decoder_mlp_depth, name="mlp")
        tokens = norm(3, tokens + mlp(tokens))
        to_tokens = DecoderAttention(config, cross, name="cross_attn_image_to_token")
        image = norm(4, image + to_tokens(image + image_places, tokens + token_places, tokens, mask))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """The blocks, and a last look of the tokens at the image."""

    config: Sam2Config

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "n t d"],
        image: Float[Array, "n s d"],
        image_places: Float[Array, "1 s d"],
        mask: Bool[Array, "n t"],
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n s d"]]:
        """Returns the new tokens and image."""
        config, token_places = self.config, tokens
        for index in range(config.decoder_layers):
            block = TwoWayBlock(config, first=index == 0, name=f"layers_{index}")
            tokens, image = block(tokens, image, token_places, image_places, mask)
        final = DecoderAttention(config, config.attention_downsample, name="final_attn_token_to_image")
        tokens = tokens + final(tokens + token_places, image + image_places, image)
        return LayerNorm(_TWO_WAY_EPS, name="layer_norm_final_attn")(tokens), image


class MaskDecoder(nn.Module):
    """All masks, IoUs and object scores of a flat list of prompts."""

    config: Sam2Config

    def setup(self) -> None:
        """Names the parts; `project_high_res` is called when an image is encoded, the rest for each prompt."""
        width, masks = self.config.embed_dim, self.config.multimask_outputs + 1
        embedding = nn.initializers.normal(0.02)
        self.obj_score_token = self.param("obj_score_token", embedding, (1, width))
        self.iou_token = self.param("iou_token", embedding, (1, width))
        self.mask_tokens = self.param("mask_tokens", embedding, (masks, width))
        self.transformer = TwoWayTransformer(self.config)
        self.upscale_conv1 = BlockConvTranspose(width // 4)
        self.upscale_layer_norm = LayerNorm(_UPSCALE_EPS)
        self.upscale_conv2 = BlockConvTranspose(width // 8)
        self.output_hypernetworks_mlps = [Mlp(width, width // 8, 3) for _ in range(masks)]
        self.iou_prediction_head = Mlp(self.config.iou_width, masks, self.config.iou_depth)
        self.pred_obj_score_head = Mlp(width, 1, 3)
        self.conv_s0 = BlockConv(width // 8)
        self.conv_s1 = BlockConv(width // 4)

    def project_high_res(
        self, fine: Float[Array, "b s s d"], middle: Float[Array, "b h h d"]
    ) -> tuple[Float[Array, "b s s e"], Float[Array, "b h h f"]]:
        """Brings the two fine pyramid levels to the widths of the upscaled embedding."""
        return self.conv_s0(fine), self.conv_s1(middle)

    def __call__(
        self,
        image: Float[Array, "n e e d"],
        image_places: Float[Array, "1 e e d"],
        fine: Float[Array, "n s s c0"],
        middle: Float[Array, "n h h c1"],
        prompt_tokens: Float[Array, "n t d"],
        prompt_mask: Bool[Array, "n t"],
    ) -> tuple[Float[Array, "n m s s"], Float[Array, "n m"], Float[Array, " n"]]:
        """Decodes one prompt per row.

        Args:
            image: Image embedding plus the prompt's dense embedding.
            image_places: Fourier features of the embedding's cells.
            fine: First high-resolution feature, at the masks' size.
            middle: Second one, at half of it.
            prompt_tokens: Sparse embeddings.
            prompt_mask: True where one is real.

        Returns:
            Mask logits, predicted IoUs and object score logits.
        """
        n, side, _, width = image.shape
        own = jnp.concatenate([self.obj_score_token, self.iou_token, self.mask_tokens]).astype(image.dtype)
        tokens = jnp.concatenate([jnp.tile(own[None], (n, 1, 1)), prompt_tokens.astype(image.dtype)], axis=1)
        mask = jnp.concatenate([jnp.ones((n, own.shape[0]), bool), prompt_mask], axis=1)
        places = image_places.astype(image.dtype).reshape(1, side * side, width)
        tokens, image = self.transformer(tokens, image.reshape(n, side * side, width), places, mask)
        image = image.reshape(n, side, side, width)
        up = gelu(self.upscale_layer_norm(self.upscale_conv1(image) + middle))
        up = gelu(self.upscale_conv2(up) + fine)
        mixing = jnp.stack(
            [mlp(tokens[:, 2 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], axis=1
        )
        masks = jnp.einsum("nmc,nhwc->nmhw", mixing, up, preferred_element_type=jnp.float32)
        ious = jax.nn.sigmoid(self.iou_prediction_head(tokens[:, 1]).astype(jnp.float32))
        return masks, ious, self.pred_obj_score_head(tokens[:, 0]).astype(jnp.float32)[:, 0]


def choose_masks(
    masks: Float[Array, "b q m s s"], ious: Float[Array, "b q m"], config: Sam2Config, *, multimask: bool
) -> tuple[Float[Array, "b q k s s"], Float[Array, "b q k"]]:
    """The masks for ambiguous prompts, or the single one, replaced by the best of the others when unstable.

    Stability is the area above `+stability_delta` over the area above `-stability_delta`, 1 for an empty mask.
    """
    if multimask:
        return masks[:, :, 1:], ious[:, :, 1:]
    if not config.dynamic_multimask:
        return masks[:, :, :1], ious[:, :, :1]
    inner = jnp.sum(masks[:, :, 0] > config.stability_delta, axis=(2, 3))
    outer = jnp.sum(masks[:, :, 0] > -config.stability_delta, axis=(2, 3))
    stability = jnp.where(outer > 0, inner / jnp.maximum(outer, 1), 1.0)
    best = 1 + jnp.argmax(ious[:, :, 1:], axis=2)
    chosen = jnp.where(stability >= config.stability_threshold, 0, best)
    return (
        jnp.take_along_axis(masks, chosen[:, :, None, None, None], axis=2),
        jnp.take_along_axis(ious, chosen[:, :, None], axis=2),
    )
