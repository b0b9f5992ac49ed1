"""Forms, prompts, pace, cache and settings."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelthink_jax.errors import InputError
from pixelthink_jax.judge.cache import ReplyCache, request_key
from pixelthink_jax.judge.config import AnnotateConfig, EndpointConfig, LocalConfig, PromptsConfig
from pixelthink_jax.judge.pacing import Pace
from pixelthink_jax.judge.prompts import (
    SubScores,
    chains_form,
    difficulty_form,
    fill_in,
    read_object,
    target_note,
)
from pixelthink_jax.judge.protocol import BadAnswer, Reply, Request
from pixelthink_jax.judge.sizes import input_tokens, longest_tokens
from pixelthink_jax.types import Example

GOOD = {"scene_complexity": 1, "segmentation_challenge": 10, "linguistic_ambiguity": 5.5}
IMAGE = np.zeros((4, 6, 3), np.uint8)


def test_sub_scores_have_a_mean_and_a_level():
    scores = difficulty_form(10).read(GOOD | {"comment": "ignored"})
    assert scores == SubScores(1.0, 10.0, 5.5) and scores.mean == 5.5 and scores.level == "hard"


@pytest.mark.parametrize("value", [0.99, 10.1, "5", True, None, [5], float("nan"), float("inf"), 10**400])
def test_scores_that_are_none(value):
    with pytest.raises(BadAnswer, match="scene_complexity must be a number from 1 to 10"):
        difficulty_form(10).read(GOOD | {"scene_complexity": value})


@pytest.mark.parametrize(
    ("short", "long", "says"),
    [
        ("", "a b", "reasoning_short must be a text"),
        ("a", 3, "reasoning_long must be a text"),
        ("a b", "c d", "fewer words"),
        ("a", "b c <answer>", "tags"),
    ],
)
def test_chains_that_are_none(short, long, says):
    with pytest.raises(BadAnswer, match=says):
        chains_form(10).read({"reasoning_short": short, "reasoning_long": long})


def test_a_missing_key():
    with pytest.raises(BadAnswer, match="reasoning_long is missing"):
        chains_form(10).read({"reasoning_short": "a"})


@given(st.text() | st.text(alphabet='{}[]",:a1 '))
def test_any_text_is_an_object_or_a_bad_answer(text):
    with contextlib.suppress(BadAnswer):
        assert isinstance(read_object(text), dict)


def test_deep_nesting_and_long_numbers_are_bad_answers():
    for text in ('{"a":' * 3_000, '{"a": ' + "1" * 10_000 + "}"):
        with pytest.raises(BadAnswer):
            read_object(text)


@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text()), st.text(alphabet="ab\n<>`"))
def test_an_object_is_found_in_what_surrounds_it(tree, words):
    assert read_object(f"{words}{json.dumps(tree)}{words}") == tree


def test_a_query_cannot_fill_in_other_places():
    assert fill_in("{query}|{target}", query="{target}{query}", target="t") == "{target}{query}|t"


def test_where_the_target_is():
    solution = "<box>(84,0),(420,840)</box><points>(1,2),(3,4)</points>"
    assert "from 10% to 50% of the width and from 0% to 100%" in target_note(
        Example("a", IMAGE, "q", solution=solution)
    )
    assert target_note(Example("a", IMAGE, "q")) == "not given; find it first"
    assert target_note(Example("a", IMAGE, "q", mask=np.zeros((4, 6), bool))) == "not given; find it first"


def test_the_cache_knows_what_a_reply_depends_on(tmp_path):
    cache = ReplyCache(tmp_path)
    asked = Request(difficulty_form(10), "prompt", IMAGE)
    cache.put("m", asked, Reply("text \ud800", 1, 2, truncated=True))
    assert cache.get("m", asked) == Reply("text \ud800", 1, 2, truncated=True)
    others = [
        ("n", asked),
        ("m", Request(difficulty_form(11), "prompt", IMAGE)),
        ("m", Request(chains_form(10), "prompt", IMAGE)),
        ("m", Request(difficulty_form(10), "Prompt", IMAGE)),
        ("m", Request(difficulty_form(10), "prompt", IMAGE + np.uint8(1))),
        ("m", Request(difficulty_form(10), "prompt", IMAGE.reshape(6, 4, 3))),
    ]
    assert all(cache.get(name, other) is None for name, other in others)
    assert len({request_key(name, other) for name, other in others}) == len(others)


@pytest.mark.parametrize("damage", [b"", b'{"text": "a', b"[]", b"null", b'{"txt": 1}', b"\xff"])
def test_a_damaged_reply_is_asked_for_again(tmp_path, damage):
    cache, asked = ReplyCache(tmp_path), Request(difficulty_form(10), "p", IMAGE)
    cache.put("m", asked, Reply("text", 1, 2))
    [file] = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    assert cache.get("m", asked) is None


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(InputError, match="cache .*choose another folder"):
        ReplyCache(tmp_path / "cache").put("m", Request(difficulty_form(1), "p", IMAGE), Reply("t", 1, 1))


def test_the_pace_is_common_and_can_be_held():
    now = [0.0]
    pace = Pace(60, clock=lambda: now[0])
    assert [pace.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]
    now[0] = 10.0
    assert pace.reserve() == 0.0
    pace.hold(5.0)
    assert [pace.reserve(), pace.reserve()] == [5.0, 6.0]
    assert [Pace(None).reserve() for _ in range(3)] == [0.0] * 3
    now[0] = 0.0
    tokens = Pace(60, 600, clock=lambda: now[0])
    assert [tokens.reserve(20), tokens.reserve(5), tokens.reserve(0)] == [0.0, 2.0, 3.0]
    request = Request(difficulty_form(100), "four" * 5, np.zeros((56, 280, 3), np.uint8))
    assert (input_tokens(request, None), longest_tokens(request, 140)) == (20 + 5, 5 + 5 + 100)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EndpointConfig(base_url="localhost:8000"), "expected an address"),
        (lambda: EndpointConfig(base_url="ftp://a/v1"), "expected an address"),
        (lambda: EndpointConfig(base_url="http://a:99999/v1"), "not an address"),
        (lambda: EndpointConfig(base_url="https://me:hunter2@a/v1"), "leave them out"),
        (lambda: EndpointConfig(base_url="https://a/v1?key=hunter2"), "leave them out"),
        (lambda: EndpointConfig(api_key_env="sk-hunter2"), "never a key"),
        (lambda: EndpointConfig(api_key_env="hunter2HUNTER"), "never a key"),
        (lambda: EndpointConfig(model=" "), "backend.model is empty"),
        (lambda: EndpointConfig(workers=0), "backend.workers must be at least 1, got 0"),
        (lambda: EndpointConfig(requests_per_minute=0), "requests_per_minute must be a positive"),
        (lambda: EndpointConfig(input_price=1.0), "input_price and output_price, or neither"),
        (lambda: EndpointConfig(input_price=-1.0, output_price=1.0), "at least 0"),
        (lambda: LocalConfig(mesh={"model": 2}), "unknown axis 'model'"),
        (lambda: LocalConfig(batch_size=0), "batch_size must be at least 1"),
        (lambda: PromptsConfig(difficulty="rate it"), "exactly one {query}"),
        (lambda: AnnotateConfig(tasks=()), "at least one"),
        (lambda: AnnotateConfig(attempts=0), "attempts must be at least 1"),
    ],
)
def test_settings_that_cannot_be(make, says):
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
