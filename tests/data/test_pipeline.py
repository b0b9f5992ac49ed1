import json

import pytest

from pixelthink_jax.data.pipeline import example_stream
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.types import Example


class Few:
    """The first rows of the world, drawn tiny."""

    def __init__(self, count: int):
        self._world, self._count = ShapeReason("train", render_size=(8, 8)), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        assert 0 <= index < self._count
        return self._world[index]


def _ids(batches):
    return [[row.id for row in batch] for batch in batches]


def _take(stream, count):
    return _ids(next(stream) for _ in range(count))


def test_order_depends_on_the_seed_alone():
    first = _take(example_stream(Few(20), seed=1, batch_size=4), 5)
    assert first == _take(example_stream(Few(20), seed=1, batch_size=4), 5)
    assert first != _take(example_stream(Few(20), seed=2, batch_size=4), 5)
    assert len({name for batch in first for name in batch}) == 20


def test_each_epoch_has_every_row_in_a_new_order():
    stream = example_stream(Few(12), seed=0, batch_size=12)
    (one,), (two,) = _take(stream, 1), _take(stream, 1)
    assert sorted(one) == sorted(two) and one != two


def test_a_stream_continues_from_its_state():
    stream = example_stream(Few(20), seed=3, batch_size=2)
    _take(stream, 7)
    state = json.loads(json.dumps(stream.get_state()))
    rest = _take(stream, 5)
    resumed = example_stream(Few(20), seed=3, batch_size=2)
    resumed.set_state(state)
    assert _take(resumed, 5) == rest


def test_shards_are_disjoint_and_of_one_length():
    shards = [
        _ids(example_stream(Few(11), seed=0, shard=(i, 3), num_epochs=1, batch_size=1)) for i in range(3)
    ]
    assert [len(shard) for shard in shards] == [3, 3, 3]
    assert len({name for shard in shards for (name,) in shard}) == 9


def test_an_unshuffled_epoch_ends_without_its_incomplete_batch():
    stream = example_stream(Few(5), seed=0, shuffle=False, num_epochs=1, batch_size=2)
    assert _ids(stream) == [["train-0-0", "train-0-1"], ["train-0-2", "train-0-3"]]


def test_workers_give_the_same_rows_and_resume():
    plain = _take(example_stream(ShapeReason("train"), seed=5, batch_size=2), 5)
    with example_stream(ShapeReason("train"), seed=5, batch_size=2, worker_count=1) as stream:
        assert _take(stream, 3) == plain[:3]
        state = stream.get_state()
    with example_stream(ShapeReason("train"), seed=5, batch_size=2, worker_count=1) as stream:
        stream.set_state(state)
        assert _take(stream, 2) == plain[3:]


def test_a_closed_stream_says_so():
    stream = example_stream(Few(4), seed=0)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


@pytest.mark.parametrize(
    ("shard", "batch_size"), [((1, 1), 1), ((0, 0), 1), ((0, 4), 2), ((-1, 2), 1), ((0, 1), 0)]
)
def test_impossible_shards_and_batches_are_refused(shard, batch_size):
    with pytest.raises(ValueError, match="shard"):
        example_stream(Few(7), seed=0, shard=shard, batch_size=batch_size)
