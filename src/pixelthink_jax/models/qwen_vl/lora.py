"""Low-rank adapters of the text blocks (Hu et al. 2021, arXiv:2106.09685): `y = x W + (alpha / r) (x A) B`.

An adapted projection has three more leaves beside its kernel, stacked over layers like it: `lora_a [layer, in, r]`,
`lora_b [layer, r, out]` and `lora_scale [layer]`. Every mode of the model (rollout, scoring, gradient) runs them
without being told, the shared kernels are never copied, and a tree without the three is the model without its adapter.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.layers import LORA_LEAVES
from pixelthink_jax.models.qwen_vl.config import TextConfig
from pixelthink_jax.models.qwen_vl.text import Params
from pixelthink_jax.runtime.stored_arrays import Index, StoredArray

PROJECTIONS: dict[str, str] = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "o_proj": "o_proj",
    "gate_proj": "mlp/gate_proj",
    "up_proj": "mlp/up_proj",
    "down_proj": "mlp/down_proj",
}
"""Projections that may be adapted, by their usual names, and where they are in a block."""


@dataclass(frozen=True)
class LoraConfig:
    """Which projections are adapted, and how.

    Attributes:
        rank: Width of the adapter.
        alpha: The adapter is multiplied by `alpha / rank`.
        targets: Names of `PROJECTIONS`.
        adapter: A PEFT adapter folder to go on from, of this shape; None begins with one that does nothing.
    """

    rank: int = 64
    alpha: float = 128.0
    targets: tuple[str, ...] = tuple(PROJECTIONS)
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise InputError(f"lora: rank {self.rank}, alpha {self.alpha}: both must be positive")
        unknown = [name for name in self.targets if name not in PROJECTIONS]
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise InputError(f"lora: targets {list(self.targets)}: expected some of {', '.join(PROJECTIONS)}")

    @property
    def scale(self) -> float:
        """What the adapter is multiplied by."""
        return self.alpha / self.rank


def projection_shape(config: TextConfig, target: str) -> tuple[int, int]:
    """Input and output width of a projection."""
    wide, hidden = config.intermediate_size, config.hidden_size
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads, "v_proj": config.num_kv_heads}
    if target in heads:
        return hidden, heads[target] * config.head_dim
    return {"o_proj": (config.num_heads * config.head_dim, hidden), "down_proj": (wide, hidden)}.get(
        target, (hidden, wide)
    )


def add_lora(params: Params, lora: LoraConfig, config: TextConfig, key: jax.Array) -> Params:
    """The parameters with an adapter that changes nothing yet: `A` as PEFT draws it, `B` zero.

    Args:
        params: The whole model's parameters, without an adapter; shared with the result, not copied.
        lora: Its shape.
        config: The language model.
        key: PRNG key of `A`.
    """
    leaves = {}
    for target, target_key in zip(lora.targets, jax.random.split(key, len(lora.targets)), strict=True):
        into, out = projection_shape(config, target)
        # Kaiming's uniform with a = sqrt(5), as PEFT and torch.nn.Linear: bounded by one over the root of the width.
        bound, depth = into**-0.5, config.num_layers
        leaves[target] = (
            jax.random.uniform(target_key, (depth, into, lora.rank), minval=-bound, maxval=bound),
            jnp.zeros((depth, lora.rank, out)),
        )
    return with_adapter(params, leaves, lora)


def with_adapter(params: Params, leaves: dict[str, tuple[jax.Array, jax.Array]], lora: LoraConfig) -> Params:
    """Puts the matrices `A` and `B` of every target beside its kernel."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    for target, (a, b) in leaves.items():
        scale = jnp.full(a.shape[0], lora.scale, jnp.float32)
        for name, leaf in zip(LORA_LEAVES, (a, b, scale), strict=True):
            flat[f"text/blocks/{PROJECTIONS[target]}/{name}"] = leaf
    return unflatten_dict(flat, sep="/")


def adapter_leaves(params: Params) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The matrices `A` and `B` of every adapted projection, by its name."""
    flat: dict[str, Any] = flatten_dict(params["text"]["blocks"], sep="/")
    return {
        target: (flat[f"{path}/lora_a"], flat[f"{path}/lora_b"])
        for target, path in PROJECTIONS.items()
        if f"{path}/lora_a" in flat
    }


def without_lora(params: Params) -> Params:
    """The model the adapter was added to; nothing is copied."""
    flat = flatten_dict(params, sep="/")
    return unflatten_dict(
        {path: leaf for path, leaf in flat.items() if path.rpartition("/")[2] not in LORA_LEAVES}, sep="/"
    )


def merge_lora(params: Params) -> Params:
    """The plain model that computes the same: `W + (alpha / r) A B`, made in float32, in the dtype of `W`."""
    flat = flatten_dict(without_lora(params), sep="/")
    for path, leaves in _adapted(flatten_dict(params, sep="/")).items():
        flat[f"{path}/kernel"] = _merged(flat[f"{path}/kernel"], *leaves)
    return unflatten_dict(flat, sep="/")


def merged_leaf(
    kernel: StoredArray, a: StoredArray, b: StoredArray, scale: float, dtype: DTypeLike
) -> StoredArray:
    """`merge_lora` of one stacked kernel that is read layer by layer, cast before it is merged."""

    def read(index: Index) -> np.ndarray:
        layers = index[0]
        factors = jnp.full(layers.stop - layers.start, scale, jnp.float32)
        whole = _merged(
            jnp.asarray(kernel[layers], dtype), jnp.asarray(a[layers]), jnp.asarray(b[layers]), factors
        )
        return np.asarray(whole)[(slice(None), *index[1:])]

    return StoredArray(kernel.shape, jnp.dtype(dtype), read)


def _adapted(flat: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    paths = [path.removesuffix("/lora_a") for path in flat if path.endswith("/lora_a")]
    return {path: tuple(flat[f"{path}/{name}"] for name in LORA_LEAVES) for path in paths}


@jax.jit
def _merged(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: jax.Array) -> jax.Array:
    wide = jnp.einsum("lir,lro->lio", a, b, precision="highest") * scale[:, None, None]
    return (kernel.astype(jnp.float32) + wide).astype(kernel.dtype)
