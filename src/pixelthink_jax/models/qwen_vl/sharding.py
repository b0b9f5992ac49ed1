"""Where each parameter lives on a mesh with axes `data`, `fsdp` and `tensor`: a table of patterns, no code in layers.

Matrices that widen are cut by columns over `tensor`, those that narrow by rows, and the other side over
`fsdp`; everything small is replicated. An axis that does not divide a dimension is left out for it. Keys and values
are cut by whole heads: where `tensor` is more than there are, every chip has all of them.

The state of an optimizer and the low halves of an exact master mirror the parameters, and their paths end as those of
the parameters do, so the same table places them. Activations are in `models.axes`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.axes import fitting_axes
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig

# Parameter path -> mesh axis of each of its last dimensions; the first match counts. `kv` is `tensor` by whole heads.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"text/(embed|lm_head)$", ("tensor", "fsdp")),
    (r"(k_proj|v_proj)/kernel$", ("fsdp", "kv")),
    (r"(q_proj|qkv|gate_proj|up_proj|fc1|gate|up)/kernel$", ("fsdp", "tensor")),
    (r"(o_proj|proj|down_proj|fc2|down)/kernel$", ("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj)/lora_a$", ("fsdp", None)),
    (r"(k_proj|v_proj)/lora_b$", (None, "kv")),
    (r"(q_proj|gate_proj|up_proj)/lora_b$", (None, "tensor")),
    (r"(o_proj|down_proj)/lora_a$", ("tensor", None)),
    (r"(o_proj|down_proj)/lora_b$", (None, "fsdp")),
)

# What the names of the table mean: `fsdp` may be cut in two, see `models.axes`.
_MESH_AXES = {"fsdp": ("fsdp", "fsdp_group"), "tensor": ("tensor",), "kv": ("tensor",)}


def partition_spec(
    path: str, shape: tuple[int, ...], axis_sizes: Mapping[str, int], *, kv_heads: int | None = None
) -> PartitionSpec:
    """The axes of one parameter.

    Args:
        path: Where it is in the tree, or the end of that.
        shape: Its shape.
        axis_sizes: Chips of each axis of the mesh.
        kv_heads: Key and value heads of the model; None lets their projections be cut anywhere.

    >>> axes = {"data": 1, "fsdp": 4, "tensor": 4}
    >>> tuple(partition_spec("text/blocks/q_proj/kernel", (36, 2048, 2048), axes))
    (None, 'fsdp', 'tensor')
    >>> tuple(partition_spec("text/blocks/k_proj/kernel", (36, 2048, 256), axes, kv_heads=2))
    (None, 'fsdp', None)
    >>> tuple(partition_spec("text/final_norm/scale", (2048,), axes))
    ()
    """
    for pattern, names in RULES:
        if re.search(pattern, path):
            lead = len(shape) - len(names)
            if lead < 0:
                break
            entries = []
            for name, size in zip(names, shape[lead:], strict=True):
                units = kv_heads if name == "kv" and kv_heads else size
                found = fitting_axes(units, _MESH_AXES.get(name or "", ()), axis_sizes)
                entries.append(found[0] if len(found) == 1 else found or None)
            return PartitionSpec(*(None,) * lead, *entries)
    return PartitionSpec()


def sharding_for(
    mesh: jax.sharding.Mesh, config: QwenVLConfig | None = None
) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """The destination of each parameter, for `read_folder`."""
    sizes, kv_heads = dict(mesh.shape), None if config is None else config.text.num_kv_heads
    return lambda path, shape: NamedSharding(mesh, partition_spec(path, shape, sizes, kv_heads=kv_heads))


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh, config: QwenVLConfig) -> Any:
    """The destination of every leaf of a tree of parameters, or of a training state that mirrors them."""
    place = sharding_for(mesh, config)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: place(_name(path), leaf.shape), tree)


def on_rules(tree: Any, config: QwenVLConfig) -> Any:
    """Holds parameters, gradients or a training state to their places on the mesh in use; without one, `tree`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree

    def place(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        spec = partition_spec(_name(path), leaf.shape, mesh.shape, kv_heads=config.text.num_kv_heads)
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def check_mesh(config: QwenVLConfig, axis_sizes: Mapping[str, int], *, where: str = "mesh") -> None:
    """Refuses a `tensor` axis that would cut attention heads.

    Raises:
        InputError: Heads cannot be shared out; the sizes that work are named.

    >>> check_mesh(QwenVLConfig(), {"tensor": 3})
    Traceback (most recent call last):
    ...
    pixelthink_jax.errors.InputError: mesh: tensor 3 would cut attention heads (16, and 2 of keys); use 1, 2, 4, 8 or 16
    """
    heads, kv = config.text.num_heads, config.text.num_kv_heads
    good = [n for n in range(1, heads + 1) if heads % n == 0 and (kv % n == 0 or n % kv == 0)]
    if axis_sizes.get("tensor", 1) not in good:
        *most, last = map(str, good)
        raise InputError(
            f"{where}: tensor {axis_sizes['tensor']} would cut attention heads ({heads}, and {kv} of keys); use "
            f"{', '.join(most)} or {last}"
        )


def _name(path: tuple[Any, ...]) -> str:
    """The keys of dictionaries on the way to a leaf, which are the path of a parameter."""
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
