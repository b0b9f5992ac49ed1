"""The reward against the released functions' values, and around every threshold against exact arithmetic."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelthink_jax.config import from_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.rl.accuracy import box_distance_term, box_iou_term, point_distance_term
from pixelthink_jax.rl.budgets import ConstantBudget, ContinuousBudget, ThreeWayBudget
from pixelthink_jax.rl.length import Clipped, L1Exact, OneSided, Penalty
from pixelthink_jax.rl.rewards import RewardConfig, score_completion

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "reward.json"
SOLUTION = "<box>(100,100),(300,300)</box><points>(150,150),(250,250)</points>"
halves = st.integers(-100, 1800).map(lambda n: n / 2)


def test_every_row_of_the_released_reward():
    if not VECTORS.is_file():
        pytest.skip("the reference values are not beside the project")
    for row in json.loads(VECTORS.read_text()):
        given_ = {"difficulty": row["difficulty"], "uncertainty": row["uncertainty"]}
        words = score_completion(row["response"], row["solution"], **given_)
        tokens = score_completion(
            row["response"],
            row["solution"],
            **given_,
            thinking_tokens=row["reasoning_tokens"],
            config=RewardConfig(length_unit="thinking_tokens"),
        )
        expect = row["expect"]
        for ours, theirs in (
            ("thinking_format", "thinking_format"),
            ("answer_format", "answer_format"),
            ("box_iou", "box_iou"),
            ("point_distance", "point_l1"),
            ("box_distance", "box_l1"),
            ("length_used", "words"),
        ):
            assert getattr(words, ours) == expect[theirs], (ours, row["response"])
        assert (words.length_budget is None) == (expect["budget"] is None)
        if words.length_budget is not None:
            assert words.length_budget == pytest.approx(expect["budget"], rel=1e-6)
        assert words.reward == pytest.approx(expect["reward_words"], rel=1e-5, abs=1e-5)
        assert tokens.reward == pytest.approx(expect["reward_reasoning_tokens"], rel=1e-5, abs=1e-5)


def exact_iou(a, b):
    a, b = ([Fraction(v) for v in box] for box in (a, b))
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    overlap = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else Fraction(0)
    area, other = ((q[2] - q[0] + 1) * (q[3] - q[1] + 1) for q in (a, b))
    union = area + other - overlap
    return overlap / union if union else Fraction(0)


@given(st.tuples(*[halves] * 4), st.tuples(*[halves] * 4))
def test_iou_decides_exactly_on_halves(box, other):
    truth = (
        min(other[0], other[2]),
        min(other[1], other[3]),
        max(other[0], other[2]),
        max(other[1], other[3]),
    )
    decided = bool(box_iou_term(np.array(box, np.float32), np.array(truth, np.float32)))
    assert decided == (exact_iou(box, truth) > Fraction(1, 2))


@pytest.mark.parametrize(("bottom", "decided"), [(4, False), (5, True)])
def test_iou_of_exactly_one_half_is_not_above(bottom, decided):
    truth = np.array([0, 0, 9, 9], np.float32)
    assert bool(box_iou_term(np.array([0, 0, 9, bottom], np.float32), truth)) is decided


@given(st.tuples(*[halves] * 4), st.tuples(*[st.integers(-80, 80)] * 4))
def test_box_distance_decides_exactly_on_halves(truth, offsets):
    box = [t + d / 4 * 2 for t, d in zip(truth, offsets, strict=True)]
    decided = bool(box_distance_term(np.array(box, np.float32), np.array(truth, np.float32)))
    assert decided == (sum(abs(Fraction(b) - Fraction(t)) for b, t in zip(box, truth, strict=True)) < 40)


@given(st.tuples(*[st.integers(0, 840)] * 4), st.tuples(*[st.integers(0, 840)] * 4))
def test_point_distance_decides_as_double_precision_but_at_the_threshold(own, truth):
    own, truth = np.array(own, np.float64).reshape(2, 2), np.array(truth, np.float64).reshape(2, 2)
    matchings = [
        sum(math.dist(p, q) for p, q in zip(own, order, strict=True)) for order in (truth, truth[::-1])
    ]
    if abs(min(matchings) / 2 - 100) > 1e-4:
        whole = np.array([0, 0, 840, 840], np.float32)
        decided = bool(point_distance_term(own.astype(np.float32), whole, truth.astype(np.float32)))
        assert decided == (min(matchings) / 2 < 100)


def completion(box=(100, 100, 300, 300), first=(150, 150), second=(250, 250), thought="it is"):
    answer = json.dumps({"bbox": list(box), "points_1": list(first), "points_2": list(second)})
    return f"<think>{thought}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (completion(), (1, 1, 1, 1, 1)),
        (completion(first=(250, 250), second=(150, 150)), (1, 1, 1, 1, 1)),
        (completion(first=(90, 150)), (1, 1, 1, 0, 1)),
        (completion(box=(300, 300, 100, 100)), (1, 1, 0, 0, 0)),
        (completion(box=(100, 100, 300, math.nan)), (1, 1, 0, 0, 0)),
        (completion(box=(100, 100, 10**400, 300)), (1, 1, 0, 1, 0)),
        (completion() + "\n", (0, 1, 1, 1, 1)),
        ("", (0, 0, 0, 0, 0)),
    ],
)
def test_terms_of_corner_cases(text, terms):
    found = score_completion(text, SOLUTION, difficulty=4.0, uncertainty=0.0)
    names = ("thinking_format", "answer_format", "box_iou", "point_distance", "box_distance")
    assert tuple(getattr(found, name) for name in names) == terms
    assert found.reward == sum(terms)


@pytest.mark.parametrize(
    ("difficulty", "budget"), [(3.49, 96), (3.5, None), (4.99, None), (5.0, 260), (10, 260), (math.nan, 96)]
)
def test_budget_branches(difficulty, budget):
    found = score_completion(completion(), SOLUTION, difficulty=difficulty, uncertainty=0.16)
    assert found.length_budget == budget


@pytest.mark.parametrize("uncertainty", [math.nan, math.inf, -math.inf])
def test_an_uncertainty_that_is_not_finite_lifts_the_constraint(uncertainty):
    found = score_completion(completion(), SOLUTION, difficulty=8.0, uncertainty=uncertainty)
    assert found.length_budget is None and found.reward == 5.0


def test_words_beyond_the_budget_cost_and_units_differ():
    text = completion(thought=" ".join(["red"] * 140))
    words = score_completion(text, SOLUTION, difficulty=2.0, uncertainty=0.0)
    assert words.length_used == len(text.split())
    assert words.reward == pytest.approx(5 * (1 - 0.002 * (words.length_used - 96)), rel=1e-6)
    thought = score_completion(
        text, SOLUTION, difficulty=2.0, uncertainty=0.0, config=RewardConfig(length_unit="thinking_words")
    )
    assert thought.length_used == 140
    with pytest.raises(InputError, match="give thinking_tokens"):
        score_completion(
            text,
            SOLUTION,
            difficulty=2.0,
            uncertainty=0.0,
            config=RewardConfig(length_unit="thinking_tokens"),
        )


def test_an_unreadable_solution_is_an_error():
    with pytest.raises(InputError, match="no readable box"):
        score_completion(completion(), "<box>(1, 2),(3,4)</box>", difficulty=2.0, uncertainty=0.0)


@pytest.mark.parametrize("penalty", get_args(Penalty))
def test_penalties_have_finite_values_and_gradients_without_a_budget_too(penalty):
    accuracy = jnp.array([[5.0, 0.0, 3.0], [5.0, 5.0, 5.0]])
    length = jnp.array([[0.0, 90.0, 700.0], [50.0, 50.0, 50.0]])
    for budget in (jnp.full((2, 3), 96.0), jnp.full((2, 3), jnp.inf)):
        paid, slope = jax.value_and_grad(lambda n, b=budget: penalty()(accuracy, n, b).sum())(length)
        assert np.isfinite(paid) and np.isfinite(slope).all()


@pytest.mark.parametrize("penalty", [p for p in get_args(Penalty) if p is not L1Exact])
def test_a_longer_correct_answer_is_never_paid_more(penalty):
    length = jnp.arange(1.0, 600.0, 7.0)[None]
    paid = penalty()(jnp.full_like(length, 5.0), length, jnp.full_like(length, 96.0))
    assert (jnp.diff(paid) <= 1e-6).all()


def test_score_is_differentiable_beyond_the_budget():
    slope = jax.grad(lambda length: Clipped().score(length, jnp.array(96.0)))(jnp.array(196.0))
    assert float(slope) == pytest.approx(-0.002)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ThreeWayBudget(easy=-1.0), "easy must not be negative"),
        (lambda: ThreeWayBudget(easy_below=6.0), "above hard_from"),
        (lambda: ThreeWayBudget(hard=math.nan), "hard must not be negative"),
        (lambda: ThreeWayBudget(uncertainty_branches=("medium",)), "no budget that uncertainty could widen"),
        (lambda: ContinuousBudget(difficulty_low=9.0), "must be below difficulty_high"),
    ],
)
def test_impossible_budgets_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_config_names_budget_and_penalty_by_kind():
    tree = {"penalty": {"kind": "one_sided", "slope": 0.01}, "budget": {"kind": "constant", "length": 40}}
    config = from_tree(RewardConfig, tree)
    assert config == RewardConfig(penalty=OneSided(0.01), budget=ConstantBudget(40.0))
    assert from_tree(RewardConfig, {"penalty": {"slope": 0.01}}).penalty == Clipped(0.01)
    with pytest.raises(
        InputError, match="penalty: kind: got 'one_side', expected one of 'clipped', 'one_sided'"
    ):
        from_tree(RewardConfig, {"penalty": {"kind": "one_side"}})
