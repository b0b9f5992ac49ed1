"""Where the parameters of SAM2 live on a mesh with axes `data`, `fsdp` and `tensor`: a table of patterns.

The model is small beside a policy: only the perceptrons of its encoder, two thirds of it, are cut, over `tensor`.
Images are spread over `data` and `fsdp`, see `models.axes`.
"""

import re
from collections.abc import Callable

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixelthink_jax.models.axes import fitting_axes

# Parameter path -> mesh axis of each dimension; what no row matches is on every chip.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"mlp/proj_in/kernel$", (None, "tensor")),
    (r"mlp/proj_in/bias$", ("tensor",)),
    (r"mlp/proj_out/kernel$", ("tensor", None)),
)


def partition_spec(path: str, shape: tuple[int, ...], axis_sizes: dict[str, int]) -> PartitionSpec:
    """The axes of one parameter.

    >>> tuple(partition_spec("encoder/blocks_3/mlp/proj_in/kernel", (96, 384), {"data": 2, "tensor": 4}))
    (None, 'tensor')
    >>> tuple(partition_spec("encoder/blocks_3/norm/scale", (96,), {"data": 2, "tensor": 4}))
    ()
    """
    for pattern, names in RULES:
        if re.search(pattern, path):
            found = [
                fitting_axes(size, (name,) if name else (), axis_sizes)
                for name, size in zip(names, shape, strict=True)
            ]
            return PartitionSpec(*(axes[0] if axes else None for axes in found))
    return PartitionSpec()


def sharding_for(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """The destination of each parameter, for `read_params`."""
    return lambda path, shape: NamedSharding(mesh, partition_spec(path, shape, dict(mesh.shape)))
