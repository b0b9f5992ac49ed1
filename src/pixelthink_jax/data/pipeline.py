"""The input pipeline by grain: shuffling, sharding, repeating and resuming over any source of rows.

Order depends on the seed and the shard only, never on timing or on the number of workers, and the position is
a small JSON-like state, so a resumed run reads exactly the rows it would have read.
"""

import weakref
from typing import Any, Protocol, cast, runtime_checkable

from pixelthink_jax.types import Example


@runtime_checkable
class ExampleSource(Protocol):
    """Anything with a length and rows by index: `ShapeReason`, a built data set, a list."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Example:
        """One row."""
        ...


class FileSource(ExampleSource, Protocol):
    """A source that also has its pictures as they are encoded in its files."""

    def picture(self, index: int, /) -> bytes:
        """The encoded picture of a row."""
        ...


class ExampleStream:
    """A checkpointable iterator of batches; a context manager when worker processes should end early."""

    def __init__(self, dataset: Any):
        """Start reading a grain dataset."""
        # grain's iterators complain when they outlive the interpreter's modules, so they are let go before
        # that.
        self._held = [iter(dataset)]
        self._release = weakref.finalize(self, _release, self._held)

    def __iter__(self) -> "ExampleStream":
        """The stream itself."""
        return self

    def __next__(self) -> list[Any]:
        """The next batch: rows as the source gives them."""
        return next(self._open())

    def __enter__(self) -> "ExampleStream":
        """The stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()

    def get_state(self) -> dict[str, Any]:
        """The position, as plain numbers, lists and dicts, for a stream made with the same arguments."""
        return self._open().get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a position of `get_state`."""
        self._open().set_state(state)

    def close(self) -> None:
        """End the worker processes; the stream cannot be read afterwards."""
        self._release()

    def _open(self) -> Any:
        if not self._held:
            raise ValueError("the stream is closed")
        return self._held[0]


def _release(held: list[Any]) -> None:
    for iterator in held:
        iterator.close()
    held.clear()


def example_stream(
    source: ExampleSource,
    *,
    seed: int,
    shuffle: bool = True,
    shard: tuple[int, int] = (0, 1),
    num_epochs: int | None = None,
    batch_size: int = 1,
    worker_count: int = 0,
) -> ExampleStream:
    """Batches of rows in a reproducible order.

    Every shard has the same number of rows (the remainder of the division is left out), so that all processes
    of a run take the same number of steps. Each epoch is shuffled anew, within the shard. A last incomplete
    batch is dropped.

    Args:
        source: The rows. With workers it must be picklable.
        seed: Seed of the shuffle.
        shuffle: False keeps the source's order.
        shard: Index and count of this process.
        num_epochs: Passes over the shard; None means without end.
        batch_size: Rows of a batch.
        worker_count: Processes that make rows ahead of time; 0 makes them in this process when they are asked
            for. Workers are spawned, so the main module of a script needs its `__name__` guard.

    Raises:
        ValueError: The shard is not one of its count, or holds less than one batch.

    >>> from pixelthink_jax.data.shapes import ShapeReason
    >>> with example_stream(ShapeReason("test"), seed=0, shuffle=False, batch_size=2) as stream:
    ...     [row.id for row in next(stream)]
    ['test-0-0', 'test-0-1']
    """
    import grain

    index, count = shard
    rows_per_shard = len(source) // count if count > 0 else 0
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}: the index must be 0 to {count - 1}")
    if rows_per_shard < batch_size or batch_size < 1:
        raise ValueError(f"{rows_per_shard} rows in a shard cannot fill a batch of {batch_size}")
    dataset = grain.MapDataset.source(cast(Any, source))[index : rows_per_shard * count : count]
    if shuffle:
        dataset = dataset.seed(seed).shuffle()
    dataset = dataset.repeat(num_epochs).batch(batch_size, drop_remainder=True, batch_fn=list)
    # Reading threads would only contend: rows are drawn in Python, under one interpreter lock.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    stream = dataset.to_iter_dataset(read_options=options)
    if worker_count > 0:
        _prepare_workers()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=worker_count))
    return ExampleStream(stream)


def _prepare_workers() -> None:
    """Let grain start processes from a program that does not use absl's own `app.run`."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
