"""Refilled decoding draws what plain decoding draws, each prompt once, and wastes less of its batches."""

import dataclasses
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.policy import Policy
from pixelthink_jax.rl import rollout
from pixelthink_jax.rl.rollout import rooms
from pixelthink_jax.rl.sampling import SamplingConfig
from tests.rl.tiny_policy import tiny_policy

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype(np.uint8)
QUERIES = [f"the {'red ' * (i % 3)}cup number {i}" for i in range(7)]


@cache
def policy_that_stops() -> Policy:
    """A random policy for which every tenth token is an end token, so that lengths differ."""
    tiny = tiny_policy()
    policy = Policy(tiny.config, tiny.params, loaded_processor=tiny.processor)
    some = np.random.default_rng(1).random(tiny.rules.eos.shape) < 0.1
    policy.__dict__["rules"] = dataclasses.replace(tiny.rules, eos=tiny.rules.eos | jnp.asarray(some))
    return policy


@cache
def generate(batch_size: int, *, group_size: int = 1, max_new_tokens: int = 24):
    return policy_that_stops().generate(
        [PICTURE] * len(QUERIES),
        QUERIES,
        max_new_tokens=max_new_tokens,
        group_size=group_size,
        batch_size=batch_size,
        temperature=1.0,
        seed=3,
    )


@pytest.fixture(autouse=True)
def small_rooms(monkeypatch):
    monkeypatch.setattr(rollout, "_ROOMS", (4, 8, 16))


def test_rooms_end_at_the_limit():
    assert rooms(SamplingConfig(max_new_tokens=20)) == [4, 8, 16, 20]
    assert rooms(SamplingConfig(max_new_tokens=3)) == [3]


@pytest.mark.parametrize("group_size", [1, 2])
def test_the_same_completions_whatever_the_batches(group_size):
    """Lengths differ, so rows of several batches meet in the later rooms."""
    whole, refilled = (generate(size, group_size=group_size) for size in (7, 3))
    lengths = {len(c.token_ids) for group in whole for c in group}
    assert len(lengths) > 2 and max(lengths) > 8
    for ours, theirs in zip(refilled, whole, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.token_ids.tolist() == b.token_ids.tolist()
            assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            assert a.uncertainty == pytest.approx(b.uncertainty, abs=1e-5)


def test_every_completion_says_what_it_took():
    for [completion] in generate(3):
        cost = completion.cost
        assert set(cost.seconds) == {"image_encoding", "prefill", "decoding"}
        assert all(seconds > 0 for seconds in cost.seconds.values())
        assert cost.decode_slots >= len(completion.token_ids)
        assert cost.prompt_tokens > 20 and cost.image_grid[0] == 1


def test_fewer_slots_are_wasted_than_by_whole_batches():
    """A whole batch runs until its longest completion is done."""
    found = [completion for [completion] in generate(3)]
    lengths = [len(completion.token_ids) for completion in found]
    whole = sum(3 * max(lengths[start : start + 3]) for start in range(0, 7, 3))
    assert sum(completion.cost.decode_slots for completion in found) < whole
