"""A parameter tree -> the tensors of a Hugging Face model folder: the way back of `models.weights`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pixelthink_jax.models.folders import INDEX_FILE, SINGLE_FILE
from pixelthink_jax.models.safetensors_file import Tensor, write_tensors
from pixelthink_jax.models.weights import IDENTITY, TensorSpec, group_by_leaf, leaf_shape
from pixelthink_jax.runtime.stored_arrays import row_blocks

DEFAULT_SHARD_BYTES = 5_000_000_000


def write_params(
    folder: str | Path,
    params: Mapping[str, Any],
    specs: Sequence[TensorSpec],
    *,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes a parameter tree as safetensors into an existing folder, one file or shards with an index.

    Args:
        folder: Where to; see `atomic_folder`. A weight file that is there is whole, and is kept.
        params: What `read_params` returns, or such a tree of `StoredArray`; it comes to the host in blocks, of a layer
            or of some rows.
        specs: The model's table.
        dtype: Dtype to store; None keeps each leaf's.
        max_shard_bytes: A new file is begun before this size is passed.

    Raises:
        ValueError: The tree and the table do not fit.
    """
    folder, leaves = Path(folder), group_by_leaf(specs)
    if extra := set(_paths(params)) - set(leaves):
        raise ValueError(f"parameter tree: leaf {sorted(extra)[0]} is not in the table")
    for path, group in leaves.items():
        if _get(params, path).shape != leaf_shape(group):
            raise ValueError(
                f"parameter tree: {path} has shape {_get(params, path).shape}, expected {leaf_shape(group)}"
            )
    shards = _plan_shards(params, specs, dtype, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if not (folder / name).is_file():
            specs_of = {spec.name: spec for spec in shard}
            tensors = [Tensor(spec.name, spec.shape, _dtype(params, spec, dtype)) for spec in shard]
            write_tensors(
                folder / name, tensors, lambda tensor, of=specs_of: _blocks(params, of[tensor.name])
            )
        weight_map |= {spec.name: name for spec in shard}
    if len(shards) > 1:
        total = sum(_bytes(params, spec, dtype) for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for key in path.split("/"):
        if not isinstance(tree, Mapping) or key not in tree:
            raise ValueError(f"parameter tree: no leaf {path}")
        tree = tree[key]
    return tree


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}/")
        else:
            yield prefix + key


def _blocks(params: Mapping[str, Any], spec: TensorSpec) -> Iterator[np.ndarray]:
    """A tensor as the file holds it, in blocks of rows where these are rows of the leaf too."""
    leaf = _get(params, spec.path)
    if spec.layer is None and spec.transform == IDENTITY and spec.shape:
        yield from (np.asarray(leaf[rows]) for rows in row_blocks(leaf.shape, leaf.dtype.itemsize))
    else:
        yield spec.transform.to_file(np.asarray(leaf[() if spec.layer is None else spec.layer]), spec.shape)


def _dtype(params: Mapping[str, Any], spec: TensorSpec, dtype: DTypeLike | None) -> np.dtype:
    return jnp.dtype(dtype or _get(params, spec.path).dtype)


def _bytes(params: Mapping[str, Any], spec: TensorSpec, dtype: DTypeLike | None) -> int:
    return int(np.prod(spec.shape)) * _dtype(params, spec, dtype).itemsize


def _plan_shards(
    params: Mapping[str, Any], specs: Sequence[TensorSpec], dtype: DTypeLike | None, limit: int
) -> list[list[TensorSpec]]:
    """Cuts the table, in order, into files of at most `limit` bytes; a larger tensor gets its own file."""
    shards, size = [[]], 0
    for spec in specs:
        nbytes = _bytes(params, spec, dtype)
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += nbytes
    return shards
