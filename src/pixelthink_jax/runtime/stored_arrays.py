"""Arrays that are read part by part, wherever they are, so that the host never holds one whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

BLOCK_BYTES = 32 * 2**20

Index = tuple[slice, ...]


@dataclass(frozen=True)
class StoredArray:
    """An array that is somewhere else.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        read: Reads the part that one slice for each axis names.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]

    def __getitem__(self, index: Any) -> np.ndarray:
        """A part, by a slice or an integer for each of the first axes.

        >>> whole = np.arange(6).reshape(2, 3)
        >>> array = StoredArray(whole.shape, whole.dtype, lambda index: whole[index])
        >>> array[1], array[0:1].shape
        (array([3, 4, 5]), (1, 3))
        """
        given = index if isinstance(index, tuple) else (index,)
        full = [*given, *[slice(None)] * (len(self.shape) - len(given))]
        slices = tuple(
            slice(*i.indices(n)) if isinstance(i, slice) else slice(int(i), int(i) + 1)
            for i, n in zip(full, self.shape, strict=True)
        )
        part = self.read(slices)
        return part[tuple(slice(None) if isinstance(i, slice) else 0 for i in full)]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return self.size * self.dtype.itemsize

    def astype(self, dtype: DTypeLike) -> "StoredArray":
        """The same, cast as it is read."""
        kind = jnp.dtype(dtype)
        if kind == self.dtype:
            return self
        return StoredArray(self.shape, kind, lambda index: self.read(index).astype(kind))


def in_memory(array: Any) -> StoredArray:
    """An array of this process, read like one that is stored; of a device array only the part comes to the host."""
    return StoredArray(tuple(array.shape), np.dtype(array.dtype), lambda index: np.asarray(array[index]))


def row_blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """The first axis cut into blocks of at most `BLOCK_BYTES`, one row at least.

    >>> list(row_blocks((3, 2**24), 1))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    row = max(1, int(np.prod(shape[1:])) * itemsize)
    rows = max(1, BLOCK_BYTES // row)
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))
