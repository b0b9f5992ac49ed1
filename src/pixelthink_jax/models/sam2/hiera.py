"""The image encoder: Hiera with windowed attention, and the feature pyramid.

Source: Ryali et al. 2023 (arXiv:2306.00989), Bolya et al. 2023 (arXiv:2311.05613) for the windowed position embedding;
facebookresearch/sam2 `sam2/modeling/backbones/`. Windows are padded with zeros after the norm and the padding takes
part in the attention, as in the original: it is not masked.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pixelthink_jax.models.layers import Linear, along_last
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.layers import BlockConv, LayerNorm, Mlp, attend, max_pool
from pixelthink_jax.models.sam2.resize import resize


class PatchEmbed(nn.Module):
    """Overlapping patches: a convolution with kernel 7 and stride 4."""

    config: Sam2Config

    @nn.compact
    def __call__(self, pixels: Float[Array, "b S S 3"]) -> Float[Array, "b H W c"]:
        """Returns one token for each stride of the image."""
        config = self.config
        shape = (config.patch_kernel, config.patch_kernel, 3, config.widths[0])
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        bias = self.param("bias", nn.initializers.zeros, (config.widths[0],))
        y = jax.lax.conv_general_dilated(
            pixels,
            kernel.astype(pixels.dtype),
            window_strides=(config.patch_stride,) * 2,
            padding=[(config.patch_padding, config.patch_padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + along_last(bias, y)


class WindowAttention(nn.Module):
    """Attention within a square of tokens, its queries max-pooled where the map shrinks.

    Attributes:
        width: Output channels.
        heads: Attention heads.
        pool: How many times smaller the output is, per side.
    """

    width: int
    heads: int
    pool: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n H W c"]) -> Float[Array, "n h w d"]:
        """Every window attends to itself."""
        n, rows, cols, _ = x.shape
        qkv = Linear(3 * self.width, use_bias=True, name="qkv")(x)
        q = max_pool(qkv[..., : self.width], self.pool)
        out_rows, out_cols = q.shape[1:3]
        kv = qkv[..., self.width :].reshape(n, rows * cols, 2, self.heads, -1).transpose(2, 0, 3, 1, 4)
        q = q.reshape(n, out_rows * out_cols, self.heads, -1).transpose(0, 2, 1, 3)
        attended = attend(q, kv[0], kv[1]).transpose(0, 2, 1, 3)
        return Linear(self.width, use_bias=True, name="proj")(
            attended.reshape(n, out_rows, out_cols, self.width)
        )


class HieraBlock(nn.Module):
    """One pre-norm transformer block on a map.

    Attributes:
        width: Output channels.
        heads: Attention heads.
        window: Side of the windows; 0 for attention over the whole map.
        pool: How many times smaller the output is, per side.
        mlp: Hidden width of the perceptron.
        eps: Epsilon of the norms.
    """

    width: int
    heads: int
    window: int
    pool: int
    mlp: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Returns the new map."""
        normed = LayerNorm(self.eps, name="layer_norm1")(x)
        shortcut = x
        if x.shape[-1] != self.width:
            shortcut = max_pool(Linear(self.width, use_bias=True, name="proj")(normed), self.pool)
        windows = partition(normed, self.window)
        attended = WindowAttention(self.width, self.heads, self.pool, name="attn")(windows)
        x = shortcut + unpartition(attended, shortcut.shape[0], (shortcut.shape[1], shortcut.shape[2]))
        normed = LayerNorm(self.eps, name="layer_norm2")(x)
        return x + Mlp(self.mlp, self.width, activation="gelu", name="mlp")(normed)


class Hiera(nn.Module):
    """The trunk: patches, position embedding, four stages of blocks."""

    config: Sam2Config

    @nn.compact
    def __call__(self, pixels: Float[Array, "b S S 3"]) -> tuple[Float[Array, "b _H _W _c"], ...]:
        """Returns the map after each stage, finest first."""
        config = self.config
        x = PatchEmbed(config, name="patch_embed")(pixels)
        grid = self.param(
            "pos_embed", nn.initializers.normal(0.02), (1, config.widths[0], *config.position_grid)
        )
        tile_shape = (1, config.widths[0], config.windows[0], config.windows[0])
        tile = self.param("pos_embed_window", nn.initializers.normal(0.02), tile_shape)
        x = x + position_embedding(grid, tile, x.shape[1]).astype(x.dtype)
        stages, index = [], 0
        for stage, depth in enumerate(config.depths):
            for first in [True] + [False] * (depth - 1):
                x = HieraBlock(**_block_fields(config, stage, index, first), name=f"blocks_{index}")(x)
                index += 1
            stages.append(x)
        return tuple(stages)


class Neck(nn.Module):
    """The feature pyramid, reduced to the three finest levels."""

    config: Sam2Config

    @nn.compact
    def __call__(
        self, stages: tuple[Float[Array, "b _H _W _c"], ...]
    ) -> tuple[Float[Array, "b _h _w d"], ...]:
        """Brings every level to one width and adds the coarser level where the configuration says so."""
        last = len(stages) - 1
        levels: list[jax.Array] = []
        for level in range(last, -1, -1):
            y = BlockConv(self.config.embed_dim, name=f"convs_{last - level}")(stages[level])
            if level in self.config.top_down_levels and level != last:
                y = y + jnp.repeat(jnp.repeat(levels[-1], 2, axis=1), 2, axis=2)
            levels.append(y)
        return tuple(reversed(levels))[:3]


class VisionEncoder(nn.Module):
    """Trunk and neck."""

    config: Sam2Config

    @nn.compact
    def __call__(self, pixels: Float[Array, "b S S 3"]) -> tuple[Float[Array, "b _h _w d"], ...]:
        """Returns three maps, finest first: at a quarter, an eighth and a sixteenth of the input's side."""
        return Neck(self.config, name="neck")(Hiera(self.config, name="backbone")(pixels))


def position_embedding(
    grid: Float[Array, "1 c g1 g2"], tile: Float[Array, "1 c w w"], side: int
) -> Float[Array, "1 side side c"]:
    """The coarse grid resized to the map plus the window's embedding repeated over it.

    The resize is torch's bicubic, in float32 since it cancels large neighbours.
    """
    coarse = resize(grid.transpose(0, 2, 3, 1), (side, side), "bicubic")
    repeats = side // tile.shape[-1]
    return coarse + jnp.tile(tile.astype(jnp.float32).transpose(0, 2, 3, 1), (1, repeats, repeats, 1))


def partition(x: Float[Array, "b H W c"], window: int) -> Float[Array, "n w1 w2 c"]:
    """Cuts a map into square windows, padded with zeros below and on the right; 0 keeps it whole."""
    if window == 0:
        return x
    b, rows, cols, c = x.shape
    down, right = -rows % window, -cols % window
    if down or right:
        x = jnp.pad(x, ((0, 0), (0, down), (0, right), (0, 0)))
    x = x.reshape(b, (rows + down) // window, window, (cols + right) // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window, window, c)


def unpartition(x: Float[Array, "n w1 w2 c"], batch: int, size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Puts windows back and drops their padding."""
    n, window, _, c = x.shape
    if n == batch:
        return x[:, : size[0], : size[1]]
    across, down = -(-size[1] // window), -(-size[0] // window)
    x = x.reshape(batch, down, across, window, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, down * window, across * window, c)[:, : size[0], : size[1]]


def _block_fields(config: Sam2Config, stage: int, index: int, first: bool) -> dict[str, Any]:
    """Settings of block `index`; the first block of a stage still uses the window of the stage before."""
    opens = first and stage > 0
    window = config.windows[stage - 1] if opens else config.windows[stage]
    return {
        "width": config.widths[stage],
        "heads": config.heads[stage],
        "window": 0 if index in config.global_blocks else window,
        "pool": config.pool_stride if opens and stage <= config.pooled_stages else 1,
        "mlp": int(config.widths[stage] * config.mlp_ratio),
        "eps": config.norm_eps,
    }
