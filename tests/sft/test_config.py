from typing import Any

import pytest

from pixelthink_jax.config import from_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.sft.config import SftConfig


def config(**values: Any) -> SftConfig:
    tree = {"out": "x", "policy": "p", "stages": [{"name": "a", "steps": 3}, {"name": "b", "steps": 2}]}
    return from_tree(SftConfig, {**tree, **values})


def test_stages_follow_one_another() -> None:
    run = config()
    assert run.steps == 5
    assert [run.stage_at(step) for step in range(6)] == [(0, 3), (0, 3), (0, 3), (1, 5), (1, 5), (2, 5)]


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"policy": None}, "exactly one of policy"),
        ({"new_policy": {"model": {}, "image_size": 28}}, "exactly one of policy"),
        ({"stages": []}, "at least one stage"),
        ({"stages": [{"name": "a", "steps": 0}]}, "stages[0]: steps must be at least 1"),
        ({"stages": [{"name": "a", "steps": 1, "data": [{"name": "jsonl"}]}]}, "jsonl needs a path"),
        ({"stages": [{"name": "a", "steps": 1, "data": [{"examples": 0}]}]}, "examples must be at least 1"),
        ({"stages": [{"name": "a", "steps": 1, "data": [{"name": "coco"}]}]}, "'coco'"),
        ({"stages": [{"name": "a", "steps": 1, "data": []}]}, "data names no dataset"),
        ({"stages": [{"name": "a", "steps": 1, "data": [{"weight": 0}]}]}, "weight must be positive"),
        ({"stages": [{"name": "a", "steps": 1, "data": [{"given_until": ""}]}]}, "given_until is empty"),
        ({"length_buckets": []}, "length_buckets"),
        ({"length_buckets": [64, 32]}, "length_buckets"),
        ({"length_buckets": [0, 32]}, "length_buckets"),
        ({"tokens_per_batch": 0}, "tokens_per_batch"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"checkpoint_every": 25}, "multiple of log_every"),
        ({"optim": {"learning_rate": 0}}, "learning_rate"),
        ({"optim": {"kind": "sgd"}}, "'sgd'"),
    ],
)
def test_runs_that_mean_nothing(values: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        config(**values)
    assert part in str(caught.value)
