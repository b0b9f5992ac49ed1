"""What is counted about one completion."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.scoring import Judged, score_row, strict_failure, thought, true_box
from pixelthink_jax.types import Answer, Example
from tests.evaluation.tiny import completion

ANSWER = '<answer>{"bbox": [100, 100, 199, 199], "points_1": [120, 130], "points_2": [150, 160]}</answer>'


def example(**changes) -> Example:
    mask = np.zeros((84, 84), bool)
    mask[10:20, 10:20] = True
    values = {
        "id": "a",
        "image": np.zeros((84, 84, 3), np.uint8),
        "query": "the red one",
        "solution": "<box>(100,100),(199,199)</box><points>(1,2),(3,4)</points>",
        "mask": mask,
        "level": "hard",
        "metadata": {"query_type": "odd one out"},
    }
    return Example(**values | changes)


def judged(text: str, box=(100.0, 100.0, 199.0, 199.0), points=((120.0, 130.0), (150.0, 160.0))) -> Judged:
    answer = None if box is None else Answer(box, points)
    error = "the completion holds no JSON object" if box is None else None
    return Judged(completion(text), parse_completion(text), answer, (), error, 3)


def test_a_right_answer():
    row = score_row(example(), judged(f"<think>It is red.</think>\n{ANSWER}"), mask=example().mask)
    assert (row.id, row.level, row.query_type, row.valid, row.failure) == (
        "a",
        "hard",
        "odd one out",
        True,
        None,
    )
    assert (row.box_iou, row.box_correct, row.points_in_box, row.mask_iou) == (1.0, True, True, 1.0)
    assert (row.intersection, row.union) == (100, 100)
    assert (row.thinking_words, row.thinking_tokens, row.completion_tokens, row.uncertainty) == (
        3,
        3,
        5,
        0.25,
    )


def test_no_answer_is_a_miss_of_the_whole_target():
    row = score_row(example(), judged("<think>hm", box=None), mask=np.zeros((84, 84), bool))
    assert (row.valid, row.failure, row.box_iou, row.box_correct, row.points_in_box) == (
        False,
        "tags",
        0.0,
        False,
        False,
    )
    assert (row.mask_iou, row.intersection, row.union) == (0.0, 0, 100)
    assert row.answer_error == "the completion holds no JSON object"


def test_an_empty_target_is_met_by_an_answer_that_draws_nothing():
    empty = np.zeros((84, 84), bool)
    target = example(mask=empty)
    assert score_row(target, judged(ANSWER), mask=empty).mask_iou == 1.0
    assert score_row(target, judged("", box=None), mask=empty).mask_iou == 0.0


def test_half_is_not_enough_for_a_box():
    row = score_row(example(), judged(ANSWER, box=(100.0, 100.0, 199.0, 149.0)))
    assert (row.box_iou, row.box_correct, row.mask_iou, row.union) == (0.5, False, None, None)


def test_points_on_the_edge_of_their_own_box_are_inside():
    inside = ((100.0, 199.0), (199.0, 100.0))
    assert score_row(example(), judged(ANSWER, points=inside)).points_in_box
    assert not score_row(example(), judged(ANSWER, points=((99.5, 150.0), (150.0, 150.0)))).points_in_box


def test_the_box_of_the_mask_where_there_is_no_solution():
    assert true_box(example(solution=None)) == (100.0, 100.0, 190.0, 190.0)


def test_several_objects_are_measured_by_the_box_around_them():
    corners = ([100, 100, 150, 199], [140, 120, 199, 150])
    items = [{"bbox_2d": box, "point_2d": [1, 2]} for box in corners]
    several = example(solution=json.dumps(items))
    assert true_box(several) == (100.0, 100.0, 199.0, 199.0) and true_box(example(solution="[]")) is None
    boxes = tuple(tuple(map(float, box)) for box in corners)
    said = replace(judged(ANSWER, box=boxes[0]), boxes_840=boxes)
    assert score_row(several, said).box_iou == 1.0
    assert score_row(several, replace(said, boxes_840=boxes[:1])).box_iou < 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"solution": None, "mask": None}, "no solution and no mask"),
        ({"mask": np.zeros((4, 8), bool)}, "example a: its mask is 8x4 pixels, its image 84x84"),
        ({"solution": "<box>(1, 2)</box>"}, "no readable box"),
        ({"mask": None}, "it has no mask; set segmenter to null"),
    ],
)
def test_an_example_without_truth_is_named(changes, says):
    with pytest.raises(InputError, match=says):
        score_row(example(**changes), judged(ANSWER), mask=np.zeros((84, 84), bool))


def test_validity_is_by_the_format_asked_for():
    many = '<think>a</think><answer>[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}]</answer>'
    assert (
        strict_failure(parse_completion(many)) == "invalid_json"
        or strict_failure(parse_completion(many)) is not None
    )
    assert strict_failure(parse_completion(many), answer_format="vision_reasoner_json") is None
    assert strict_failure(parse_completion(many[1:]), answer_format="vision_reasoner_json") == "tags"


def test_an_unclosed_thought_is_counted():
    assert thought(parse_completion("<think>one two three")) == "one two three"
    assert thought(parse_completion(f"<think>one two {ANSWER}")) == "one two"
    assert thought(parse_completion("no tag at all")) == ""
    assert thought(parse_completion("<think></think>x")) == ""


def test_rows_do_not_change_under_their_feet():
    row = score_row(example(), judged(ANSWER))
    assert replace(row, level=None).level is None and row.level == "hard"
