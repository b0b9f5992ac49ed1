"""Reads tensors from a PyTorch `.pt` file without PyTorch, and without running anything the file says.

A `.pt` file is a zip: `NAME/data.pkl` describes nested containers of tensors, `NAME/data/0`, `1`, ... are their raw
bytes. A pickle is a program, so this reader's machine knows only the words that rebuild a plain tensor, hands out
inert stand-ins for them, and refuses every other word and instruction by name: a checkpoint that carries code is an
error, never an execution. Tensors are views of the mapped file.

Source of the format: torch `torch/serialization.py` (`_save`) and `caffe2/serialize/inline_container.h`.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from pixelthink_jax.errors import InputError

_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# What `torch.save` writes for containers, numbers, texts and words, in pickle protocols 2 to 5; NEWOBJ makes nothing
# here, as no word is a type, but lets the machine reach and refuse the word it would have made.
_INSTRUCTIONS = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_TUPLE",
        "EMPTY_SET",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "SETITEM",
        "SETITEMS",
        "APPEND",
        "APPENDS",
        "ADDITEMS",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
        "MEMOIZE",
        "GLOBAL",
        "STACK_GLOBAL",
        "NEWOBJ",
        "REDUCE",
        "BUILD",
        "BINPERSID",
    ]
)
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1
_MAX_PICKLE_BYTES = 64 << 20
_MAX_DEPTH = 16
_MAX_ITEMS = 1_000_000


class _Refused(Exception):
    """Something in the file that is not a plain tensor; the message says what."""


def read_torch_zip(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint: nested dictionaries and lists, with numpy arrays where the file has tensors.

    Args:
        path: A file written by `torch.save` (PyTorch 1.6 or later).

    Returns:
        The top-level dictionary; arrays are read-only views of the file.

    Raises:
        InputError: A missing, damaged or truncated file, an older format, or anything in it but tensors, numbers,
            texts and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a PyTorch checkpoint or a model folder")
    try:
        with zipfile.ZipFile(path) as archive:
            tree = _read_archive(archive, path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path}: not a PyTorch zip checkpoint, or truncated ({error}); download it again, or save it anew with "
            "torch.save from PyTorch 1.6 or later"
        ) from error
    except _Refused as error:
        raise InputError(
            f"{path}: refused, {error}; only plain tensors are read, and nothing is executed"
        ) from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds a {type(tree).__name__}, expected a dictionary of tensors")
    return tree


def state_dict(tree: Mapping[str, Any], *, where: str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name: its entry `model` or `state_dict`, or the tree itself.

    >>> state_dict({"model": {"a": np.zeros(2)}, "epoch": 3}, where="x.pt")
    {'a': array([0., 0.])}

    Raises:
        InputError: None of these maps names to tensors.
    """
    for candidate in (tree.get("model"), tree.get("state_dict"), tree):
        if isinstance(candidate, Mapping) and candidate:
            named = {name: value for name, value in candidate.items() if isinstance(value, np.ndarray)}
            if len(named) == len(candidate) and all(isinstance(name, str) for name in named):
                return named
    raise InputError(
        f"{where}: no dictionary of tensors at its top level or under 'model'; is it a model checkpoint?"
    )


def _read_archive(archive: zipfile.ZipFile, path: Path) -> Any:
    """Finds the parts of the zip and runs the restricted machine on the pickle."""
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Refused("it is a zip without one data.pkl, so not written by torch.save")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist():
        order = archive.read(_stored(archive, f"{prefix}byteorder"))
        if order != b"little":
            raise _Refused(f"its tensors are stored {order[:20]!r}-endian")
    info = _stored(archive, pickles[0])
    if info.file_size > _MAX_PICKLE_BYTES:
        raise _Refused(f"its data.pkl is larger than {_MAX_PICKLE_BYTES >> 20} MiB")
    program = archive.read(info)
    try:
        _check_instructions(program)
        return _Plain()(_Machine(program, _Storages(archive, path, f"{prefix}data/")).load())
    except (pickle.UnpicklingError, EOFError, struct.error) as error:
        raise _Refused(f"its data.pkl is damaged ({error})") from error
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, MemoryError) as error:
        # The pickle machine meets a malformed program in any of these ways.
        raise _Refused(f"its data.pkl is malformed ({type(error).__name__}: {error})") from error


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """An entry of the zip that is neither compressed nor encrypted, as torch writes them."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
        raise _Refused(f"its entry {name} is compressed or encrypted")
    return info


def _check_instructions(program: bytes) -> None:
    """Looks through the pickle without running it."""
    for opcode, _, _ in pickletools.genops(program):
        if opcode.name not in _INSTRUCTIONS:
            raise _Refused(f"its pickle uses the instruction {opcode.name}")


class _Inert:
    """What the pickle handles in place of types, functions and tensors: closed to look-ups and changes."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> NoReturn:
        """BUILD would change a type or a tensor."""
        raise _Refused("its pickle alters a tensor or a type")


class _Word(_Inert):
    """A function the pickle may call; `value` is ours."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)


class _StateDict(dict):
    """An `OrderedDict` of the file; torch hangs `_metadata` on it, which is dropped."""

    def __setstate__(self, state: Any) -> None:
        """Forgets the attributes."""


class _Machine(pickle.Unpickler):
    """A pickle machine whose whole vocabulary is `_DTYPES` and `_WORDS`."""

    def __init__(self, program: bytes, storages: "_Storages") -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str) -> _Inert:
        """Every word passes here; the known ones get a stand-in, and none is imported."""
        if module == "torch" and name in _DTYPES:
            return _Inert(np.dtype(_DTYPES[name]))
        if (module, name) in _WORDS:
            return _Word(_WORDS[module, name])
        raise _Refused(f"its pickle names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Inert:
        """A reference to a storage: `("storage", type, key, device, elements)`."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise _Refused(f"its pickle refers to {str(pid)!r:.60}, expected a storage")
        _, kind, key, _, elements = pid
        if not (
            type(kind) is _Inert
            and isinstance(kind.value, np.dtype)
            and type(key) is str
            and type(elements) is int
        ):
            raise _Refused(
                f"its pickle refers to storage {key!r:.40} of {elements!r:.40} elements of unknown type"
            )
        return _Inert(self._storages.get(key, kind.value, elements))


class _Storages:
    """The raw bytes of the tensors, views of the mapped file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, prefix: str) -> None:
        self._archive, self._path, self._prefix = archive, path, prefix
        self._names = set(archive.namelist())
        self._bytes = np.memmap(path, np.uint8, "r").view(np.ndarray)

    def get(self, key: str, dtype: np.dtype, elements: int) -> np.ndarray:
        """The elements of storage `key`."""
        name, needed = self._prefix + key, elements * dtype.itemsize
        if name not in self._names:
            raise _Refused(f"storage {name} is missing from the zip")
        info = _stored(self._archive, name)
        # The bytes follow the local header, whose name and extra field may differ from the directory's.
        header = self._bytes[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES].tobytes()
        if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
            raise _Refused(f"storage {name} has a damaged header")
        start = info.header_offset + _LOCAL_HEADER_BYTES + sum(struct.unpack("<HH", header[26:30]))
        if elements < 0 or needed > info.file_size or start + needed > self._bytes.size:
            raise _Refused(f"storage {name} has {info.file_size} bytes, {needed} expected")
        return self._bytes[start : start + needed].view(dtype)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Inert:
    """A strided view of a storage, every element inside it."""
    if type(storage) is not _Inert or not isinstance(storage.value, np.ndarray):
        raise _Refused("its pickle rebuilds a tensor from something that is not a storage")
    data = storage.value
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise _Refused(f"a tensor has sizes {size!r:.40} and strides {stride!r:.40}")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise _Refused(f"a tensor has offset {offset!r:.40}, sizes {size!r:.40} and strides {stride!r:.40}")
    if 0 in size:
        return _Inert(np.zeros(size, data.dtype))
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= data.size:
        raise _Refused(f"a tensor of shape {size} reaches past its storage of {data.size} elements")
    strides = tuple(step * data.itemsize for step in stride)
    return _Inert(np.lib.stride_tricks.as_strided(data[offset:], size, strides, writeable=False))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return tensor


_WORDS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _StateDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Plain:
    """Copies the containers and unwraps the tensors, so that nothing of the machine is left."""

    def __init__(self) -> None:
        self._items = 0

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self._items += 1
        if depth > _MAX_DEPTH or self._items > _MAX_ITEMS:
            raise _Refused(
                f"its containers are nested more than {_MAX_DEPTH} deep or hold {_MAX_ITEMS} items"
            )
        if isinstance(value, (str, bytes, int, float, type(None))):
            return value
        if isinstance(value, dict):
            return {self(key, depth + 1): self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return list(self._each(value, depth + 1))
        if type(value) is _Inert and isinstance(value.value, np.ndarray):
            return value.value
        raise _Refused("it holds something that is neither a tensor nor a plain value")

    def _each(self, values: Any, depth: int) -> Iterator[Any]:
        return (self(value, depth) for value in values)
