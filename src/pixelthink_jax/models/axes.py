"""Which axes of an activation are cut over which axes of a mesh: models name their axes, this table places them.

A model says `on_axes(x, "b t d")` with the letters its shapes are written in. Without a mesh that is `x`; under
`jax.set_mesh` it is a constraint for the compiler. An axis of a mesh that does not divide a dimension is left out for
it, so a batch of one runs on any mesh, on every chip alike.

A mesh has the axes `data`, `fsdp` and `tensor`, and where there are more chips than prompts one of the first two is cut
into itself and a second part, `data_group` or `fsdp_group`, over which the completions of a group are spread.
"""

import math
from collections.abc import Iterable, Mapping

import jax
from jax.sharding import PartitionSpec

BATCH = ("data", "fsdp")
GROUP = ("data_group", "fsdp_group")

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "b": BATCH,  # prompts, rows, images of the segmenter
    "s": ("data",),  # rows of which a chip has some columns only
    "e": ("fsdp", "fsdp_group"),  # those columns, as the table of embeddings is cut
    "g": GROUP,  # completions of a prompt
    "m": (*BATCH, *GROUP),  # tokens in any order, one after another
    "n": (*BATCH, *GROUP, "tensor"),  # images of the vision tower, each on its own
    "h": ("tensor",),  # query heads
    "k": ("tensor",),  # key and value heads: on every chip alike where there are fewer of them than chips
    "v": ("tensor",),  # vocabulary
}
"""Letter of an axis -> mesh axes; a letter that is not here is not cut."""


def fitting_axes(size: int, axes: Iterable[str], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The longest run of `axes`, from the first, whose chips divide `size`; axes the mesh lacks are passed over.

    >>> fitting_axes(6, ("data", "fsdp"), {"data": 2, "fsdp": 4, "tensor": 1})
    ('data',)
    """
    found: list[str] = []
    for axis in axes:
        if mesh.get(axis, 1) == 1:
            continue
        if size % math.prod(mesh[a] for a in (*found, axis)):
            break
        found.append(axis)
    return tuple(found)


def activation_spec(axes: str, shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """Where an activation's axes go.

    >>> tuple(activation_spec("b t h c", (8, 100, 4, 64), {"data": 2, "fsdp": 4, "tensor": 2}))
    (('data', 'fsdp'), None, 'tensor', None)
    """
    entries = [
        fitting_axes(size, ACTIVATIONS.get(letter, ()), mesh)
        for letter, size in zip(axes.split(), shape, strict=True)
    ]
    return PartitionSpec(*(entry[0] if len(entry) == 1 else entry or None for entry in entries))


def on_axes(x: jax.Array, axes: str) -> jax.Array:
    """Holds an activation to its place on the mesh in use; without one, `x` itself.

    Args:
        x: The activation.
        axes: A letter for each of its axes, divided by spaces.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape, mesh.shape))


def shards_of(letter: str) -> int:
    """Chips of the mesh in use that an axis is spread over; 1 without a mesh.

    >>> shards_of("b")
    1
    """
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in ACTIVATIONS[letter])
