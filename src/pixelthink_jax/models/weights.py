"""Tensors of a Hugging Face model folder <-> a parameter tree, by a table, in both directions.

A model describes itself by a list of `TensorSpec`: for each tensor of the file its name and shape there, and
where it stands in the parameter tree. `read_params` builds each leaf straight in its (sharded) destination from
slices of the files, so the host never holds the model; `write_params` is the way back. Both are strict: a
missing, unknown or wrongly shaped tensor is an `InputError` that names it.
"""

import fnmatch
import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.errors import InputError

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FOREIGN_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")
STORED_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
DEFAULT_SHARD_BYTES = 5_000_000_000

Index = tuple[slice, ...]
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


class TensorSource(Protocol):
    """Anything that holds named arrays and can read a part of one."""

    description: str

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor."""

    def dtype(self, name: str) -> np.dtype:
        """Stored dtype of a tensor."""

    def read(self, name: str, index: Index) -> np.ndarray:
        """The part of a tensor that `index` names; fewer slices than axes take the rest whole."""


class ArraySource:
    """Arrays already in memory, for files that are not safetensors."""

    def __init__(self, arrays: Mapping[str, np.ndarray], description: str) -> None:
        """Keeps the arrays; `description` names them in errors."""
        self.description = description
        self._arrays = arrays

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: array.shape for name, array in self._arrays.items()}

    def dtype(self, name: str) -> np.dtype:
        """Dtype of a tensor."""
        return self._arrays[name].dtype

    def read(self, name: str, index: Index) -> np.ndarray:
        """A view of a part of a tensor."""
        return self._arrays[name][index]


class SafetensorsFolder:
    """The `*.safetensors` of a folder, sharded or not; reads slices and keeps nothing.

    Args of the constructor:
        folder: A Hugging Face model folder.
        rename: From a tensor's name in the file to the name the table knows it by.
    """

    def __init__(self, folder: str | Path, *, rename: Callable[[str], str] = str) -> None:
        """Opens every file's header.

        Raises:
            InputError: Not a folder, no safetensors, a shard missing or damaged, an unsupported dtype.
        """
        folder = Path(folder)
        self.description = str(folder)
        self._files = {path: _open(path) for path in _weight_files(folder)}
        self._where: dict[str, tuple[Path, str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, np.dtype] = {}
        for path, opened in self._files.items():
            for stored in opened.keys():  # noqa: SIM118 - not a mapping
                name, view = rename(stored), opened.get_slice(stored)
                if name in self._where:
                    raise InputError(f"{path}: tensor {stored} appears twice, as {self._where[name][1]} too; keep one")
                if view.get_dtype() not in STORED_DTYPES:
                    raise InputError(
                        f"{path}: tensor {stored} has dtype {view.get_dtype()}; expected one of {', '.join(STORED_DTYPES)}: "
                        "use the model's unquantised weights"
                    )
                self._where[name] = (path, stored)
                self._shapes[name] = tuple(view.get_shape())
                self._dtypes[name] = STORED_DTYPES[view.get_dtype()]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, by the name the table knows."""
        return self._shapes

    def dtype(self, name: str) -> np.dtype:
        """Stored dtype of a tensor."""
        return self._dtypes[name]

    def read(self, name: str, index: Index) -> np.ndarray:
        """Reads a part of a tensor from its file."""
        path, stored = self._where[name]
        return np.asarray(self._files[path].get_slice(stored)[index or ...])


def tensor_names(folder: str | Path) -> list[str]:
    """Names of all tensors of a folder, as stored."""
    return list(SafetensorsFolder(folder).shapes())


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads `config.json` of a model folder.

    Raises:
        InputError: Not a folder, no `config.json` in it, or not a JSON object.
    """
    path = _checked_folder(Path(folder)) / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder}: not a model folder, it has no {CONFIG_FILE}; give a Hugging Face model folder")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; InputError names the file and line of a fault."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download or export the folder again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}; download or export the folder again")
    return value


def _checked_folder(folder: Path) -> Path:
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; give a Hugging Face model folder")
    if not folder.is_dir():
        raise InputError(f"{folder}: a file, not a folder; give the Hugging Face model folder that holds it")
    return folder


def _weight_files(folder: Path) -> list[Path]:
    """Every weight file of a folder, all present."""
    _checked_folder(folder)
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        weight_map = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{folder / INDEX_FILE}: no weight_map; download or export the folder again")
        files = [folder / Path(name).name for name in sorted(set(weight_map.values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
        counts = [re.fullmatch(r".*-of-(\d+)\.safetensors", path.name) for path in files]
        if files and all(counts) and len(files) != int(counts[0].group(1)):
            raise InputError(f"{folder}: {len(files)} of {int(counts[0].group(1))} safetensors shards; fetch the others")
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(f"{folder}: shard {missing[0]} is missing ({len(missing)} of {len(files)}); fetch the folder again")
    if files:
        return files
    foreign = [path.name for pattern in FOREIGN_WEIGHTS for path in sorted(folder.glob(pattern))]
    if foreign:
        raise InputError(
            f"{folder}: holds {foreign[0]} but no safetensors, and other formats can run code when loaded; load it with "
            "transformers where you trust it and save it with save_pretrained"
        )
    raise InputError(f"{folder}: not a model folder, it has no *.safetensors; give a Hugging Face model folder")


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "np")
    except SafetensorError as error:
        raise InputError(f"{path}: damaged or truncated safetensors file ({error}); fetch it again") from error


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
        raise InputError(f"{source.description}: missing tensor {_some(missing)}; the weights do not fit config.json")
    for name, shape in wanted.items():
        if tuple(held[name]) != shape:
            raise InputError(
                f"{source.description}: tensor {name} has shape {list(held[name])}, config.json implies {list(shape)}; "
                "the weights do not fit config.json"
            )
    ignored = re.compile("|".join(fnmatch.translate(pattern) for pattern in ignore)) if ignore else None
    unknown = [name for name in held if name not in wanted and not (ignored and ignored.match(name))]
    if unknown:
        raise InputError(f"{source.description}: unknown tensor {_some(unknown)}; is this model of another kind?")


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
    source: TensorSource, specs: Sequence[TensorSpec], dtype: np.dtype, index: Index, shape: tuple[int, ...]
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
            raise ValueError(f"table: {path} has layers {layers} with shapes {[spec.tree_shape for spec in group]}")
    return dict(leaves)


def leaf_shape(group: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Shape of the leaf that a group of `group_by_leaf` makes."""
    stack = () if group[0].layer is None else (len(group),)
    return stack + group[0].tree_shape


def read_params(
    source: TensorSource,
    specs: Sequence[TensorSpec],
    *,
    dtype: jnp.dtype | str | None = None,
    sharding_for: ShardingFor | None = None,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """Reads a parameter tree, each shard of each leaf by itself.

    Args:
        source: A `SafetensorsFolder`, or any other holder of tensors.
        specs: The model's table.
        dtype: Dtype of every leaf; None keeps the stored one.
        sharding_for: Destination of a leaf from its path and shape; None puts everything on the default device.
        ignore: `fnmatch` patterns of tensors that may be there and are not read.

    Returns:
        Nested dictionaries of arrays, keys from the paths.

    Raises:
        InputError: See `check_tensors`.
    """
    check_tensors(source, specs, ignore=ignore)
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params: dict[str, Any] = {}
    for path, group in group_by_leaf(specs).items():
        shape = leaf_shape(group)
        stored = np.result_type(*{source.dtype(spec.name) for spec in group}) if dtype is None else jnp.dtype(dtype)
        read: dict[str, np.ndarray] = {}

        def shard(index: Index, group=group, stored=stored, shape=shape, read=read) -> np.ndarray:
            # Replicas ask for the same part once a device.
            key = str(index)
            if key not in read:
                read[key] = _read_leaf(source, group, stored, index, shape)
            return read[key]

        sharding = sharding_for(path, shape) if sharding_for else one_device
        _set(params, path, jax.make_array_from_callback(shape, sharding, shard))
    return params


def _set(tree: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = leaf


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for key in path.split("/"):
        if not isinstance(tree, Mapping) or key not in tree:
            raise ValueError(f"parameter tree: no leaf {path}")
        tree = tree[key]
    return tree


def write_params(
    folder: str | Path,
    params: Mapping[str, Any],
    specs: Sequence[TensorSpec],
    *,
    dtype: jnp.dtype | str | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes a parameter tree as safetensors into an existing folder, one file or shards with an index.

    Args:
        folder: Where to; see `atomic_folder`.
        params: What `read_params` returns; no more than one shard of it is on the host at a time.
        specs: The model's table.
        dtype: Dtype to store; None keeps each leaf's.
        max_shard_bytes: A new file is begun before this size is passed.

    Raises:
        ValueError: The tree and the table do not fit.
    """
    from safetensors.numpy import save_file

    folder, leaves = Path(folder), group_by_leaf(specs)
    if extra := set(_paths(params)) - set(leaves):
        raise ValueError(f"parameter tree: leaf {sorted(extra)[0]} is not in the table")
    for path, group in leaves.items():
        if _get(params, path).shape != leaf_shape(group):
            raise ValueError(f"parameter tree: {path} has shape {_get(params, path).shape}, expected {leaf_shape(group)}")
    shards = _plan_shards(params, specs, dtype, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # Readers made for PyTorch refuse a file whose metadata does not say so.
        save_file({spec.name: _to_file(params, spec, dtype) for spec in shard}, folder / name, metadata={"format": "pt"})
        weight_map |= {spec.name: name for spec in shard}
    if len(shards) > 1:
        total = sum(_bytes(params, spec, dtype) for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}/")
        else:
            yield prefix + key


def _to_file(params: Mapping[str, Any], spec: TensorSpec, dtype: jnp.dtype | str | None) -> np.ndarray:
    leaf = _get(params, spec.path)
    array = np.asarray(leaf if spec.layer is None else leaf[spec.layer])
    return spec.transform.to_file(array.astype(dtype or array.dtype), spec.shape)


def _bytes(params: Mapping[str, Any], spec: TensorSpec, dtype: jnp.dtype | str | None) -> int:
    return int(np.prod(spec.shape)) * jnp.dtype(dtype or _get(params, spec.path).dtype).itemsize


def _plan_shards(
    params: Mapping[str, Any], specs: Sequence[TensorSpec], dtype: jnp.dtype | str | None, limit: int
) -> list[list[TensorSpec]]:
    """Cuts the table, in order, into files of at most `limit` bytes; a larger tensor gets a file of its own."""
    shards, size = [[]], 0
    for spec in specs:
        nbytes = _bytes(params, spec, dtype)
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += nbytes
    return shards


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        InputError: `path` is a file, or a non-empty folder that is no model folder (it would be replaced).
    """
    path = Path(path).absolute()
    if path.is_file():
        raise InputError(f"{path}: a file; give the name of a new folder to write the model to")
    if path.is_dir() and any(path.iterdir()) and not (path / CONFIG_FILE).is_file():
        raise InputError(f"{path}: not empty and not a model folder; give the name of a new folder to write the model to")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        work.chmod(0o755)
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.rename(work / "old")
        fresh.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
