"""Lists of objects: matched whatever their order, paid for the longer list, equal to the source on its own cases."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pixelthink_jax.answers import objects_reading, parse_completion, parse_objects, solution_box
from pixelthink_jax.errors import InputError
from pixelthink_jax.rl.length import NoPenalty
from pixelthink_jax.rl.object_accuracy import object_terms
from pixelthink_jax.rl.rewards import RewardConfig, score_completion

LISTS = RewardConfig(accuracy="vision_reasoner", penalty=NoPenalty())
OBJECTS = [
    ((10, 10, 110, 110), (60, 60)),
    ((300, 300, 500, 420), (400, 350)),
    ((600, 20, 700, 800), (650, 400)),
]


def listed(*objects) -> str:
    return json.dumps([{"bbox_2d": list(box), "point_2d": list(point)} for box, point in objects])


def says(answer: str, thought: str = "They are here.") -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def paid(text: str, solution: str):
    return score_completion(text, solution, difficulty=4.0, uncertainty=0.1, config=LISTS)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_objects_means_nothing(order):
    found = paid(says(listed(*(OBJECTS[i] for i in order))), listed(*OBJECTS))
    assert (found.reward, found.answer_format, found.box_iou, found.non_repeat) == (7.0, 2.0, 1.0, 1.0)


def test_missing_and_superfluous_objects_cost_alike():
    for own, true in ((OBJECTS[:2], OBJECTS), (OBJECTS, OBJECTS[1:])):
        found = paid(says(listed(*own)), listed(*true))
        assert found.box_iou == found.box_distance == found.point_distance == pytest.approx(2 / 3)
        assert found.reward == pytest.approx(4 + 2)
    again = paid(says(listed(*OBJECTS[:1] * 3)), listed(*OBJECTS))
    assert again.box_iou == pytest.approx(1 / 3)  # one true object is found once


def test_each_hit_is_judged_by_itself():
    box, point = OBJECTS[0]
    cases = {
        "far point": ((box, (100, 100)), (1, 0, 1)),
        "point outside the own box": ((box, (111, 60)), (1, 0, 1)),
        "point at 30": ((box, (60, 90)), (1, 0, 1)),
        "point at 29": ((box, (60, 89)), (1, 1, 1)),
        "corners 10 off": (((20, 20, 120, 120), point), (1, 1, 0)),
        "half the box": (((10, 10, 110, 59), point), (0, 0, 0)),
        "a line on a line": (((10, 10, 10, 110), (10, 60)), (0, 0, 0)),
    }
    for name, (own, hits) in cases.items():
        found = paid(says(listed(own)), listed(OBJECTS[0]))
        assert (found.box_iou, found.point_distance, found.box_distance) == hits, name
    line = ((10, 10, 10, 110), (10, 60))
    assert paid(says(listed(line)), listed(line)).box_iou == 1.0  # the source counts the shared edge


@pytest.mark.parametrize(
    ("answer", "answer_format", "hits"),
    [
        ("[]", 0.0, 0.0),
        ("no list", 0.0, 0.0),
        ('{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}', 0.0, 0.0),
        ('[{"bbox_2d": [10, 10, 110, 110]}]', 1.0, 0.0),
        (listed(OBJECTS[0])[:-1] + ', {"bbox_2d": [1, 2, 3], "point_2d": [1, 2]}]', 1.5, 0.0),
        ('[{"bbox_2d": [10, 10, 110, "110"], "point_2d": [60, 60]}]', 2.0, 0.0),
        ('[{"bbox_2d": [10, 10, 110, 1e999], "point_2d": [60, 60]}]', 2.0, 1 / 3),
        (listed(OBJECTS[0]).replace("110, 110", f"110, 11{'0' * 400}"), 2.0, 1 / 3),
        ('[{"bbox_2d": [10, 10, 110, NaN], "point_2d": [60, 60]}, 5]', 1.0, 0.0),
        ("[" * 5000, 0.0, 0.0),
    ],
)
def test_answers_that_are_not_what_was_asked_for(answer, answer_format, hits):
    found = paid(says(answer), listed(OBJECTS[0]))
    assert found.answer_format == answer_format and found.thinking_format == 1.0
    assert (found.box_iou + found.box_distance + found.point_distance) / 3 == pytest.approx(hits)


def test_a_question_without_a_target_is_met_by_an_empty_list_alone():
    assert paid(says("[]"), "[]").reward == 7.0
    assert paid(says(listed(OBJECTS[0])), "[]").reward == 4.0
    assert paid(says("nothing"), "[]").reward == 2.0
    assert solution_box("[]") is None and solution_box(listed(*OBJECTS)) == (10, 10, 700, 800)


def test_a_sentence_may_be_said_twice_but_not_three_times():
    kept = {"So. a. b. a.": 1.0, "So. a. a. b. b.": 0.0, "So. a. a. a.": 0.0}
    assert {thought: paid(says("[]", thought), "[]").non_repeat for thought in kept} == kept


def test_terms_are_those_of_the_best_matching_and_other_frames_are_scaled():
    rng = np.random.default_rng(3)

    def some(count, near=None):
        corners = (
            rng.integers(0, 400, (count, 2)) if near is None else near + rng.integers(-9, 10, near.shape)
        )
        return corners, [((x, y, x + 100, y + 80), (x + 50, y + 40)) for x, y in corners.tolist()]

    truths, texts = [], []
    for _ in range(20):
        corners, true = some(rng.integers(1, 6))
        own = (
            some(0, corners[rng.permutation(len(corners))])[1][: rng.integers(1, 6)]
            + some(rng.integers(0, 3))[1]
        )
        truths.append(parse_objects(listed(*true)))
        texts.append(says(listed(*own)))
    readings = [objects_reading(parse_completion(text)) for text in texts]
    found = object_terms(readings, truths, np.ones((20, 2)))
    total = found.box_iou + found.point_distance + found.box_distance
    for i, (reading, truth) in enumerate(zip(readings, truths, strict=True)):
        own = reading.targets or ()
        hits = np.array([[plain_hits(a, b) for b in truth] for a in own])
        rows, columns = linear_sum_assignment(-hits)
        assert total[i] == pytest.approx(hits[rows, columns].sum() / max(len(own), len(truth)), abs=1e-6)
    halves = [(tuple(v / 2 for v in box), tuple(v / 2 for v in point)) for box, point in OBJECTS]
    halved = [objects_reading(parse_completion(says(listed(*halves))))]
    scaled = object_terms(halved, [parse_objects(listed(*OBJECTS))], np.full((1, 2), 2.0))
    assert scaled.box_distance.tolist() == [1.0]


def plain_hits(own, true) -> int:
    """The three hits of a pair, written down once more in the plainest way."""
    (a1, b1, c1, d1), (a2, b2, c2, d2) = own.box_xyxy, true.box_xyxy
    overlap = max(0, min(c1, c2) - max(a1, a2) + 1) * max(0, min(d1, d2) - max(b1, b2) + 1)
    union = (c1 - a1 + 1) * (d1 - b1 + 1) + (c2 - a2 + 1) * (d2 - b2 + 1) - overlap
    corners = np.abs(np.subtract(own.box_xyxy, true.box_xyxy)).mean()
    (x, y), inside = own.points_xy[0], a1 <= own.points_xy[0][0] <= c1 and b1 <= own.points_xy[0][1] <= d1
    near = math.dist((x, y), true.points_xy[0]) < 30 and inside
    return int(overlap / union > 0.5) + int(corners < 10) + int(near)


def test_solutions_and_rewards_must_be_of_one_kind():
    assert (
        paid(says(listed(OBJECTS[0])), "<box>(10,10),(110,110)</box><points>(60,60),(9,9)</points>").reward
        == 7.0
    )
    with pytest.raises(InputError, match="lists objects; set reward.accuracy to vision_reasoner"):
        score_completion(says("[]"), listed(OBJECTS[0]), difficulty=2.0, uncertainty=0.0)
    for wrong, words in (
        ("[{}]", "expected a list of"),
        ("[1", "not valid JSON"),
        ("box", "no readable box"),
    ):
        with pytest.raises(InputError, match=words):
            paid(says("[]"), wrong)
