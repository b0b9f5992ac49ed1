"""Batches and parameters on a mesh: where what a step reads goes, and the one reshard between its two layouts.

Everything here is the identity without a mesh.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.rl.rollout import PromptArrays
from pixelthink_jax.rl.step import StepBatch

T = TypeVar("T")


_PROMPTS = {
    "input_ids": "b t",
    "mask": "b t",
    "positions": ". b t",
    "forced": "b .",
    "images": "b . . .",
    "layout/order": "n .",
    "layout/positions": "n . .",
    "layout/mask": "n .",
    "layout/restore": ".",
}
_BATCH = {
    **{f"prompts/{name}": axes for name, axes in _PROMPTS.items()},
    "layout": "",
    "tokens": "b g r",
    "lengths": "b g",
    "sampler_logprobs": "b g r",
    "rewards": "b",
    "banned": ".",
}
"""Field of a batch -> letters of `models.axes`; what comes after the letters is not cut."""


def _placed(tree: T, table: Mapping[str, str], mesh: Mesh | None) -> T:
    """Every array where the first row of the table that begins its path says; without a mesh the tree itself."""
    if mesh is None:
        return tree
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    places = []
    for path, leaf in found:
        name = "/".join(str(getattr(key, "name", "")) for key in path)
        axes = next(axes for field, axes in table.items() if f"{name}/".startswith(f"{field}/")).split()
        padded = [*axes, *"........"][: jnp.ndim(leaf)]
        places.append(NamedSharding(mesh, activation_spec(" ".join(padded), jnp.shape(leaf), mesh.shape)))
    # Arrays only in the dataclasses: their fields are arrays, not shardings.
    return jax.tree.unflatten(structure, jax.device_put([leaf for _, leaf in found], places))


def place_prompts(prompts: PromptArrays, mesh: Mesh | None) -> PromptArrays:
    """Prompts shared out over a mesh."""
    return _placed(prompts, _PROMPTS, mesh)


def place_batch(batch: StepBatch, mesh: Mesh | None) -> StepBatch:
    """A batch of the update shared out over a mesh."""
    return _placed(batch, _BATCH, mesh)


def decode_layout(
    config: QwenVLConfig, *, dtype: DTypeLike | None, train: Mesh | None, rollout: Mesh | None
) -> Callable[[Any], Any]:
    """Builds the function that makes per-layer parameters of the decode loop from those that are trained.

    On a mesh this is the reshard of a step, as one program: layer by layer, so that no stack of layers is ever whole on
    a chip.

    Args:
        config: The model.
        dtype: Of the computation; None keeps that of the parameters.
        train: Where the parameters are.
        rollout: Where the loop runs; the same devices in the same order.
    """

    def unstack(params: Any) -> Any:
        if dtype is not None:
            params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)
        layers = qwen_vl.unstack_layers(params)
        # Each layer is cut out where it lies before it moves; the compiler would move the whole stack and then cut.
        for mesh in (train, rollout):
            if mesh is not None:
                places = qwen_vl.tree_shardings(layers, mesh, config)
                layers = jax.lax.with_sharding_constraint(layers, places)
        return layers

    return jax.jit(unstack)
