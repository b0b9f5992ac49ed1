"""Prompts to tokens: clicks, boxes as two labelled corners, and a mask as a dense map.

Source: facebookresearch/sam2 `sam2/modeling/sam/prompt_encoder.py`. A prompt is a row of labelled points:

    label  1, 0    a click on the object, on the background
    label  2, 3    top-left and bottom-right corner of a box; corners come before the clicks
    label -1       the pad point, which the original always appends to a prompt without a separate box
    label -10      no point at all: fills a row of a batch, and no other token attends to it

transformers instead turns -10 into a zero vector that takes part in the attention, so its batches change the result.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models.layers import AnyArray, along_last
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.layers import BlockConv, LayerNorm, gelu

PAD_POINT = -1
NO_POINT = -10
BOX_LABELS = (2, 3)


@struct.dataclass
class Prompts:
    """Prompts of a batch of images, several for each.

    Attributes:
        points: `[b, q, n, 2]`, x and y in pixels of the model's square input.
        labels: `[b, q, n]`, as in the module's table.
        masks: `[b, q, m, m, 1]` logits of an earlier mask at a quarter of the input's side; None for no mask.
    """

    points: Float[AnyArray, "b q n 2"]
    labels: Int[AnyArray, "b q n"]
    masks: Float[AnyArray, "b q m m 1"] | None = None


class FourierFeatures(nn.Module):
    """Random Fourier features of a place in the unit square (Tancik et al. 2020, arXiv:2006.10739).

    Attributes:
        width: Output channels, half sines and half cosines.
    """

    width: int

    @nn.compact
    def __call__(self, places: Float[Array, "*axes 2"]) -> Float[Array, "*axes d"]:
        """Places in [0, 1]; computed in float32 without a matrix product, which accelerators would round."""
        matrix = self.param("positional_embedding", nn.initializers.normal(1.0), (2, self.width // 2))
        # A buffer in the original: drawn once, never trained.
        matrix = jax.lax.stop_gradient(matrix.astype(jnp.float32))
        centred = 2.0 * places.astype(jnp.float32) - 1.0
        angles = centred[..., :1] * along_last(matrix[0], centred) + centred[..., 1:] * along_last(
            matrix[1], centred
        )
        angles = 2.0 * jnp.pi * angles
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class MaskEmbed(nn.Module):
    """An earlier mask as a map at the image embedding's size."""

    config: Sam2Config

    @nn.compact
    def __call__(self, masks: Float[Array, "n m m 1"]) -> Float[Array, "n e e d"]:
        """Two halvings, then a projection."""
        channels, eps = self.config.mask_channels, self.config.prompt_norm_eps
        x = BlockConv(channels // 4, 2, name="conv1")(masks)
        x = gelu(LayerNorm(eps, name="layer_norm1")(x))
        x = BlockConv(channels, 2, name="conv2")(x)
        x = gelu(LayerNorm(eps, name="layer_norm2")(x))
        return BlockConv(self.config.embed_dim, name="conv3")(x)


class PromptEncoder(nn.Module):
    """Tokens for the points, a map for the mask."""

    config: Sam2Config

    @nn.compact
    def __call__(
        self, prompts: Prompts
    ) -> tuple[Float[Array, "b q n d"], Bool[Array, "b q n"], Float[Array, "_b _q _e _e d"]]:
        """Embeds the prompts.

        Returns:
            The sparse embeddings, True where a token is real, and the dense embeddings (axes of one where all places
            share a vector).
        """
        width = self.config.embed_dim
        embedding = nn.initializers.normal(0.02)
        kinds = self.param("point_embed", embedding, (4, width))
        pad_point = self.param("not_a_point_embed", embedding, (1, width))
        no_mask = self.param("no_mask_embed", embedding, (1, width))
        points, ids = jnp.asarray(prompts.points), jnp.asarray(prompts.labels)
        labels = ids[..., None]
        # Pixel centres are at one half.
        places = (points.astype(jnp.float32) + 0.5) / self.config.image_size
        tokens = FourierFeatures(width, name="shared_embedding")(places)
        tokens = jnp.where(labels == PAD_POINT, along_last(pad_point[0], tokens), tokens)
        tokens = jnp.where(labels == NO_POINT, 0.0, tokens)
        tokens = tokens + jnp.where(labels >= 0, kinds.astype(tokens.dtype)[jnp.maximum(ids, 0)], 0.0)
        embed_mask = MaskEmbed(self.config, name="mask_embed")
        if prompts.masks is None:
            dense = no_mask.reshape(1, 1, 1, 1, width)
        else:
            b, q, m = prompts.masks.shape[:3]
            dense = embed_mask(jnp.asarray(prompts.masks).reshape(b * q, m, m, 1)).reshape(
                b, q, m // 4, m // 4, width
            )
        return tokens, ids != NO_POINT, dense


def grid_places(side: int) -> Float[Array, "side side 2"]:
    """The centres of a map's cells in the unit square, x before y."""
    centres = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    return jnp.stack(jnp.meshgrid(centres, centres, indexing="xy"), axis=-1)
