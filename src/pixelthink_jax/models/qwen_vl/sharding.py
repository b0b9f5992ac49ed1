"""Where each parameter lives on a mesh with axes `data`, `fsdp` and `tensor`: a table of patterns, no code in layers.

Matrices that widen are cut by columns over `tensor`, those that narrow by rows, and the other side over
`fsdp`; everything small is replicated. An axis that does not divide a dimension is left out for it.
"""

import re
from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec

# Parameter path -> mesh axis of each of its last dimensions; the first match counts.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"text/(embed|lm_head)$", ("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|qkv|gate_proj|up_proj|fc1|gate|up)/kernel$", ("fsdp", "tensor")),
    (r"(o_proj|proj|down_proj|fc2|down)/kernel$", ("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj)/lora_a$", ("fsdp", None)),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj)/lora_b$", (None, "tensor")),
    (r"(o_proj|down_proj)/lora_a$", ("tensor", None)),
    (r"(o_proj|down_proj)/lora_b$", (None, "fsdp")),
)


def partition_spec(path: str, shape: tuple[int, ...], axis_sizes: dict[str, int]) -> PartitionSpec:
    """The axes of one parameter.

    >>> axes = {"data": 1, "fsdp": 4, "tensor": 2}
    >>> tuple(partition_spec("text/blocks/q_proj/kernel", (36, 2048, 2048), axes))
    (None, 'fsdp', 'tensor')
    >>> tuple(partition_spec("text/final_norm/scale", (2048,), axes))
    ()
    """
    for pattern, axes in RULES:
        if re.search(pattern, path):
            lead = len(shape) - len(axes)
            return PartitionSpec(
                *(None,) * lead,
                *(
                    a if a in axis_sizes and n % axis_sizes[a] == 0 else None
                    for a, n in zip(axes, shape[lead:], strict=True)
                ),
            )
    return PartitionSpec()


def sharding_for(mesh: jax.sharding.Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """The destination of each parameter, for `read_folder`."""
    sizes = dict(mesh.shape)
    return lambda path, shape: NamedSharding(mesh, partition_spec(path, shape, sizes))
