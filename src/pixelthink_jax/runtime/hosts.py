"""What the processes of a run do together: share work out, tell each other what came of it, place and fetch arrays.

Every process runs the same program and calls these functions in the same order. In a run of one process they cost
nothing. Starting the processes is `runtime.startup`.
"""

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from pixelthink_jax.errors import InputError

T = TypeVar("T")

_CHUNK = 1 << 24
"""Bytes of one process that are sent at once, so that what is under way stays small on the devices."""


class SharedError(InputError):
    """An `InputError` of one process that all of them raise."""


def is_first() -> bool:
    """Whether this process writes what is written once: logs, rows, exports, tables."""
    return jax.process_index() == 0


def share(count: int) -> range:
    """The part of `count` things that is this process's work; parts differ by one at most.

    >>> share(3)
    range(0, 3)
    """
    return share_of(count, jax.process_index(), jax.process_count())


def share_of(count: int, index: int, processes: int) -> range:
    """`share` of the process `index`.

    >>> [share_of(5, i, 2) for i in range(2)]
    [range(0, 2), range(2, 5)]
    """
    return range(index * count // processes, (index + 1) * count // processes)


def together(work: Callable[[], T]) -> list[T]:
    """What every process's `work` returned, in the order of the processes.

    The values travel pickled, between the processes of one run.

    Raises:
        InputError: That of `work` in this process where it is alone.
        SharedError: That of the first process whose `work` raised one, in every process.

    >>> together(lambda: 3)
    [3]
    """
    if jax.process_count() == 1:
        return [work()]
    value, problem = None, None
    try:
        value = work()
    except SharedError:
        raise  # the others know it, and do not come to the exchange below
    except InputError as error:
        problem = str(error)
    found = [pickle.loads(each) for each in _gathered(pickle.dumps((value, problem)))]
    for _, said in found:
        if said is not None:
            raise SharedError(said)
    return [value for value, _ in found]


def agreed(work: Callable[[], T]) -> T:
    """What `work` returned in this process, once it has gone well in all; raises as `together` does.

    >>> agreed(lambda: 3)
    3
    """
    kept: list[T] = []
    together(lambda: kept.append(work()))
    return kept[0]


def joined(parts: Sequence[Sequence[T]]) -> list[T]:
    """The lists of all processes as one.

    >>> joined([[1, 2], [3]])
    [1, 2, 3]
    """
    return [item for part in parts for item in part]


def from_first(work: Callable[[], T]) -> T:
    """What the first process's `work` returned; the others do none.

    >>> from_first(lambda: 3)
    3
    """
    return together(lambda: work() if is_first() else None)[0]  # type: ignore[return-value]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process.

    >>> any_of(False)
    False
    """
    return any(together(lambda: flag))


def _gathered(data: bytes) -> list[bytes]:
    """The bytes of every process."""
    from jax.experimental.multihost_utils import process_allgather

    sizes = np.asarray(process_allgather(np.array([len(data)], np.int32))).reshape(-1)
    # Few lengths, because each is a program of its own.
    length = 1 << int(max(sizes.max(), 1024) - 1).bit_length()
    padded = np.zeros(length, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    parts = [
        np.asarray(process_allgather(padded[start : start + _CHUNK])) for start in range(0, length, _CHUNK)
    ]
    return [row[:size].tobytes() for row, size in zip(np.concatenate(parts, axis=1), sizes, strict=True)]


def put(leaf: Any, place: Sharding) -> jax.Array:
    """An array at its place; each process gives its devices their parts of what all of them hold alike."""
    if place.is_fully_addressable or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, place)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])


def put_tree(tree: T, places: Any) -> T:
    """`put` for every leaf; all at once where one process has every device."""
    if jax.process_count() == 1:
        return jax.device_put(tree, places)
    return jax.tree.map(put, tree, places)


def fetch(tree: Any) -> Any:
    """Arrays of any placement as numpy arrays, whole, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.device_get(jax.tree.map(_everywhere, tree))


def fetch_large(tree: Any) -> Any:
    """As `fetch`, for parameters: layer by layer, so that no stack of layers is ever whole on a device."""
    if jax.process_count() == 1:
        return tree

    def whole(leaf: Any) -> Any:
        if leaf.ndim <= 2 or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return fetch(leaf)
        return np.stack([np.asarray(_replicate(leaf.sharding.mesh)(leaf, i)) for i in range(len(leaf))])

    return jax.tree.map(whole, tree)


def _everywhere(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    assert isinstance(leaf.sharding, NamedSharding) and isinstance(leaf.sharding.mesh, Mesh)
    return _replicate(leaf.sharding.mesh)(leaf, ...)


@cache
def _replicate(mesh: Mesh) -> Callable[[jax.Array, Any], jax.Array]:
    """Puts an array, or one layer of it, on every device of its mesh."""
    place = NamedSharding(mesh, PartitionSpec())
    whole = jax.jit(lambda leaf: leaf, out_shardings=place)
    layer = jax.jit(lambda leaf, i: leaf[i], out_shardings=place)
    return lambda leaf, which: whole(leaf) if which is ... else layer(leaf, which)
