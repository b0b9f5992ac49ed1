"""The questions of each step: bad rows stop the stream or are counted, and it goes on where it was."""

from contextlib import closing

import pytest

from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo import TrainConfig
from pixelthink_jax.grpo.config import DifficultyConfig
from pixelthink_jax.grpo.difficulty import open_difficulty
from pixelthink_jax.grpo.questions import Questions
from tests.grpo.holes import WithHoles


def questions(rows, *, state=None, **settings):
    config = TrainConfig("unused", data=DatasetConfig(split="tuning"), prompts_per_step=4, **settings)
    return closing(Questions(rows, config, open_difficulty(config.difficulty), state=state))


def ids(stream, steps):
    return [[example.id for example in stream.next_step()] for _ in range(steps)]


def test_a_stream_goes_on_from_its_state():
    rows = WithHoles(ShapeReason("tuning"), solution=None)
    with questions(rows, bad_rows="skip") as stream:
        ids(stream, 1)
        state = stream.state()
        rest = ids(stream, 3)
        skipped = dict(stream.skipped)
    with questions(rows, bad_rows="skip", state=state) as again:
        assert ids(again, 3) == rest
        assert dict(again.skipped) == skipped


@pytest.mark.parametrize(
    ("holes", "cause", "words"),
    [
        ({"solution": None}, "no_solution", "no solution"),
        ({"solution": "<box>(1, 2)"}, "no_solution", "no readable box"),
        ({"unreadable": True}, "unreadable", "truncated"),
    ],
)
def test_bad_rows_stop_the_run_or_are_counted(holes, cause, words):
    rows = WithHoles(ShapeReason("tuning"), **holes)
    with questions(rows) as stream, pytest.raises(InputError, match=words):
        ids(stream, 2)
    with questions(rows, bad_rows="skip") as stream:
        taken = {name for step in ids(stream, 3) for name in step}
        assert stream.skipped[cause] >= 2
        assert len(taken) == 6


@pytest.mark.parametrize("missing", [None, 0.5, 11.0, float("nan")])
def test_difficulty_that_cannot_be_used_is_an_error_skipped_or_left_in(missing):
    rows = WithHoles(ShapeReason("tuning"), difficulty=missing)
    with questions(rows) as stream, pytest.raises(InputError, match="difficulty is"):
        ids(stream, 2)
    with questions(rows, difficulty=DifficultyConfig(missing="skip")) as stream:
        ids(stream, 3)
        assert stream.skipped["no_difficulty"] >= 2
    with questions(rows, difficulty=DifficultyConfig(missing="released")) as stream:
        assert len({name for step in ids(stream, 2) for name in step}) == 8


def test_a_dataset_without_a_single_usable_row_ends():
    class Nothing(WithHoles):
        def __getitem__(self, index):
            raise InputError("gone")

    with (
        questions(Nothing(None), bad_rows="skip") as stream,
        pytest.raises(InputError, match="none of its 8 rows"),
    ):
        stream.next_step()
