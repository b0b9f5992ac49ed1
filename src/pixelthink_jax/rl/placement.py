"""Batches and parameters on a mesh: where what a step reads goes, and the one reshard between its two layouts.

Everything here is the identity without a mesh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.qwen_vl import QwenVLConfig, VisionLayout
from pixelthink_jax.rl.rollout import PromptArrays
from pixelthink_jax.rl.step import StepBatch


def prompt_axes(prompts: PromptArrays) -> PromptArrays:
    """The letters of `models.axes` for every array of some prompts."""
    layout = prompts.layout
    axes: Any = VisionLayout("n .", "n . .", None if layout.mask is None else "n .", ".", layout.windows)
    images: Any = tuple("b . . ." for _ in prompts.images)
    found: dict[str, Any] = {"input_ids": "b t", "mask": "b t", "positions": ". b t", "forced": "b ."}
    return PromptArrays(**found, images=images, layout=axes)


def batch_axes(batch: StepBatch) -> StepBatch:
    """The same for a batch of the update."""
    of_prompts = lambda tree: jax.tree.map(lambda x: " ".join(["b", *"...."][: jnp.ndim(x)]), tree)  # noqa: E731
    layout = jax.tree.map(lambda x: " ".join("...."[: jnp.ndim(x)]), batch.layout)
    groups: dict[str, Any] = {"tokens": "b g r", "lengths": "b g", "sampler_logprobs": "b g r", "banned": "."}
    return StepBatch(
        prompts=prompt_axes(batch.prompts), layout=layout, rewards=of_prompts(batch.rewards), **groups
    )


def shardings(tree: Any, axes: Any, mesh: Mesh) -> Any:
    """The destination of every array of `tree`, from the letters in the same place of `axes`."""
    return jax.tree.map(
        lambda x, a: NamedSharding(mesh, activation_spec(a, jnp.shape(x), mesh.shape)), tree, axes
    )


def place_prompts(prompts: PromptArrays, mesh: Mesh | None) -> PromptArrays:
    """Prompts shared out over a mesh."""
    return (
        prompts if mesh is None else jax.device_put(prompts, shardings(prompts, prompt_axes(prompts), mesh))
    )


def place_batch(batch: StepBatch, mesh: Mesh | None) -> StepBatch:
    """A batch of the update shared out over a mesh."""
    return batch if mesh is None else jax.device_put(batch, shardings(batch, batch_axes(batch), mesh))


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """The same arrays on every chip."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


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
