"""Model folders as holders of named tensors: safetensors read by slice, JSON files, folders written whole.

Everything a user can get wrong about a folder is found here and becomes one `InputError` with the remedy: no
such folder, no configuration, no safetensors, a missing shard, a damaged file, a quantised tensor.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.safetensors_file import STORED_DTYPES, tensor_starts
from pixelthink_jax.runtime.stored_arrays import Index

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FOREIGN_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")


@runtime_checkable
class TensorSource(Protocol):
    """Anything that holds named arrays and can read a part of one."""

    description: str

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor."""
        ...

    def dtype(self, name: str) -> np.dtype:
        """Stored dtype of a tensor."""
        ...

    def read(self, name: str, index: Index) -> np.ndarray:
        """The part of a tensor that `index` names; fewer slices than axes take the rest whole."""
        ...


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
        """A part of a tensor, a view where numpy can."""
        return np.asarray(self._arrays[name][index])


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
        self._where: dict[str, tuple[Path, str]] = {}
        self._starts: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, np.dtype] = {}
        for path in _weight_files(folder):
            opened, starts = _open(path), tensor_starts(path)
            for stored in opened.keys():  # noqa: SIM118 - not a mapping
                name, view = rename(stored), opened.get_slice(stored)
                if name in self._where:
                    raise InputError(
                        f"{path}: tensor {stored} appears twice, as {self._where[name][1]} too; keep one"
                    )
                if view.get_dtype() not in STORED_DTYPES:
                    raise InputError(
                        f"{path}: tensor {stored} has dtype {view.get_dtype()}; expected one of "
                        f"{', '.join(STORED_DTYPES)}: use the model's unquantised weights"
                    )
                self._where[name], self._starts[name] = (path, stored), starts[stored]
                self._shapes[name] = tuple(view.get_shape())
                self._dtypes[name] = STORED_DTYPES[view.get_dtype()]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, by the name the table knows."""
        return self._shapes

    def dtype(self, name: str) -> np.dtype:
        """Stored dtype of a tensor."""
        return self._dtypes[name]

    def read(self, name: str, index: Index) -> np.ndarray:
        """Reads a part of a tensor from its file, which is mapped for as long as that takes."""
        path, start, shape = self._where[name][0], self._starts[name], self._shapes[name]
        if not np.prod(shape):
            return np.zeros(shape, self._dtypes[name])[index]
        mapped = np.memmap(path, self._dtypes[name], mode="r", offset=start, shape=shape or (1,))
        return np.array(mapped[index] if shape else mapped[0])


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
        raise InputError(
            f"{folder}: not a model folder, it has no {CONFIG_FILE}; give a Hugging Face model folder"
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; InputError names the file and line of a fault."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download or export the folder again") from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: expected a JSON object, got {type(value).__name__}; download or export the folder again"
        )
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
        counts = [int(count) for path in files for count in re.findall(r"-of-(\d+)\.safetensors$", path.name)]
        if len(counts) == len(files) and any(count != len(files) for count in counts):
            raise InputError(f"{folder}: {len(files)} of {counts[0]} safetensors shards; fetch the others")
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder}: shard {missing[0]} is missing ({len(missing)} of {len(files)}); "
            "fetch the folder again"
        )
    if files:
        return files
    foreign = [path.name for pattern in FOREIGN_WEIGHTS for path in sorted(folder.glob(pattern))]
    if foreign:
        raise InputError(
            f"{folder}: holds {foreign[0]} but no safetensors, and other formats can run code when loaded; "
            "load it with transformers where you trust it and save it with save_pretrained"
        )
    raise InputError(
        f"{folder}: not a model folder, it has no *.safetensors; give a Hugging Face model folder"
    )


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "np")
    except SafetensorError as error:
        raise InputError(
            f"{path}: damaged or truncated safetensors file ({error}); fetch it again"
        ) from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and else vanishes.

    Raises:
        InputError: `path` is a file, or a non-empty folder that is no model folder (it would be replaced).
    """
    path = Path(path).absolute()
    if path.is_file():
        raise InputError(f"{path}: a file; give the name of a new folder to write the model to")
    if path.is_dir() and any(path.iterdir()) and not (path / CONFIG_FILE).is_file():
        raise InputError(
            f"{path}: not empty and not a model folder; give the name of a new folder to write the model to"
        )
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
