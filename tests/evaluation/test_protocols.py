"""Protocols against what their published scripts do, case by case."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig
from pixelthink_jax.evaluation.metrics import intersection_union, mask_iou
from pixelthink_jax.evaluation.protocols import PROTOCOLS, evaluation_protocol, read_answer, score_mask
from pixelthink_jax.evaluation.rows import decode_mask
from pixelthink_jax.evaluation.runner import BadExample, Evaluator, evaluate_policy
from pixelthink_jax.processing.policy_format import PolicyFormat
from pixelthink_jax.types import Example
from tests.evaluation.tiny import BoxSegmenter, scripted_policy

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "samples" / "golden_reasonseg_format.json"
ANSWER = '{"bbox": [10, 20, 30, 41], "points_1": [11, 21], "points_2": [12, 22]}'
SEVERAL = '[{"bbox_2d": [0, 0, 420, 840], "point_2d": [1, 1]}, {"bbox_2d": [420, 0, 840, 840], "point_2d": [500, 1]}]'


def read(text: str, name: str, *, answer_format="pixelthink_json", image_size=(84, 42)):
    return read_answer(
        parse_completion(text),
        evaluation_protocol(name),
        PolicyFormat(answer_format=answer_format),
        image_size=image_size,
        model_size=(840, 840),
    )


def conventions(target: np.ndarray, prediction: np.ndarray) -> list[float]:
    return [mask_iou(prediction, target, ignore=how) for how in ("exclude", "target", "background")]


def test_ignored_pixels_of_a_mask_with_all_three_values():
    """20 target and 10 ignored pixels; the prediction has 15, 6 and 3 outside: counted by hand."""
    target = np.zeros((10, 10), np.uint8)
    target[:2], target[2] = 1, 255
    prediction = np.zeros((10, 10), bool)
    prediction.flat[5:26] = True
    prediction.flat[50:53] = True
    assert conventions(target, prediction) == pytest.approx([15 / 23, 21 / 33, 15 / 29])
    named = [
        score_mask(prediction, target, PROTOCOLS[name], answered=True, boxes=1)
        for name in ("pixelthink", "lisa", "seg_zero", "vision_reasoner", "lens")
    ]
    assert [(s.intersection, s.union) for s in named] == [(15, 23), (15, 23), (21, 33), (21, 33), (15, 29)]
    assert named[1].iou == pytest.approx(15 / (23 + 1e-5)) and named[1].iou < named[0].iou


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the shared samples are not here")
def test_the_conventions_on_a_genuine_mask():
    """The sample names its prediction by counts only: one with those counts scores what the sample says."""
    known = json.loads(GOLDEN.read_text())["example1"]
    size = (known["width"], known["height"])
    wanted, ignored = (decode_mask(known[f"{part}_rle"]["counts"], size) for part in ("target", "ignore"))
    target = np.where(ignored, 255, wanted).astype(np.uint8)
    assert (np.sum(target == 1), np.sum(target == 255)) == (known["n_target"], known["n_ignore"])
    expected = known["iou_of_lisa_pred"]
    hit, union = expected["lisa_I_U"]
    outside, inside_ignored = union - known["n_target"], expected["segzero_I_U"][0] - hit
    prediction = np.zeros(target.shape, bool)
    for value, count in ((1, hit), (255, inside_ignored), (0, outside)):
        prediction.flat[np.flatnonzero(target == value)[:count]] = True
    scores = conventions(target, prediction)
    names = ("lisa_ignore", "segzero_ignore_as_target", "lens_ignore_as_background")
    assert scores == pytest.approx([expected[name] for name in names], abs=1e-6)
    assert intersection_union(prediction, target, ignore="target") == tuple(expected["segzero_I_U"])


def test_seg_zero_reads_the_first_braces_and_wants_a_thought():
    inside = f"<think>the box {ANSWER} is it</think><answer>none</answer>"
    assert read(inside, "seg_zero").error is None
    for text, cause in (
        (f"<answer>{ANSWER}</answer>", "no_thinking"),
        (f"<think></think><answer>{ANSWER}</answer>", "no_thinking"),
        (f"<think>a {{b}} c</think><answer>{ANSWER}</answer>", "invalid_json"),
        (f"<think>a</think><answer>{ANSWER.replace('points_2', 'point_2')}</answer>", "no_points"),
    ):
        reading = read(text, "seg_zero")
        assert (reading.error, reading.targets, reading.thinking) == (cause, (), "")
    usable = read(f"<think></think><answer>{ANSWER}</answer>", "pixelthink")
    assert usable.error is None and len(usable.targets) == 1


def test_seg_zero_rounds_to_even_per_axis():
    """84 / 840 and 42 / 840: 10 -> 1.0, 30 -> 3.0; 20 -> 1.0, 41 -> 2.05; 5 -> 0.5, to 0, and 15 -> 1.5, to 2."""
    [target] = read(f"<think>a</think>{ANSWER}", "seg_zero").targets
    assert target.box_xyxy == (1.0, 1.0, 3.0, 2.0) and target.points_xy == ((1.0, 1.0), (1.0, 1.0))
    halves = f"<think>a</think>{ANSWER.replace('[11, 21]', '[5, 10]').replace('[12, 22]', '[15, 30]')}"
    assert read(halves, "seg_zero").targets[0].points_xy == ((0.0, 0.0), (2.0, 2.0))


def test_seg_zero_gives_the_segmenter_what_lies_outside():
    text = f"<think>a</think>{ANSWER.replace('[10, 20, 30, 41]', '[900, 900, 990, 990]')}"
    assert read(text, "seg_zero").targets[0].box_xyxy == (90.0, 45.0, 99.0, 50.0)
    assert read(text, "pixelthink").targets == () and "outside" in read(text, "pixelthink").error


def test_lists_of_objects_round_half_up():
    text = f"<think>two</think><answer>{SEVERAL}</answer>"
    for name, thinking in (("vision_reasoner", "<think>two</think>"), ("seg_zero_multi", "two")):
        reading = read(text, name, image_size=(85, 41))
        assert [t.box_xyxy for t in reading.targets] == [(0, 0, 43, 41), (43, 0, 85, 41)]
        assert [t.points_xy for t in reading.targets] == [((0, 0),), ((51, 0),)]
        assert reading.thinking == thinking
        assert read(f"<think>a</think><answer>{ANSWER}</answer>", name).error == "not_a_list"


def test_nothing_there_is_an_answer_where_the_format_can_say_it():
    text = "<think>none</think><answer>[]</answer>"
    assert read(text, "pixelthink", answer_format="vision_reasoner_json").error is None
    assert read(text, "pixelthink").error is not None
    assert read(text, "vision_reasoner").error is None


@pytest.mark.parametrize(
    ("name", "answered", "boxes", "expected"),
    [
        ("pixelthink", True, 1, (1.0, None)),
        ("pixelthink", False, 0, (0.0, None)),
        ("lisa", False, 0, (1.0, None)),
        ("seg_zero", True, 1, (0.0, "empty union")),
        ("seg_zero", False, 0, (0.0, None)),
        ("vision_reasoner", False, 0, (1.0, None)),
        ("vision_reasoner", True, 1, (0.0, None)),
    ],
)
def test_two_empty_masks(name, answered, boxes, expected):
    empty = np.zeros((3, 4), bool)
    found = score_mask(empty, empty, PROTOCOLS[name], answered=answered, boxes=boxes)
    assert ((found.iou, found.skipped), found.union) == (expected, 0)


def test_a_mask_of_another_size():
    mask, target = np.zeros((3, 4), bool), np.ones((4, 3), bool)
    found = score_mask(mask, target, PROTOCOLS["seg_zero"], answered=True, boxes=1)
    assert found.skipped == "mask and image differ in size"
    failed = score_mask(mask, target, PROTOCOLS["seg_zero"], answered=False, boxes=0)
    assert (failed.skipped, failed.iou, failed.union) == (None, 0.0, 12)
    for name in ("pixelthink", "vision_reasoner", "lisa"):
        with pytest.raises(InputError, match="its mask is 3x4 pixels, its image 4x3"):
            score_mask(mask, target, PROTOCOLS[name], answered=True, boxes=1)


def example(**changes) -> Example:
    mask = np.zeros((60, 80), bool)
    mask[10:30, 10:50] = True
    return Example(
        **{"id": "a", "image": np.zeros((60, 80, 3), np.uint8), "query": "the cup", "mask": mask} | changes
    )


def test_rows_say_what_was_skipped_and_what_failed():
    source = [
        example(id="good"),
        example(id="empty", mask=np.zeros((60, 80), bool), image=np.full((60, 80, 3), 5, np.uint8)),
        example(id="turned", mask=np.ones((80, 60), bool)),
        example(id="silent", image=np.full((60, 80, 3), 9, np.uint8)),
    ]
    far = ANSWER.replace("[10, 20, 30, 41]", "[900, 900, 990, 990]")
    said = {0: f"<think>a</think>{ANSWER}", 5: f"<think>a</think>{far}", 9: "<think>a</think>"}
    policy = scripted_policy(lambda image: said[int(image[0, 0, 0])])
    rows = evaluate_policy(policy, source, segmenter=BoxSegmenter(), protocol=PROTOCOLS["seg_zero"])
    assert [row.skipped for row in rows] == [None, "empty union", "mask and image differ in size", None]
    assert (rows[3].answer_error, rows[3].mask_iou, rows[3].union) == ("no_json", 0.0, 800)
    assert rows[0].protocol == "seg_zero" and rows[0].boxes_xyxy == [[1.0, 1.0, 3.0, 3.0]]
    assert decode_mask(rows[0].mask_counts, (80, 60)).sum() == rows[0].mask_pixels == 4

    evaluator = Evaluator(policy, BoxSegmenter(), keep_going=True)
    [window] = evaluator.windows([*source, example(id="mute", query=" ..")], range(5))
    bad = [item for item in window if isinstance(item, BadExample)]
    assert [item.index for item in bad] == [2, 4] and "example turned: its mask is 60x80" in bad[0].problem
    assert window[1].box_correct is False and window[1].target_pixels == 0


def test_the_better_of_several_boxes_counts_where_the_script_says_so():
    left = example(mask=np.indices((60, 80))[1] >= 40)
    policy = scripted_policy(lambda image: f"<think>two</think><answer>{SEVERAL}</answer>")
    source = [dataclasses.replace(left, solution="<box>(420,0),(840,840)</box><points>(1,2),(3,4)</points>")]
    [row] = evaluate_policy(policy, source, segmenter=BoxSegmenter(), protocol=PROTOCOLS["vision_reasoner"])
    assert row.box_correct and row.box_iou == pytest.approx(1.0) and row.mask_iou == 0.5


def test_every_protocol_is_documented_and_named_in_configs():
    for name, protocol in PROTOCOLS.items():
        assert EvalConfig(protocol=name).protocol == protocol.name and len(protocol.about) > 40
    with pytest.raises(InputError, match="expected one of pixelthink, seg_zero"):
        evaluation_protocol("coco")
