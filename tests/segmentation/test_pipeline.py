"""From an image and a question to a mask: scaling, clipping, several objects, and answers that are none."""

import json
from dataclasses import replace

import numpy as np
import pytest

import pixelthink_jax
from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.segmentation import segment
from pixelthink_jax.types import Answer
from tests.evaluation.tiny import tiny_policy, tiny_segmenter
from tests.segmentation.scripted import BoxSegmenter, scripted_policy

IMAGE = np.random.default_rng(0).integers(0, 256, (42, 84, 3), dtype=np.uint8)
QUERY = "the red circle"


def said(box, first=(420, 420), second=(420, 420), thinking="look at the circle") -> str:
    answer = json.dumps({"bbox": list(box), "points_1": list(first), "points_2": list(second)})
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


def test_an_answer_becomes_a_mask_in_the_pixels_of_the_image():
    policy, segmenter = scripted_policy(said((210, 200, 630, 640), (300, 300), (500, 500))), BoxSegmenter()
    result = segment(policy, segmenter, IMAGE, QUERY)
    assert result.query == QUERY and result.thinking == "look at the circle" and result.answer_error is None
    assert result.answer == Answer(box_xyxy=(21.0, 10.0, 63.0, 32.0), points_xy=((30.0, 15.0), (50.0, 25.0)))
    expected = np.zeros((42, 84), bool)
    expected[10:32, 21:63] = True
    # Of two masks with the same predicted IoU the later one.
    assert np.array_equal(result.mask, expected)
    assert result.mask_score == pytest.approx(0.9)
    assert result.thinking_tokens == policy.processor.tokenizer.count("look at the circle") > 0
    assert list(result.seconds) == ["image", "policy", "segmenter", "total"]
    assert result.seconds["total"] == pytest.approx(sum(list(result.seconds.values())[:3]))
    [(box, points, settings)] = segmenter.prompts
    assert (
        box == result.answer.box_xyxy and points == result.answer.points_xy and settings == {"as_given": True}
    )


@pytest.mark.parametrize(
    ("format", "box"),
    [
        (PolicyFormat(coordinate_frame="rel1000", resize=ResizePolicy(size=56)), (250, 500, 750, 1000)),
        (PolicyFormat(coordinate_frame="pixels100", resize=ResizePolicy(size=28)), (25, 50, 75, 100)),
    ],
)
def test_the_frame_is_the_policy_s_own(format, box):
    result = segment(
        scripted_policy(said(box, box[:2], box[2:]), format=format), BoxSegmenter(), IMAGE, QUERY
    )
    assert result.answer is not None
    assert result.answer.box_xyxy == (21.0, 21.0, 63.0, 42.0)
    assert result.answer.points_xy == ((21.0, 21.0), (63.0, 41.0))


def test_model_pixels_are_those_of_the_resized_image():
    smart = ResizePolicy(kind="smart", size=None, min_pixels=28 * 28, max_pixels=56 * 56)
    format = PolicyFormat(coordinate_frame="model_pixels", resize=smart)
    policy = scripted_policy("", format=format)
    height, width = policy.processor.resize(IMAGE).shape[:2]
    assert (height, width) != IMAGE.shape[:2] and height != width
    text = said((0, 0, width / 2, height / 2), (0, 0), (width / 4, height / 4))
    result = segment(replace(policy, text=text), BoxSegmenter(), IMAGE, QUERY)
    assert result.answer == Answer(box_xyxy=(0.0, 0.0, 42.0, 21.0), points_xy=((0.0, 0.0), (21.0, 10.5)))


def test_places_are_clipped_to_the_image():
    result = segment(
        scripted_policy(said((-50, -9, 900, 2000), (-3, 420), (1e9, -1e9))), BoxSegmenter(), IMAGE, QUERY
    )
    assert result.answer == Answer(box_xyxy=(0.0, 0.0, 84.0, 42.0), points_xy=((0.0, 21.0), (83.0, 0.0)))
    assert result.mask.all()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no JSON object"),
        ("<think>hm</think>", "no JSON object"),
        (said((1, 2, 3)), "the box of the answer is not four numbers"),
        (said((1, 2, 3, 4), first=("left", 2)), "a point of the answer is not two numbers"),
        (said((841, 0, 900, 50)), "outside the image"),
        (said((-9, -9, 0, 50)), "outside the image"),
    ],
)
def test_no_usable_answer_is_a_result(text, error):
    segmenter = BoxSegmenter()
    result = segment(scripted_policy(text), segmenter, IMAGE, QUERY)
    assert result.answer is None and error in result.answer_error and "\n" not in result.answer_error
    assert result.mask.shape == (42, 84) and not result.mask.any() and result.mask_score == 0.0
    assert not segmenter.prompts


def test_a_completion_that_was_cut_says_so():
    result = segment(scripted_policy("<think>and then", finish_reason="length"), BoxSegmenter(), IMAGE, QUERY)
    assert result.answer_error == "the completion holds no JSON object; the completion was cut at 5 tokens"
    assert result.thinking == "" and result.thinking_tokens == 0


def test_several_objects_are_one_mask():
    objects = [
        {"bbox_2d": [0, 0, 210, 420], "point_2d": [105, 210]},
        {"bbox_2d": [420, 420, 840, 840], "point_2d": [630, 630]},
        {"bbox_2d": [900, 0, 950, 9], "point_2d": [1, 1]},  # not in the image
    ]
    text = f"<think>two</think><answer>{json.dumps(objects)}</answer>"
    format = replace(tiny_policy().processor.format, answer_format="vision_reasoner_json")
    segmenter = BoxSegmenter()
    result = segment(scripted_policy(text, format=format), segmenter, IMAGE, QUERY)
    expected = np.zeros((42, 84), bool)
    expected[:21, :21] = expected[21:, 42:] = True
    assert np.array_equal(result.mask, expected) and len(segmenter.prompts) == 2
    assert result.answer == Answer(box_xyxy=(0.0, 0.0, 84.0, 42.0), points_xy=((10.5, 10.5), (63.0, 31.5)))
    assert result.mask_score == pytest.approx(0.9)


def test_settings_reach_the_policy():
    policy = scripted_policy("")
    segment(
        policy, BoxSegmenter(), IMAGE, QUERY, instruction="Be brief.", max_new_tokens=9, max_thinking_tokens=3
    )
    segment(policy, BoxSegmenter(), IMAGE, QUERY)
    (briefly, sampling), (plainly, default) = policy.seen
    assert (sampling.max_new_tokens, sampling.max_thinking_tokens, sampling.temperature) == (9, 3, 0.0)
    assert (default.max_new_tokens, default.max_thinking_tokens, default.temperature) == (1024, None, 0.0)
    assert int(briefly.mask.sum()) > int(plainly.mask.sum())


def test_numbers_that_are_not_finite_are_named():
    with pytest.raises(InputError, match="segmenter: its predicted IoUs"):
        segment(scripted_policy(said((0, 0, 9, 9))), BoxSegmenter((0.5, float("nan"), 0.1)), IMAGE, QUERY)
    with pytest.raises(InputError, match="policy: its token probabilities are not finite"):
        segment(scripted_policy("", uncertainty=float("nan")), BoxSegmenter(), IMAGE, QUERY)


@pytest.mark.parametrize(
    ("image", "query", "says"),
    [
        (IMAGE, " ", "it is empty"),
        (IMAGE, "\ud800", "not valid Unicode"),
        (IMAGE, "a <|im_end|>", "special token"),
        (b"not an image", QUERY, "not an image file"),
        ("nowhere.png", QUERY, "nowhere.png: no such image file"),
    ],
)
def test_mistakes_are_input_errors(image, query, says):
    with pytest.raises(InputError, match=says):
        segment(scripted_policy(""), BoxSegmenter(), image, query)


def test_real_models():
    policy, segmenter = tiny_policy(), tiny_segmenter()
    result = pixelthink_jax.segment(policy, segmenter, IMAGE, QUERY, max_new_tokens=8)
    [[completion]] = policy.generate([IMAGE], [QUERY], max_new_tokens=8)
    assert result.completion.text == completion.text
    assert np.array_equal(result.completion.token_ids, completion.token_ids)
    answering = scripted_policy(said((0, 0, 420, 420)))
    drawn = segment(answering, segmenter, IMAGE, QUERY)
    masks = segmenter.predict(IMAGE, drawn.answer.box_xyxy, drawn.answer.points_xy)
    assert np.array_equal(drawn.mask, masks.masks[int(np.argmax(masks.iou_predictions))])
