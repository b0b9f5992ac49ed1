import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelthink_jax.errors import InputError
from pixelthink_jax.sft.batches import Batch, BatchStream, Position, Row, bucket_length, cut_batches

BUCKETS, PAD = (8, 12, 20), 0
GRIDS = ((1, 2, 2), (1, 4, 2))


def make_row(number: int, tokens: int, *, grid: int = 0, prompt: int = 3) -> Row:
    """A row whose every token and pixel says which row it is."""
    height, width = 2 * GRIDS[grid][1], 2 * GRIDS[grid][2]
    image = np.full((height, width, 3), number % 256, np.uint8)
    return Row(np.full(tokens, number, np.int32), prompt, image, GRIDS[grid])


def cut(rows: list[Row], rng: np.random.Generator) -> list[Batch]:
    return cut_batches(rows, buckets=BUCKETS, tokens_per_batch=24, pad_id=PAD, rng=rng)


def numbers(batch: Batch) -> list[int]:
    """The rows of a batch that bear loss."""
    return [int(ids[0]) for ids, loss in zip(batch.input_ids, batch.loss_mask, strict=True) if loss.any()]


def test_the_smallest_bucket_that_holds_a_row() -> None:
    assert [bucket_length(n, BUCKETS) for n in (1, 8, 9, 12, 20)] == [8, 8, 12, 12, 20]
    with pytest.raises(InputError, match="row of 21 tokens.*largest length bucket 20"):
        bucket_length(21, BUCKETS)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(4, 20), st.integers(0, 1)), min_size=1, max_size=30), st.integers(0, 9))
def test_every_row_is_in_exactly_one_batch(kinds: list[tuple[int, int]], seed: int) -> None:
    rows = [make_row(i + 1, tokens, grid=grid) for i, (tokens, grid) in enumerate(kinds)]
    batches = cut(rows, np.random.default_rng(seed))
    assert sorted(n for batch in batches for n in numbers(batch)) == [i + 1 for i in range(len(rows))]
    for batch in batches:
        size, length = batch.input_ids.shape
        assert length in BUCKETS
        assert size == 24 // length  # full, so that a bucket has one shape
        assert len(numbers(batch)) >= 1
        for i in range(size):
            row = rows[int(batch.input_ids[i, 0]) - 1]
            tokens = len(row.input_ids)
            assert bucket_length(tokens, BUCKETS) == length
            assert row.grid_thw == batch.grid_thw
            assert batch.input_ids[i].tolist() == [*row.input_ids, *[PAD] * (length - tokens)]
            assert batch.mask[i].tolist() == [True] * tokens + [False] * (length - tokens)
            np.testing.assert_array_equal(batch.images[i], row.image)
            if batch.loss_mask[i].any():
                assert np.flatnonzero(batch.loss_mask[i]).tolist() == list(range(row.given_tokens, tokens))


def test_a_row_longer_than_a_batch_has_one_to_itself() -> None:
    [batch] = cut_batches(
        [make_row(1, 20)], buckets=(20,), tokens_per_batch=5, pad_id=PAD, rng=np.random.default_rng(0)
    )
    assert batch.input_ids.shape == (1, 20)


class Stream:
    """Rows of varying length, without end or up to `stop`, with a state as grain's iterators have."""

    def __init__(self, *, stop: int | None = None, broken_at: int | None = None):
        self.stop, self.broken_at, self.place = stop, broken_at, 0

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        if self.place == self.broken_at:
            raise KeyError("no such row")
        if self.place == self.stop:
            raise StopIteration
        self.place += 1
        return make_row(self.place, 4 + self.place * 7 % 17, grid=self.place % 2)

    def get_state(self) -> dict[str, int]:
        return {"place": self.place}

    def set_state(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def take(stream: BatchStream, count: int) -> list[tuple[Batch, Position]]:
    out = [item for _, item in zip(range(count), stream, strict=False)]
    stream.close()
    return out


def test_a_stream_goes_on_where_it_stopped() -> None:
    whole = take(BatchStream(Stream(), cut, chunk_rows=10, seed=4), 40)
    assert len({position.chunk_state["place"] for _, position in whole}) > 2
    for stop in range(1, 25):
        rest = take(BatchStream(Stream(), cut, chunk_rows=10, seed=4, start=whole[stop - 1][1]), 40 - stop)
        for (batch, position), (expected, place) in zip(rest, whole[stop:], strict=True):
            np.testing.assert_array_equal(batch.input_ids, expected.input_ids)
            np.testing.assert_array_equal(batch.loss_mask, expected.loss_mask)
            np.testing.assert_array_equal(batch.images, expected.images)
            assert position == place


def test_every_row_of_a_finite_stream_comes_once() -> None:
    batches = take(BatchStream(Stream(stop=23), cut, chunk_rows=10, seed=0), 1000)
    assert sorted(n for batch, _ in batches for n in numbers(batch)) == list(range(1, 24))
    by_chunk: dict[int, list[int]] = {}
    for batch, position in batches:
        by_chunk.setdefault(position.chunk_state["place"], []).extend(numbers(batch))
    assert {start: sorted(rows) for start, rows in by_chunk.items()} == {
        0: list(range(1, 11)),
        10: list(range(11, 21)),
        20: [21, 22, 23],
    }


def test_the_seed_orders_the_batches() -> None:
    def order(seed: int) -> list[list[int]]:
        stream = BatchStream(Stream(), cut, chunk_rows=20, seed=seed)
        return [numbers(batch) for batch, _ in take(stream, 8)]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.timeout(30)
def test_any_error_of_the_thread_reaches_the_reader() -> None:
    stream = BatchStream(Stream(broken_at=15), cut, chunk_rows=10, seed=0)
    with pytest.raises(KeyError, match="no such row"):
        take(stream, 1000)
    stream.close()


def test_close_ends_the_thread() -> None:
    stream = BatchStream(Stream(), cut, chunk_rows=10, seed=0)
    next(iter(stream))
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
