"""Pickles that hold plain containers, numbers and texts; whatever else one names is refused before it is imported."""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from pixelthink_jax.errors import InputError

MAX_BYTES = 1 << 30
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
)


class _PlainUnpickler(pickle.Unpickler):
    """A pickle machine without a vocabulary."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Every class and function passes here, those of the extension registry too."""
        raise InputError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """A reference to something outside the file."""
        raise InputError("it refers to something outside the file")


def read_plain_pickle(path: str | Path) -> Any:
    """Reads dictionaries, lists, tuples, sets, numbers and texts, and runs nothing.

    The `refs(...).p` files of the RefCOCO family were written by Python 2, whose texts are bytes: they are read as
    UTF-8, or as Latin-1 where they are not.

    Raises:
        InputError: The file is missing, damaged or too large, or it holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than the limit {MAX_BYTES}")
    data = path.read_bytes()
    try:
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
        except UnicodeDecodeError:
            return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except InputError as error:
        raise InputError(f"{path}: refused, a pickle of plain values was expected, but {error}") from error
    except _DAMAGE as error:
        raise InputError(
            f"{path}: not a pickle, or a damaged one ({type(error).__name__}: {error})"
        ) from error
