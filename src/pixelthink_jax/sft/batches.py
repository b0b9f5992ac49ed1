"""Supervised rows and their batches: bucketed lengths, a fixed number of tokens a batch, exact resume.

Rows of similar length share a batch, and a batch holds about `tokens_per_batch` tokens whatever its length,
so that little is padding and every batch costs the same. The assignment is a pure function of the example
stream, taken in chunks, so a run resumes at the very batch where it stopped.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Row:
    """One prompt with its target completion.

    Attributes:
        input_ids: int32 `[t]`, prompt then completion then the end token.
        given_tokens: How many of them, from the start, bear no loss: the prompt, and what is given of the completion.
        image: uint8 `[H, W, 3]`, at the size the vision tower sees.
        grid_thw: Patches of the image in time, height and width.
    """

    input_ids: Int[np.ndarray, " t"]
    given_tokens: int
    image: UInt8[np.ndarray, "H W 3"]
    grid_thw: tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length.

    Attributes:
        input_ids: int32 `[b, t]`.
        mask: True on real tokens.
        loss_mask: True on the tokens that are learned, the end token included.
        images: uint8 `[b, H, W, 3]`, all of one size.
        grid_thw: The patch grid of every image.
    """

    input_ids: Int[np.ndarray, "b t"]
    mask: Bool[np.ndarray, "b t"]
    loss_mask: Bool[np.ndarray, "b t"]
    images: UInt8[np.ndarray, "b H W 3"]
    grid_thw: tuple[int, int, int]


@dataclass(frozen=True)
class Position:
    """Where the data stands: the stream's state at the start of a chunk, and the batches taken from it."""

    chunk_state: Any
    batches_taken: int


def bucket_length(length: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds `length` tokens.

    >>> bucket_length(130, (128, 192, 256))
    192
    """
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise InputError(
        f"row of {length} tokens: longer than the largest length bucket {buckets[-1]}; "
        "add a larger value to length_buckets"
    )


def cut_batches(
    rows: list[Row],
    *,
    buckets: tuple[int, ...],
    tokens_per_batch: int,
    pad_id: int,
    rng: np.random.Generator,
    parts: int = 1,
) -> list[Batch]:
    """Sorts the rows of a chunk into batches of one length bucket and one image size, in random order.

    Every batch of a bucket has the same number of rows, a multiple of `parts`, so each bucket compiles once; a last
    incomplete batch is filled with empty rows, which bear no loss.
    """
    groups: dict[tuple[int, tuple[int, int, int]], list[Row]] = {}
    for row in rows:
        key = (bucket_length(len(row.input_ids), buckets), row.grid_thw)
        groups.setdefault(key, []).append(row)
    batches = []
    for (length, _), members in groups.items():
        size = max(1, tokens_per_batch // length // parts) * parts
        for start in range(0, len(members), size):
            batches.append(_pad(members[start : start + size], size, length, pad_id))
    return [batches[i] for i in rng.permutation(len(batches))]


def _pad(rows: list[Row], size: int, length: int, pad_id: int) -> Batch:
    input_ids = np.full((size, length), pad_id, np.int32)
    mask = np.zeros((size, length), bool)
    loss_mask = np.zeros((size, length), bool)
    images = np.zeros((size, *rows[0].image.shape), np.uint8)
    for i in range(size):
        row = rows[min(i, len(rows) - 1)]  # an empty row repeats the last one: its image tokens must be there
        tokens = len(row.input_ids)
        input_ids[i, :tokens], mask[i, :tokens], images[i] = row.input_ids, True, row.image
        loss_mask[i, row.given_tokens : tokens] = i < len(rows)
    return Batch(input_ids, mask, loss_mask, images, rows[0].grid_thw)


class BatchStream:
    """Batches cut from a checkpointable stream of rows, prepared one chunk ahead in a thread."""

    def __init__(
        self,
        stream: Any,
        cut: Callable[[list[Row], np.random.Generator], list[Batch]],
        *,
        chunk_rows: int,
        seed: int,
        start: Position | None = None,
    ):
        """`stream` iterates over rows and has `get_state` and `set_state`, as grain iterators do."""
        self._stream, self._cut, self._chunk_rows, self._seed = stream, cut, chunk_rows, seed
        self._skip = start.batches_taken if start else 0
        if start:
            stream.set_state(start.chunk_state)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next = self._thread.submit(self._read_chunk)

    def __iter__(self) -> Iterator[tuple[Batch, Position]]:
        """Yields batches with the position to resume at after each; errors of the thread are raised here."""
        while True:
            state, batches = self._next.result()
            if not batches:
                return
            self._next = self._thread.submit(self._read_chunk)
            skip, self._skip = self._skip, 0
            for taken, batch in enumerate(batches[skip:], start=skip + 1):
                yield batch, Position(state, taken)

    def close(self) -> None:
        """Ends the thread once it has finished its chunk."""
        self._thread.shutdown(cancel_futures=True)

    def _read_chunk(self) -> tuple[Any, list[Batch]]:
        """The stream's state before a chunk, and the chunk's batches; none at the end of the stream."""
        state = self._stream.get_state()
        rows = [row for _, row in zip(range(self._chunk_rows), self._stream, strict=False)]
        if not rows:
            return state, []
        rng = np.random.default_rng((self._seed, len(rows), *(int(r.input_ids.sum()) for r in rows[:2])))
        return state, self._cut(rows, rng)
