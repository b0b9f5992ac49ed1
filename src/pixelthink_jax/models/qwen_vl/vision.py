"""The vision tower: patches in, image tokens out.

Source: transformers `Qwen2_5_VisionTransformerPretrainedModel`. Difference: see `vision_layout`; attention
inside windows is exactly block-diagonal in both.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.attention import attend
from pixelthink_jax.models.axes import on_axes
from pixelthink_jax.models.layers import AnyArray, GatedMlp, Linear, RMSNorm, apply
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig, VisionConfig
from pixelthink_jax.models.qwen_vl.rope import CosSin, rotate, vision_rope
from pixelthink_jax.models.qwen_vl.vision_layout import VisionLayout
from pixelthink_jax.models.remat import Remat, kept, rematerialised

Params = Mapping[str, Any]
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def full_attention(
    q: Float[Array, "n p h c"],
    k: Float[Array, "n p h c"],
    v: Float[Array, "n p h c"],
    mask: Bool[AnyArray, "n p"] | None,
) -> Float[Array, "n p h c"]:
    """Every patch looks at every real patch of its frame."""
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    return attend(q, k, v, None if mask is None else mask[:, None])


def window_attention(
    q: Float[Array, "n p h c"],
    k: Float[Array, "n p h c"],
    v: Float[Array, "n p h c"],
    layout: VisionLayout,
) -> Float[Array, "n p h c"]:
    """Every patch looks at the real patches of its window; one batched product for each window shape."""
    n, start, outs = q.shape[0], 0, []
    for count, size in layout.windows:
        run = slice(start, start + count * size)
        fold = lambda x, run=run, size=size: x[:, run].reshape(-1, size, *x.shape[2:])  # noqa: E731
        mask = None if layout.mask is None else fold(layout.mask)
        outs.append(full_attention(fold(q), fold(k), fold(v), mask).reshape(n, count * size, *q.shape[2:]))
        start = run.stop
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=1)


class VisionBlock(nn.Module):
    """Pre-norm attention and gated MLP; which patches see each other is the caller's."""

    config: VisionConfig
    init_std: float = 0.02

    @nn.compact
    def __call__(
        self, x: Float[Array, "n p d"], cos_sin: CosSin, attention: Attention
    ) -> Float[Array, "n p d"]:
        """Applies the block to frames of patches in window order."""
        config = self.config
        out_std = self.init_std * (2 * config.depth) ** -0.5
        normed = RMSNorm(config.rms_norm_eps, name="norm1")(x)
        qkv = Linear(3 * config.hidden_size, use_bias=True, init_std=self.init_std, name="qkv")(normed)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        heads = (*x.shape[:-1], config.num_heads, config.head_dim)
        q, k, v = rotate(q.reshape(heads), *cos_sin), rotate(k.reshape(heads), *cos_sin), v.reshape(heads)
        attended = kept(attention(kept(q), kept(k), kept(v)).reshape(x.shape))
        x = kept(x + Linear(config.hidden_size, use_bias=True, init_std=out_std, name="proj")(attended))
        normed = RMSNorm(config.rms_norm_eps, name="norm2")(x)
        mlp = GatedMlp(
            config.intermediate_size, use_bias=True, init_std=self.init_std, out_std=out_std, name="mlp"
        )
        return x + mlp(normed)


class PatchMerger(nn.Module):
    """Joins the `merge_unit` patches of an image token and maps them to the text width."""

    config: VisionConfig
    init_std: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "n p d"]) -> Float[Array, "n units f"]:
        """Normalises each patch, concatenates units, then Linear, exact GELU, Linear."""
        config = self.config
        x = RMSNorm(config.rms_norm_eps, name="norm")(x)
        x = x.reshape(x.shape[0], -1, config.merge_unit * config.hidden_size)
        x = Linear(x.shape[-1], use_bias=True, init_std=self.init_std, name="fc1")(x)
        x = jax.nn.gelu(x, approximate=False)
        return Linear(config.out_hidden_size, use_bias=True, init_std=self.init_std, name="fc2")(x)


def embed_patches(
    params: Params, pixel_values: Float[AnyArray, "patches dim"], layout: VisionLayout, config: VisionConfig
) -> Float[Array, "n p d"]:
    """Projects pixel rows and puts them into the layout's order."""
    x = pixel_values @ params["kernel"].astype(pixel_values.dtype)
    units = x.reshape(-1, config.merge_unit * config.hidden_size)
    places = units.at[layout.order].get(mode="promise_in_bounds", unique_indices=layout.mask is None)
    return on_axes(places.reshape(places.shape[0], -1, config.hidden_size), "n p d")


def run_blocks(
    blocks: Params,
    x: Float[Array, "n p d"],
    layout: VisionLayout,
    config: VisionConfig,
    *,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> Float[Array, "n p d"]:
    """Applies the stacked blocks: a scan over the period of their kinds of attention, and in it over equal ones.

    The published towers attend over the whole image in every eighth block: programs then hold two blocks, not eight.
    """
    block = VisionBlock(config, parent=None)
    cos_sin = vision_rope(layout.positions, config)
    windowed = partial(window_attention, layout=layout)
    full = partial(full_attention, mask=layout.mask)

    def one(attention: Attention) -> Callable[[jax.Array, Params], tuple[jax.Array, None]]:
        def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
            return on_axes(apply(block, layer, x, cos_sin, attention), "n p d"), None

        return rematerialised(body, remat)

    kinds = _period([index in config.full_attention_blocks for index in range(config.depth)])

    def period(x: jax.Array, layers: Params) -> tuple[jax.Array, None]:
        start = 0
        for is_full, group in groupby(kinds):
            stop = start + len(list(group))
            run = jax.tree.map(lambda leaf, low=start, high=stop: leaf[low:high], layers)
            x, _ = jax.lax.scan(one(full if is_full else windowed), x, run, unroll=unroll)
            start = stop
        return x, None

    periods = jax.tree.map(lambda leaf: leaf.reshape(-1, len(kinds), *leaf.shape[1:]), blocks)
    return jax.lax.scan(period, x, periods, unroll=unroll)[0]


def _period(kinds: list[bool]) -> list[bool]:
    """The shortest start that a sequence repeats from end to end.

    >>> _period([False, True, False, True]), _period([False, True, False])
    ([False, True], [False, True, False])
    """
    lengths = (length for length in range(1, len(kinds)) if len(kinds) % length == 0)
    repeated = (length for length in lengths if kinds[:length] * (len(kinds) // length) == kinds)
    return kinds[: next(repeated, len(kinds))]


def encode_images(
    params: Params,
    pixel_values: Float[AnyArray, "patches dim"],
    layout: VisionLayout,
    config: QwenVLConfig,
    *,
    dtype: DTypeLike | None = None,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> Float[Array, "tokens d"]:
    """Turns the patches of a batch of images into image tokens.

    Args:
        params: The whole model's parameters.
        pixel_values: Normalised patch rows in merge-block order, images one after another, as the Hugging
            Face processor makes them.
        layout: `vision_layout` of the same images.
        config: The model.
        dtype: Dtype to compute in; None takes that of the weights.
        remat: What blocks keep for the backward pass.
        unroll: Blocks per scan step; True unrolls the scan.

    Returns:
        One row for each image token, in the order of the prompt's placeholders.
    """
    vision = params["vision"]
    x = pixel_values.astype(dtype or vision["patch_embed"]["kernel"].dtype)
    x = embed_patches(vision["patch_embed"], x, layout, config.vision)
    x = run_blocks(vision["blocks"], x, layout, config.vision, remat=remat, unroll=unroll)
    tokens = apply(PatchMerger(config.vision, parent=None), vision["merger"], x)
    return (
        tokens.reshape(-1, tokens.shape[-1])
        .at[layout.restore]
        .get(mode="promise_in_bounds", unique_indices=True)
    )
