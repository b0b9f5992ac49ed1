"""Batches and parameters on a mesh: where what a step reads goes, and the one reshard between its two layouts.

Everything here is the identity without a mesh.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.rl.rollout import PromptArrays
from pixelthink_jax.rl.step import StepBatch
from pixelthink_jax.runtime.hosts import put_tree

T = TypeVar("T")


_PROMPTS = {
    "input_ids": "b t",
    "mask": "b t",
    "loss_mask": "b t",
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
    "reference_logprobs": "b g r",
    "rewards": "b",
    "banned": ".",
}
"""Field of a batch -> letters of `models.axes`; what comes after the letters is not cut."""


def _placed(tree: T, table: Mapping[str, str], mesh: Mesh | None) -> T:
    """Every array where the first row of the table that begins its path says; without a mesh the tree itself."""
    if mesh is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    # Arrays only in the dataclasses: their fields are arrays, not shardings.
    return jax.tree.unflatten(structure, put_tree(leaves, _places(tree, table, mesh)))


def _places(tree: Any, table: Mapping[str, str], mesh: Mesh) -> list[NamedSharding]:
    """The destination of each leaf, in the order of the leaves."""
    places = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = "/".join(str(getattr(key, "name", "")) for key in path)
        axes = next(axes for field, axes in table.items() if f"{name}/".startswith(f"{field}/")).split()
        padded = [*axes, *"........"][: jnp.ndim(leaf)]
        places.append(NamedSharding(mesh, activation_spec(" ".join(padded), jnp.shape(leaf), mesh.shape)))
    return places


def place_prompts(prompts: PromptArrays, mesh: Mesh | None) -> PromptArrays:
    """Prompts shared out over a mesh."""
    return _placed(prompts, _PROMPTS, mesh)


def place_rows(rows: T, mesh: Mesh | None) -> T:
    """Supervised rows shared out over a mesh; their fields are named as those of prompts."""
    return _placed(rows, _PROMPTS, mesh)


def place_batch(batch: StepBatch, mesh: Mesh | None) -> StepBatch:
    """A batch of the update shared out over a mesh."""
    return _placed(batch, _BATCH, mesh)


def planned_prompts(prompts: PromptArrays, mesh: Mesh | None) -> PromptArrays:
    """The shapes of prompts, placed as `place_prompts` would, for compilation without arrays."""
    return _planned(prompts, _PROMPTS, mesh)


def planned_batch(batch: StepBatch, mesh: Mesh | None) -> StepBatch:
    """The shapes of a batch, placed as `place_batch` would, for compilation without arrays."""
    return _planned(batch, _BATCH, mesh)


def _planned(tree: T, table: Mapping[str, str], mesh: Mesh | None) -> T:
    leaves, structure = jax.tree.flatten(tree)
    places = [None] * len(leaves) if mesh is None else _places(tree, table, mesh)
    shapes = [
        jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=s) for x, s in zip(leaves, places, strict=True)
    ]
    return jax.tree.unflatten(structure, shapes)


class DecodeLayout:
    """Makes per-layer parameters of the decode loop from those that are trained: on a mesh, the reshard of a step.

    Two small programs, one of which is run for each layer. As one program it would have many layers on their way at
    once: 26.9 GiB a chip for 7B on 16 chips of v5e.
    """

    def __init__(
        self, config: QwenVLConfig, *, dtype: DTypeLike | None, train: Mesh | None, rollout: Mesh | None
    ) -> None:
        """Binds the model, the dtype to compute in (None keeps that of the parameters) and both layouts.

        The layouts have the same devices in the same order.
        """
        self._config, self._dtype = config, dtype
        self._train, self._rollout = train, rollout
        self._programs: dict[Any, tuple[Any, Any]] = {}

    def __call__(self, params: Any) -> Any:
        """Parameters as `qwen_vl.unstack_layers` gives them, where and in the dtype that the loop needs them."""
        layer, rest = self.programs(params)
        blocks, others = params["text"]["blocks"], rest(qwen_vl.without_blocks(params))
        depth = jax.tree.leaves(blocks)[0].shape[0]
        layers = tuple(layer(blocks, jnp.int32(index)) for index in range(depth))
        return {**others, "text": {**others["text"], "blocks": layers}}

    def programs(self, params: Any) -> tuple[Any, Any]:
        """`(stacked blocks, index) -> layer`, and `others -> others`, jitted for parameters of these shapes."""
        structure = jax.tree.structure(params)
        if structure not in self._programs:
            one = jax.eval_shape(_cut_layer, params["text"]["blocks"], jnp.int32(0))
            others = qwen_vl.without_blocks(params)
            self._programs[structure] = (
                jax.jit(
                    lambda blocks, index: self._cast(_cut_layer(blocks, index)),
                    out_shardings=self._places(one),
                ),
                jax.jit(self._cast, out_shardings=self._places(others)),
            )
        return self._programs[structure]

    def _cast(self, tree: Any) -> Any:
        """In the dtype of the loop, and held where it lies: else the compiler would move a whole stack, then cut it."""
        if self._dtype is not None:
            tree = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(self._dtype)), tree)
        if self._train is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, qwen_vl.tree_shardings(tree, self._train, self._config))

    def _places(self, tree: Any) -> Any:
        """The destination of every leaf; None on one device."""
        return None if self._rollout is None else qwen_vl.tree_shardings(tree, self._rollout, self._config)


def _cut_layer(blocks: Any, index: Int[Array, ""]) -> Any:
    """One layer of stacked blocks."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), blocks)
