"""Completion text to answers: the released reward's corner cases, the evaluation scripts', and hostile
text.
"""

import json
import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelthink_jax.answers import (
    boxes_failure,
    objects_reading,
    parse_completion,
    parse_solution,
    strict_reading,
    tolerant_reading,
    usable_answer,
    usable_targets,
)
from pixelthink_jax.errors import InputError

VECTORS = Path(__file__).parents[2] / "shared" / "vectors" / "reward.json"
SOLUTION = "<box>(100,100),(200,200)</box><points>(130,130),(170,170)</points>"
GOOD = '{"bbox": [100, 100, 200, 200], "points_1": [130, 130], "points_2": [170, 170]}'


def completion(answer, *, think="the red one", between=""):
    return f"<think>{think}</think>{between}<answer>{answer}</answer>"


def with_values(**values):
    return completion(json.dumps({**json.loads(GOOD), **values}))


def released_terms(text, solution):
    """The five accuracy terms of method section 7, computed from the strict reading alone."""
    reading, target = strict_reading(parse_completion(text)), parse_solution(solution)
    terms = [float(reading.thinking_format), float(reading.answer_format), 0.0, 0.0, 0.0]
    if reading.box_xyxy is None:
        return terms
    p, t = reading.box_xyxy, target.box_xyxy
    x1, y1, x2, y2 = max(p[0], t[0]), max(p[1], t[1]), min(p[2], t[2]), min(p[3], t[3])
    inter = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    union = sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (p, t)) - inter
    terms[2] = float(union != 0 and inter / union > 0.5)
    terms[4] = float(sum(abs(a - b) for a, b in zip(p, t, strict=True)) / 4 < 10)
    if reading.points_xy is not None:
        a, b = reading.points_xy
        inside = all(p[0] <= x <= p[2] and p[1] <= y <= p[3] for x, y in (a, b))
        c, d = target.points_xy
        distance = min(math.dist(a, c) + math.dist(b, d), math.dist(a, d) + math.dist(b, c)) / 2
        terms[3] = float(inside and distance < 100)
    return terms


# The table of executed corner cases (think, answer, IoU, point, box), in its order.
CASES = {
    "exact": (completion(GOOD), [1, 1, 1, 1, 1]),
    "swapped points": (with_values(points_1=[170, 170], points_2=[130, 130]), [1, 1, 1, 1, 1]),
    "single quotes": (completion(GOOD.replace('"', "'")), [1, 0, 0, 0, 0]),
    "nested object": (completion('{"a": ' + GOOD + "}"), [1, 0, 0, 0, 0]),
    "unclosed brace": (completion(GOOD[:-1]), [1, 0, 0, 0, 0]),
    "brace in a string": (completion(GOOD[:-1] + ', "why": "a } b"}'), [1, 0, 0, 0, 0]),
    "earlier braces": (completion(GOOD, think="see {x} there"), [1, 0, 0, 0, 0]),
    "earlier empty braces": (completion(GOOD, think="a set {} of"), [1, 1, 1, 1, 1]),
    "only in think": (completion("the red one", think=GOOD), [1, 1, 1, 1, 1]),
    "in a list": (completion(f"[{GOOD}]"), [1, 1, 1, 1, 1]),
    "code fence": (completion(f"```json\n{GOOD}\n```"), [1, 1, 1, 1, 1]),
    "extra keys": (with_values(label="cup"), [1, 1, 1, 1, 1]),
    "several objects": (completion(GOOD + ' {"bbox": []}'), [1, 1, 1, 1, 1]),
    "duplicate key": (completion(GOOD[:-1] + ', "bbox": [0, 0, 1, 1]}'), [1, 1, 0, 0, 0]),
    "BBOX": (completion(GOOD.replace("bbox", "BBOX")), [1, 0, 0, 0, 0]),
    "no bbox": (completion('{"points_1": [130, 130], "points_2": [170, 170]}'), [1, 0, 0, 0, 0]),
    "five numbers": (with_values(bbox=[100, 100, 200, 200, 1]), [1, 0, 0, 0, 0]),
    "NaN box": (with_values(bbox=[math.nan, 100, 200, 200]), [1, 1, 0, 0, 0]),
    "infinite x2": (with_values(bbox=[100, 100, math.inf, 200]), [1, 1, 0, 1, 0]),
    "infinite box": (with_values(bbox=[-math.inf, -math.inf, math.inf, math.inf]), [1, 1, 0, 1, 0]),
    "huge integers": (with_values(bbox=[-(10**400), 0, 10**400, 10**400]), [1, 1, 0, 1, 0]),
    "NaN point": (with_values(points_1=[math.nan, 130]), [1, 1, 1, 0, 1]),
    "infinite point": (with_values(points_1=[math.inf, 130]), [1, 1, 1, 0, 1]),
    "string box": (with_values(bbox=["100", "100", "200", "200"]), [1, 1, 0, 0, 0]),
    "null in box": (with_values(bbox=[None, 100, 200, 200]), [1, 1, 0, 0, 0]),
    "string points": (with_values(points_1=["130", "130"]), [1, 1, 1, 1, 1]),
    "fractional string": (with_values(points_1=["130.5", "130"]), [1, 1, 1, 0, 1]),
    "three numbers": (with_values(points_1=[130, 130, 7]), [1, 0, 1, 1, 1]),
    "one number": (with_values(points_1=[130]), [1, 0, 1, 0, 1]),
    "point as text": (with_values(points_1="99"), [1, 0, 1, 0, 1]),
    "point as object": (completion(GOOD.replace("[130, 130]", "null")), [1, 0, 1, 0, 1]),
    "floats": (with_values(bbox=[100.4, 100.0, 199.6, 200], points_1=[130.9, 130.2]), [1, 1, 1, 1, 1]),
    "inverted box": (with_values(bbox=[200, 200, 100, 100]), [1, 1, 0, 0, 0]),
    "identical points": (with_values(points_2=[130, 130]), [1, 1, 1, 1, 1]),
    "point outside": (with_values(points_1=[99, 130]), [1, 1, 1, 0, 1]),
    "negative": (with_values(bbox=[-1, 100, 200, 200]), [1, 1, 0, 1, 0]),
    "leading space": (" " + completion(GOOD), [0, 1, 1, 1, 1]),
    "trailing newline": (completion(GOOD) + "\n", [0, 1, 1, 1, 1]),
    "text before": ("So " + completion(GOOD), [0, 1, 1, 1, 1]),
    "text between": (completion(GOOD, between=" so "), [0, 1, 1, 1, 1]),
    "white space between": (completion(GOOD, between=" \n\t"), [1, 1, 1, 1, 1]),
    "empty think": (completion(GOOD, think=""), [1, 1, 1, 1, 1]),
    "two thoughts": ("<think>a</think>" + completion(GOOD), [1, 1, 1, 1, 1]),
    "two answers": (completion(GOOD) + "<answer>b</answer>", [1, 1, 1, 1, 1]),
    "upper-case tags": (completion(GOOD).replace("think", "THINK"), [0, 1, 1, 1, 1]),
    "bare": (GOOD, [0, 1, 1, 1, 1]),
    "empty": ("", [0, 0, 0, 0, 0]),
    "deep nesting": (completion('{"bbox": ' + "[" * 100_000), [1, 0, 0, 0, 0]),
    "too many digits": (completion('{"bbox": [' + "1" * 5000 + "]}"), [1, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", CASES)
def test_strict_reading_gives_the_released_terms(name):
    text, expected = CASES[name]
    assert released_terms(text, SOLUTION) == expected


@pytest.mark.skipif(not VECTORS.is_file(), reason="the golden vectors are not beside the project")
def test_strict_reading_on_every_golden_row():
    keys = ("thinking_format", "answer_format", "box_iou", "point_l1", "box_l1")
    for number, row in enumerate(json.loads(VECTORS.read_text())):
        parsed, expect = parse_completion(row["response"]), row["expect"]
        assert (parsed.response_words, parsed.thinking_words) == (expect["words"], expect["reasoning_words"])
        assert released_terms(row["response"], row["solution"]) == [expect[key] for key in keys], number


def test_strict_reading_names_every_failure():
    reading = strict_reading(parse_completion('x {"bbox": [1, 2, 3], "points_1": "a", "points_2": [1, 2]}'))
    assert reading.failures == ("tags", "box_length", "points_values")
    assert strict_reading(parse_completion(completion(GOOD))).failures == ()
    assert strict_reading(parse_completion("<think>")).failures == ("tags", "no_json")
    assert strict_reading(parse_completion(completion("{'a'}"))).failures == ("invalid_json",)
    assert strict_reading(parse_completion(completion("{}"))).failures == ("no_json",)
    assert strict_reading(parse_completion(completion('{"a": 1}'))).failures == ("no_box", "no_points")


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (completion(GOOD), None),
        (completion(GOOD.replace("bbox", "My_BBox_2d").replace("points", "Points")), None),
        (with_values(bbox=["100", "100", "200", "200"], points_1=[130, 130, 1]), None),
        (with_values(bbox="1234"), None),
        (completion(GOOD, think=""), "no_thinking"),
        (completion(GOOD, think="a < b"), "no_thinking"),
        (GOOD, "no_thinking"),
        (completion("none"), "no_json"),
        (completion("{'a': 1}"), "invalid_json"),
        (completion(GOOD.replace("points", "point")), "no_points"),
        (completion('{"points_1": [1, 2], "points_2": [3, 4]}'), "no_box"),
        (with_values(bbox=[1, 2, 3]), "box_length"),
        (with_values(bbox=[1, 2, 3, math.nan]), "box_values"),
        (with_values(bbox=[1, 2, 3, 10**400]), "box_values"),
        (with_values(bbox=7), "box_values"),
        (with_values(points_1=[1]), "points_values"),
        (with_values(points_1={"x": 1}), "no_json"),
    ],
)
def test_seg_zero_reading(text, failure):
    if failure == "no_json" and "x" in text:
        failure = "invalid_json"  # a nested object ends at its own brace
    reading = tolerant_reading(parse_completion(text), protocol="seg_zero")
    assert reading.failure == failure
    assert len(reading.targets) == (failure is None)
    assert bool(reading.thinking) == (failure is None)


def test_seg_zero_reading_truncates_and_takes_the_plain_thought():
    text = "<think>a <think>b</think> " + '{"bbox": [1.9, 2, "3", 4], "xpoints": [5.9, 6], "points": [7, 8]}'
    reading = tolerant_reading(parse_completion(text))
    assert reading.targets[0].box_xyxy == (1, 2, 3, 4)
    assert reading.targets[0].points_xy == ((5, 6), (7, 8))
    assert reading.thinking == "b"


def test_vision_reasoner_reading():
    listed = (
        '[{"bbox_2d": [1, 2, 3, 4.5], "point_2d": [5, 6]}, {"bbox_2d": [7, 8, 9, 10], "point_2d": [11, 12]}]'
    )
    text = f"hm <think>a</think> <answer> {listed} </answer>"
    ours = tolerant_reading(parse_completion(text), protocol="vision_reasoner")
    assert [t.box_xyxy for t in ours.targets] == [(1, 2, 3, 4.5), (7, 8, 9, 10)]
    assert ours.targets[1].points_xy == ((11, 12),)
    assert ours.thinking == "hm <think>a</think>"
    assert tolerant_reading(parse_completion(text), protocol="seg_zero_multi").thinking == "a"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("[]", None),
        ("{}", "not_a_list"),
        ("[1]", "object_values"),
        ('[{"bbox_2d": [1, 2, 3, 4]}]', "object_values"),
        ('[{"bbox_2d": ["1", 2, 3, 4], "point_2d": [5, 6]}]', "object_values"),
        ('[{"bbox_2d": [NaN, 2, 3, 4], "point_2d": [5, 6]}]', "object_values"),
        ("none", "invalid_json"),
        (None, "no_answer_tag"),
    ],
)
def test_vision_reasoner_failures(answer, failure):
    text = "<think>a</think>" if answer is None else completion(answer)
    reading = tolerant_reading(parse_completion(text), protocol="vision_reasoner")
    assert (reading.failure, reading.targets) == (failure, ())


def test_usable_answer_takes_what_can_be_understood():
    expected = ((100, 100, 200, 200), ((130, 130), (170, 170)))
    for text in (
        completion(GOOD),
        completion(GOOD.replace('"', "'")),
        completion(GOOD, think="a {x} or {y}"),
        completion(f"[{GOOD}]"),
        completion("the cup {" + GOOD),
        "I think " + GOOD,
        completion(GOOD)[: -len("</answer>")],
        completion(GOOD, think='{"bbox": [0, 0, 1, 1], "points_1": [0, 0], "points_2": [1, 1]}'),
    ):
        answer, error = usable_answer(parse_completion(text))
        assert error is None
        assert (answer.box_xyxy, answer.points_xy) == expected


def test_usable_targets_of_a_list():
    text = completion(
        '[{"bbox_2d": [9, 2, 3, 4], "point_2d": [5, 6]}, {"bbox_2d": [7, 8, 9, 10], "point_2d": [11, 12]}]'
    )
    targets, error = usable_targets(parse_completion(text), answer_format="vision_reasoner_json")
    assert error is None
    assert [t.box_xyxy for t in targets] == [(3, 2, 9, 4), (7, 8, 9, 10)]
    answer, _ = usable_answer(parse_completion(text), answer_format="vision_reasoner_json")
    assert answer.points_xy == ((5, 6), (5, 6))


FENCED = '```json\n[\n  {"bbox_2d": [9, 2, 3, 4], "label": "a cup"},\n  {"bbox_2d": [5, 6, 7, 8], "label": "b"}\n]\n```'


@pytest.mark.parametrize(
    ("text", "boxes", "failure"),
    [
        (FENCED, [(3, 2, 9, 4), (5, 6, 7, 8)], None),
        (FENCED.removeprefix("```json").removesuffix("```"), [(3, 2, 9, 4), (5, 6, 7, 8)], None),
        (f"Here it is:\n{FENCED}", [(3, 2, 9, 4), (5, 6, 7, 8)], "invalid_json"),
        (FENCED[:-30], [(3, 2, 9, 4)], "invalid_json"),  # cut at the token limit
        ('{"bbox_2d": [1, 2, 3, 4], "label": "x"}', [(1, 2, 3, 4)], "not_a_list"),
        ('[{"bbox_2d": [1, 2, 3], "label": "x"}]', [], "object_values"),
        ("[[1, 2, 3, 4]]", [], "object_values"),
        ("```json\n[]\n```", [], None),
        ("There is no cup.", [], "invalid_json"),
    ],
)
def test_boxes_of_an_untuned_model(text, boxes, failure):
    parsed = parse_completion(text)
    targets, _ = usable_targets(parsed, answer_format="qwen_vl_json")
    assert [target.box_xyxy for target in targets] == boxes
    assert all(target.points_xy == () for target in targets)
    assert boxes_failure(parsed) == failure
    answer, _ = usable_answer(parsed, answer_format="qwen_vl_json")
    assert answer is None if not boxes else (answer.box_xyxy, answer.points_xy) == (boxes[0], ())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no JSON object"),
        (completion('{"a": 1}'), "no box"),
        (with_values(bbox=[1, 2, 3, math.inf]), "four numbers"),
        (completion('{"bbox": [1, 2, 3, 4]}'), "no points"),
        (with_values(points_1=[1]), "two numbers"),
    ],
)
def test_usable_answer_says_what_is_missing(text, part):
    answer, error = usable_answer(parse_completion(text))
    assert answer is None
    assert part in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<box>(1, 2),(3,4)</box><points>(1,2),(3,4)</points>",
        "<box>(-1,2),(3,4)</box><points>(1,2),(3,4)</points>",
        "<box>(1,2),(3,4)</box>",
        f"<box>({'9' * 5000},2),(3,4)</box><points>(1,2),(3,4)</points>",
        f"<box>({'9' * 500},2),(3,4)</box><points>(1,2),(3,4)</points>",
    ],
)
def test_unreadable_solutions_are_errors(text):
    with pytest.raises(InputError, match="solution"):
        parse_solution(text)


def test_solution_may_stand_inside_other_text():
    assert parse_solution(f"x {SOLUTION} y").box_xyxy == (100, 100, 200, 200)


PIECES = ("<think>", "</think>", "<answer>", "</answer>", " ", "\n", "a", "<", "{", "}", "{}", GOOD, '"', "[")
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=14).map("".join))


@given(texts)
@settings(max_examples=400, deadline=None)
def test_scans_find_what_the_released_expressions_find(text):
    parsed = parse_completion(text)
    full = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)
    assert parsed.thinking_format == (full is not None)
    think = re.search(r"<think>(.*?)</think>", text, re.DOTALL)
    assert parsed.thinking == (think.group(1).strip() if think else None)
    answer = re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)
    assert parsed.answer_text == (answer.group(1) if answer else None)
    braces = re.search(r"{[^}]+}", text)
    assert (parsed.payload_failure == "no_json") == (braces is None)
    plain = re.search(r"<think>([^<]+)</think>", text)
    reading = tolerant_reading(parsed, protocol="seg_zero_multi")
    assert reading.thinking == (plain.group(1) if plain else "")


def read_every_way(text):
    parsed = parse_completion(text)
    strict_reading(parsed)
    for protocol in ("seg_zero", "seg_zero_multi", "vision_reasoner"):
        tolerant_reading(parsed, protocol=protocol)
    for answer_format in ("pixelthink_json", "vision_reasoner_json", "qwen_vl_json"):
        usable_answer(parsed, answer_format=answer_format)
    boxes_failure(parsed)
    objects_reading(parsed)


any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
any_text = st.text(st.characters(exclude_categories=()))


@given(st.one_of(any_text, texts))
@settings(max_examples=300, deadline=None)
def test_no_text_raises(text):
    read_every_way(text)


@given(any_json, any_json, any_json)
@settings(max_examples=300, deadline=None)
def test_no_values_raise(box, first, second):
    read_every_way(with_values(bbox=box, points_1=first, points_2=second))
    read_every_way(completion(json.dumps([{"bbox_2d": box, "point_2d": first}, second])))


@pytest.mark.parametrize(
    "unit",
    [
        "{",
        "{}",
        "{a}",
        "{'a':1}",
        "<think>",
        "<think>a",
        "</think>",
        "</think> <answer>",
        "<answer>",
        "[",
        " ",
        '{"',
        "\ud800",
    ],
)
def test_a_megabyte_of_hostile_text_is_read_in_linear_time(unit):
    text = "<think>" + unit * (1_000_000 // len(unit)) + "</answer"
    start = time.perf_counter()
    read_every_way(text)
    assert time.perf_counter() - start < 3.0
