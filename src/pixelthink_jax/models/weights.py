"""Tensors of a Hugging Face model folder <-> a parameter tree, by a table, in both directions.

A model describes itself by a list of `TensorSpec`: for each tensor of the file its name and shape there, and
where it stands in the parameter tree. `read_params` builds each leaf straight in its (sharded) destination
from slices of the files, so the host never holds the model; `models.writing` is the way back. Both are strict:
a missing, unknown or wrongly shaped tensor is an `InputError` that names it.
"""

import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.folders import (
    CONFIG_FILE,
    ArraySource,
    SafetensorsFolder,
    TensorSource,
    atomic_folder,
    read_config,
    read_json,
    tensor_names,
)
from pixelthink_jax.runtime.stored_arrays import Index, StoredArray

__all__ = [
    "CONFIG_FILE",
    "CONV2D",
    "CONV_TO_DENSE",
    "IDENTITY",
    "TRANSPOSE",
    "ArraySource",
    "Index",
    "SafetensorsFolder",
    "ShardingFor",
    "TensorSource",
    "TensorSpec",
    "Transform",
    "atomic_folder",
    "check_tensors",
    "group_by_leaf",
    "leaf_shape",
    "place_params",
    "read_config",
    "read_json",
    "read_params",
    "stored_params",
    "tensor_names",
]

ShardingFor = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


@dataclass(frozen=True)
class Transform:
    """How a tensor of the file becomes an array of the tree; reversible.

    Attributes:
        flatten: Joins all file axes after the first into one, before anything else.
        axes: Our axis `i` is file axis `axes[i]` (after flattening); None keeps the order.
    """

    flatten: bool = False
    axes: tuple[int, ...] | None = None

    def flat_shape(self, file_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape after flattening."""
        return (file_shape[0], int(np.prod(file_shape[1:]))) if self.flatten else file_shape

    def shape(self, file_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the tree of a tensor with `file_shape`.

        >>> CONV_TO_DENSE.shape((96, 3, 2, 14, 14))
        (1176, 96)
        """
        flat = self.flat_shape(file_shape)
        return flat if self.axes is None else tuple(flat[axis] for axis in self.axes)

    def to_file(self, array: np.ndarray, file_shape: tuple[int, ...]) -> np.ndarray:
        """The inverse: a contiguous array as the file holds it."""
        if self.axes is not None:
            array = array.transpose(np.argsort(self.axes))
        return np.array(array.reshape(file_shape), order="C")


IDENTITY = Transform()
TRANSPOSE = Transform(axes=(1, 0))
CONV_TO_DENSE = Transform(flatten=True, axes=(1, 0))
CONV2D = Transform(axes=(2, 3, 1, 0))


@dataclass(frozen=True)
class TensorSpec:
    """One tensor.

    Attributes:
        name: Its name in the file.
        path: Its leaf in the parameter tree, keys joined by "/".
        shape: Its shape in the file.
        transform: From the file's array to the leaf's.
        layer: Its place on the leaf's leading axis, if the leaf is a stack over layers.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    transform: Transform = IDENTITY
    layer: int | None = None

    @property
    def tree_shape(self) -> tuple[int, ...]:
        """Shape in the tree, without a layer axis."""
        return self.transform.shape(self.shape)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_tensors(source: TensorSource, specs: Sequence[TensorSpec], *, ignore: Sequence[str] = ()) -> None:
    """Compares a source with the table.

    Args:
        source: What the files hold.
        specs: What the model needs.
        ignore: `fnmatch` patterns of tensors that may be there and are not read.

    Raises:
        InputError: Names the first missing, wrongly shaped or unknown tensors.
    """
    held, wanted = source.shapes(), {spec.name: spec.shape for spec in specs}
    if missing := [name for name in wanted if name not in held]:
        raise InputError(
            f"{source.description}: missing tensor {_some(missing)}; the weights do not fit config.json"
        )
    for name, shape in wanted.items():
        if tuple(held[name]) != shape:
            raise InputError(
                f"{source.description}: tensor {name} has shape {list(held[name])}, config.json "
                f"implies {list(shape)}; the weights do not fit config.json"
            )
    ignored = re.compile("|".join(fnmatch.translate(pattern) for pattern in ignore)) if ignore else None
    unknown = [name for name in held if name not in wanted and not (ignored and ignored.match(name))]
    if unknown:
        raise InputError(
            f"{source.description}: unknown tensor {_some(unknown)}; is this model of another kind?"
        )


def _read_part(source: TensorSource, spec: TensorSpec, index: Index) -> np.ndarray:
    """The part `index` of the tree's array, read as the smallest slice of the file the transform allows."""
    transform = spec.transform
    axes = transform.axes or tuple(range(len(spec.tree_shape)))
    by_file_axis = tuple(index[axes.index(axis)] for axis in range(len(axes)))
    if not transform.flatten:
        return source.read(spec.name, by_file_axis).transpose(axes)
    rows = source.read(spec.name, by_file_axis[:1])
    flat = rows.reshape(rows.shape[0], -1)[(slice(None), *by_file_axis[1:])]
    return flat.transpose(axes)


def _read_leaf(
    source: TensorSource, specs: Sequence[TensorSpec], dtype: np.dtype, shape: tuple[int, ...], index: Index
) -> np.ndarray:
    """One shard of a leaf: the tensor's part, or the parts of the layers the shard holds."""
    bounds = tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))
    if specs[0].layer is None:
        return _read_part(source, specs[0], bounds).astype(dtype)
    layers = specs[bounds[0]]
    out = np.empty((len(layers), *(part.stop - part.start for part in bounds[1:])), dtype)
    for place, spec in enumerate(layers):
        out[place] = _read_part(source, spec, bounds[1:])
    return out


def group_by_leaf(specs: Sequence[TensorSpec]) -> dict[str, list[TensorSpec]]:
    """The table by parameter path, layers in order.

    Raises:
        ValueError: A path's layers are not 0, 1, 2, ... with equal shapes (a fault of the table).
    """
    leaves: dict[str, list[TensorSpec]] = defaultdict(list)
    for spec in specs:
        leaves[spec.path].append(spec)
    for path, group in leaves.items():
        group.sort(key=lambda spec: spec.layer or 0)
        layers = [spec.layer for spec in group]
        if layers not in ([None], list(range(len(group)))) or len({spec.tree_shape for spec in group}) > 1:
            raise ValueError(
                f"table: {path} has layers {layers} with shapes {[spec.tree_shape for spec in group]}"
            )
    return dict(leaves)


def leaf_shape(group: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Shape of the leaf that a group of `group_by_leaf` makes."""
    stack = () if group[0].layer is None else (len(group),)
    return stack + group[0].tree_shape


def _place(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, read: Callable[[Index], np.ndarray]
) -> jax.Array:
    """An array of this process's shards, each read once and handed to every device that holds it.

    `jax.make_array_from_callback` would first collect the parts of all devices on the host.
    """
    devices: dict[str, tuple[Index, list[Any]]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        index = index if index is not None else (slice(None),) * len(shape)
        devices.setdefault(str(index), (index, []))[1].append(device)
    shards = []
    for index, holders in devices.values():
        part = read(index)
        kinds = [jax.sharding.SingleDeviceSharding(d, memory_kind=sharding.memory_kind) for d in holders]
        shards += [jax.device_put(part, kind) for kind in kinds]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def read_params(
    source: TensorSource,
    specs: Sequence[TensorSpec],
    *,
    dtype: DTypeLike | None = None,
    sharding_for: ShardingFor | None = None,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """Reads a parameter tree, each shard of each leaf by itself.

    Args:
        source: A `SafetensorsFolder`, or any other holder of tensors.
        specs: The model's table.
        dtype: Dtype of every leaf; None keeps the stored one.
        sharding_for: Destination of a leaf from its path and shape; None puts everything on the default
            device.
        ignore: `fnmatch` patterns of tensors that may be there and are not read.

    Returns:
        Nested dictionaries of arrays, keys from the paths.

    Raises:
        InputError: See `check_tensors`.
    """
    return place_params(stored_params(source, specs, ignore=ignore), dtype=dtype, sharding_for=sharding_for)


def stored_params(
    source: TensorSource, specs: Sequence[TensorSpec], *, ignore: Sequence[str] = ()
) -> dict[str, StoredArray]:
    """The leaves of a parameter tree by their paths, to be read part by part.

    Raises:
        InputError: See `check_tensors`.
    """
    check_tensors(source, specs, ignore=ignore)
    leaves = {}
    for path, group in group_by_leaf(specs).items():
        shape = leaf_shape(group)
        dtype = jnp.result_type(*{source.dtype(spec.name) for spec in group})
        leaves[path] = StoredArray(shape, dtype, partial(_read_leaf, source, group, dtype, shape))
    return leaves


def place_params(
    leaves: Mapping[str, StoredArray],
    *,
    dtype: DTypeLike | None = None,
    sharding_for: ShardingFor | None = None,
) -> dict[str, Any]:
    """Reads leaves into a parameter tree, each shard of each leaf by itself; see `read_params`."""
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        sharding = sharding_for(path, leaf.shape) if sharding_for else one_device
        wanted = leaf if dtype is None else leaf.astype(dtype)
        _set(params, path, _place(leaf.shape, sharding, wanted.read))
    return params


def _set(tree: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = leaf
