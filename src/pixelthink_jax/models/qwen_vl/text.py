"""The language model's decoder block, and the ways to run a stack of them.

Every mode (training, prefill, suffixes of a group, one decode step) runs the same `Block`: `project`, some
form of attention, `merge`. Blocks come stacked `[layer, ...]` and run under `lax.scan`, or as a tuple of
per-layer trees (`unstack_layers`) and run one after another: in a decode loop the second reads each weight in
place, where a scan first copies the layer out of the stack.

Source: transformers `Qwen2_5_VLDecoderLayer`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.attention import attend
from pixelthink_jax.models.axes import on_axes
from pixelthink_jax.models.layers import AnyArray, GatedMlp, Linear, RMSNorm, apply
from pixelthink_jax.models.qwen_vl.config import TextConfig
from pixelthink_jax.models.qwen_vl.rope import CosSin, rotate
from pixelthink_jax.models.remat import Remat, kept, rematerialised

Params = Mapping[str, Any]

# Axes before the width, by rank: whole rows, or completions of groups.
_LEAD = {3: "b t", 4: "b g t"}


class Block(nn.Module):
    """One decoder block, in two halves with the attention between them left to the caller."""

    config: TextConfig
    init_std: float = 0.02

    def setup(self) -> None:
        """Names the submodules; kernels that write to the residual stream start smaller (GPT-2's rule)."""
        config, std = self.config, self.init_std
        out_std = std * (2 * config.num_layers) ** -0.5
        kv_width = config.num_kv_heads * config.head_dim
        self.input_norm = RMSNorm(config.rms_norm_eps)
        self.q_proj = Linear(config.hidden_size, use_bias=True, init_std=std)
        self.k_proj = Linear(kv_width, use_bias=True, init_std=std)
        self.v_proj = Linear(kv_width, use_bias=True, init_std=std)
        self.o_proj = Linear(config.hidden_size, init_std=out_std)
        self.post_norm = RMSNorm(config.rms_norm_eps)
        self.mlp = GatedMlp(config.intermediate_size, init_std=std, out_std=out_std)

    def project(self, x: Float[Array, "*axes d"], cos_sin: CosSin) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rotated queries `[..., h, c]` and keys `[..., k, c]`, and values `[..., k, c]`."""
        normed, head_dim = self.input_norm(x), self.config.head_dim
        q, k, v = (
            projection(normed).reshape(*x.shape[:-1], -1, head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return kept(rotate(q, *cos_sin)), kept(rotate(k, *cos_sin)), kept(v)

    def merge(
        self, x: Float[Array, "*axes d"], attended: Float[Array, "*axes h c"]
    ) -> Float[Array, "*axes d"]:
        """Adds the attended values and then the MLP to the residual stream."""
        x = kept(x + self.o_proj(kept(attended).reshape(x.shape)))
        return x + self.mlp(self.post_norm(x))

    def __call__(
        self, x: Float[Array, "b t d"], cos_sin: CosSin, mask: AnyArray | None
    ) -> Float[Array, "b t d"]:
        """The whole block with plain masked attention; used to create parameters."""
        q, k, v = self.project(x, cos_sin)
        return self.merge(x, attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask))


class LayerFns:
    """`Block`'s halves as functions of one layer's parameters."""

    def __init__(self, config: TextConfig) -> None:
        """Binds the configuration; holds no parameters."""
        self._block = Block(config, parent=None)

    def project(self, layer: Params, x: jax.Array, cos_sin: CosSin) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `Block.project`."""
        q, k, v = apply(self._block, layer, x, cos_sin, method="project")
        lead = _LEAD[x.ndim]
        return on_axes(q, f"{lead} h c"), on_axes(k, f"{lead} k c"), on_axes(v, f"{lead} k c")

    def merge(self, layer: Params, x: jax.Array, attended: jax.Array) -> jax.Array:
        """See `Block.merge`."""
        merged = apply(self._block, layer, x, attended, method="merge")
        return on_axes(merged, f"{_LEAD[x.ndim]} d")


def run_layers(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    per_layer: Any,
    *,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Runs `body(carry, layer)` over layers: a scan over stacked leaves, a loop over a list of layers.

    Returns:
        The last carry, and the outputs, stacked by the scan or as a tuple.
    """
    body = rematerialised(body, remat)
    if not isinstance(per_layer, list):
        return jax.lax.scan(body, carry, per_layer, unroll=unroll)
    outs = []
    for layer in per_layer:
        carry, out = body(carry, layer)
        outs.append(out)
    return carry, tuple(outs)


def causal_mask(mask: Bool[AnyArray, "b t"]) -> Bool[Array, "b t t"]:
    """Turns padding truth `[b, t]` into `[b, t, t]`: real keys up to and including the query."""
    t = mask.shape[1]
    return jnp.asarray(mask)[:, None, :] & jnp.tri(t, dtype=bool)[None]
