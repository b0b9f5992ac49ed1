"""A policy over a dataset: every example one row, in any frame, and what the rows say is what the models said."""

import dataclasses
import json

import numpy as np
import pytest

from pixelthink_jax.answers import parse_solution
from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.data.shapes import STYLES, ShapeReason
from pixelthink_jax.data.sources import FirstExamples, open_source
from pixelthink_jax.data.targets import completion_text, mask_box
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig, Generation
from pixelthink_jax.evaluation.evaluation_page import example_cards
from pixelthink_jax.evaluation.length_table import forced_length_table, headline, style_prefix
from pixelthink_jax.evaluation.measures import level_measures
from pixelthink_jax.evaluation.protocols import PROTOCOLS
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.summary import summarise
from pixelthink_jax.processing.policy_format import FORMATS, PolicyFormat
from pixelthink_jax.segmentation.loading import model_folder
from tests.data.sources.genuine import write_grefcoco
from tests.evaluation.tiny import BoxSegmenter, scripted_policy, tiny_policy

SOURCE = FirstExamples(ShapeReason("test"), 7)
IMAGES = [SOURCE[i].image for i in range(len(SOURCE))]


def place(image: np.ndarray) -> int:
    """Which of the examples an image belongs to."""
    return next(i for i, known in enumerate(IMAGES) if np.array_equal(known, image))


def truth(image: np.ndarray) -> str:
    """The chain of the example and its solution to the last unit; its own answer is rounded to tens."""
    example = SOURCE[place(image)]
    thinking = (example.completion or "").partition("<think>")[2].partition("</think>")[0]
    solution = parse_solution(example.solution or "")
    box, points = ([int(v) for v in values] for values in (solution.box_xyxy, np.ravel(solution.points_xy)))
    return completion_text(thinking, tuple(box), (tuple(points[:2]), tuple(points[2:])))


def untimed(rows):
    """Rows without what a clock says."""
    return [dataclasses.replace(row, seconds={}) for row in rows]


def test_the_true_answers_score_full_marks():
    rows = evaluate_policy(scripted_policy(truth), SOURCE)
    assert [row.id for row in rows] == [SOURCE[i].id for i in range(7)]
    assert all(row.valid and row.box_iou == 1.0 and row.points_in_box for row in rows)
    words = [SOURCE[i].metadata["thinking_words"] for i in range(7)]
    assert [row.thinking_words for row in rows] == words
    assert all(row.mask_iou is None for row in rows)


def test_nothing_is_skipped():
    """Answers, silence, noise and a box outside the image, mixed: one row each, misses counted in full."""
    outside = '<think>a</think><answer>{"bbox": [900, 900, 950, 950], "points_1": [1, 1], "points_2": [2, 2]}</answer>'
    noise = ["", "<think>", "\x00{{}", outside]
    policy = scripted_policy(lambda image: noise[place(image)] if place(image) < 4 else truth(image))
    rows = evaluate_policy(policy, SOURCE, segmenter=BoxSegmenter(), generation=Generation(batch_size=3))
    assert len(rows) == 7
    for row, i in zip(rows, range(4), strict=False):
        assert (row.box_iou, row.mask_iou, row.intersection, row.union) == (0.0, 0.0, 0, SOURCE[i].mask.sum())
    assert [row.answer_error is None for row in rows] == [False] * 4 + [True] * 3
    assert "outside the image" in rows[3].answer_error and rows[3].valid
    assert all(row.mask_iou > 0.4 for row in rows[4:])  # a filled box over a shape
    assert summarise(rows)["all"].answered.value == 3 / 7


def test_batches_have_one_size_and_no_example_counts_twice():
    policy, segmenter, seen = scripted_policy(truth), BoxSegmenter(), []
    rows = evaluate_policy(
        policy,
        SOURCE,
        segmenter=segmenter,
        generation=Generation(batch_size=3, batches_in_flight=1),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert len(rows) == 7 and seen == [(3, 7), (6, 7), (7, 7)]
    assert [len(call["queries"]) for call in policy.calls] == [3, 3, 1]
    assert segmenter.batches == [8, 8, 8]
    alone = evaluate_policy(scripted_policy(truth), SOURCE, segmenter=BoxSegmenter())
    assert untimed(rows) == untimed(alone)


def test_the_longest_expected_go_first_and_rows_keep_their_order():
    policy = scripted_policy(truth)
    rows = evaluate_policy(policy, SOURCE, generation=Generation(batch_size=2, batches_in_flight=2))
    assert [row.index for row in rows] == list(range(7))
    first = policy.calls[0]["queries"]
    difficulties = {SOURCE[i].query: SOURCE[i].difficulty for i in range(4)}
    assert [difficulties[query] for query in first] == sorted(difficulties.values(), reverse=True)


@pytest.mark.parametrize("frame", ["rel1000", "pixels1260", "model_pixels"])
def test_the_frame_of_the_policy_is_taken_into_account(frame):
    """The same places written in another frame score the same."""
    side = {"rel1000": 1000, "pixels1260": 1260, "model_pixels": 56}[frame]
    other = scripted_policy(lambda image: _rescaled(truth(image), side / 840), format=_format(frame))
    rows = evaluate_policy(other, SOURCE, segmenter=BoxSegmenter())
    for row, known in zip(
        rows, evaluate_policy(scripted_policy(truth), SOURCE, segmenter=BoxSegmenter()), strict=True
    ):
        assert row.box_iou > 0.999 and row.mask_iou == pytest.approx(known.mask_iou, abs=0.02)


def _format(frame: str) -> PolicyFormat:
    own = tiny_policy().processor.format
    return PolicyFormat(coordinate_frame=frame, resize=own.resize, prompt=own.prompt)


def _rescaled(text: str, factor: float) -> str:
    head, _, tail = text.partition("<answer>")
    values = json.loads(tail.removesuffix("</answer>"))
    return f"{head}<answer>{json.dumps({k: [x * factor for x in v] for k, v in values.items()})}</answer>"


def test_several_objects_are_drawn_together():
    own = tiny_policy().processor.format
    format = PolicyFormat(resize=own.resize, prompt=own.prompt, answer_format="vision_reasoner_json")
    objects = [
        {"bbox_2d": [0, 0, 420, 840], "point_2d": [1, 1]},
        {"bbox_2d": [420, 0, 840, 840], "point_2d": [500, 1]},
    ]
    policy = scripted_policy(
        lambda image: f"<think>two</think><answer>{json.dumps(objects)}</answer>", format=format
    )
    [row] = evaluate_policy(policy, FirstExamples(SOURCE, 1), segmenter=BoxSegmenter())
    height, width = IMAGES[0].shape[:2]
    assert row.valid and row.union == height * width and row.intersection == SOURCE[0].mask.sum()


def test_an_untuned_model_gives_boxes_in_pixels_of_the_image_it_sees():
    """The zero-shot baseline: its own frame is that of the resized picture, and masks are drawn from boxes alone."""
    source = FirstExamples(SOURCE, 2)
    policy = scripted_policy(lambda image: json.dumps(own_boxes(image)), format=FORMATS["qwen_vl"])

    def own_boxes(image):
        height, width = policy.processor.resize(image).shape[:2]
        x1, y1, x2, y2 = mask_box(SOURCE[place(image)].mask == 1)
        fx, fy = width / image.shape[1], height / image.shape[0]
        whole = [x1 * fx, y1 * fy, (x2 + 1) * fx, (y2 + 1) * fy]
        return [{"bbox_2d": whole, "label": "it"}, {"bbox_2d": whole[:3], "label": "broken"}]

    segmenter = BoxSegmenter()
    rows = evaluate_policy(policy, source, segmenter=segmenter, protocol=PROTOCOLS["zero_shot"])
    assert all(row.box_correct and row.points_xy == [[]] and not row.points_in_box for row in rows)
    assert all(row.failure == "object_values" and row.thinking_tokens == 0 for row in rows)
    assert example_cards(rows, source)  # a page pictures a box without points
    nothing = scripted_policy(lambda image: "```json\n[]\n```", format=FORMATS["qwen_vl"])
    [row] = evaluate_policy(nothing, FirstExamples(SOURCE, 1), segmenter=segmenter)
    assert row.answer_error is None and row.valid and row.mask_iou == 0.0


@pytest.mark.parametrize("protocol", ["gres", "pixelthink", "vision_reasoner"])
def test_questions_without_a_target_are_counted_apart(tmp_path, protocol):
    """gRefCOCO through its reader: N-Acc and T-Acc of a policy that finds nothing, and of one that always points."""
    source = open_source("grefcoco", path=write_grefcoco(tmp_path))
    own = tiny_policy().processor.format
    format = PolicyFormat(resize=own.resize, prompt=own.prompt, answer_format="vision_reasoner_json")
    everything = '[{"bbox_2d": [0, 0, 840, 840], "point_2d": [1, 1]}]'
    for answer, missing, found in (("[]", 1.0, 0.0), (everything, 0.0, 1.0)):
        policy = scripted_policy(
            lambda image, a=answer: f"<think>x</think><answer>{a}</answer>", format=format
        )
        rows = evaluate_policy(policy, source, segmenter=BoxSegmenter(), protocol=PROTOCOLS[protocol])
        measures = level_measures(rows)["all"]
        assert measures.no_target is not None and measures.no_target.value == missing
        assert measures.target_found is not None and measures.target_found.value == found
        assert [row.box_correct for row in rows][2] == bool(missing)
        assert [row.target_pixels for row in rows].count(0) == 1


def test_how_the_policy_is_asked():
    policy = scripted_policy(truth)
    generation = Generation(
        max_new_tokens=9, completion_prefix="<think>Hm", instruction="Be brief.", max_thinking_tokens=4
    )
    evaluate_policy(policy, FirstExamples(SOURCE, 2), generation=generation)
    [call] = policy.calls
    assert sorted(call.pop("queries")) == sorted([SOURCE[0].query, SOURCE[1].query])
    assert call == {
        "max_new_tokens": 9,
        "completion_prefix": "<think>Hm",
        "instructions": ["Be brief.", "Be brief."],
        "max_thinking_tokens": 4,
        "batch_size": 32,
    }


def test_the_table_asks_once_for_each_style(tmp_path):
    policy, seen = scripted_policy(truth), []
    table = forced_length_table(
        policy,
        SOURCE,
        styles=("free", "none", "long"),
        segmenter=BoxSegmenter(),
        on_progress=lambda *row: seen.append(row),
    )
    assert [call["completion_prefix"] for call in policy.calls] == [
        "",
        "<think></think>\n",
        "<think>There are",
    ]
    assert seen == [("free", 7, 7), ("none", 7, 7), ("long", 7, 7)]
    levels = [level for level in ("easy", "medium", "hard") if level in {SOURCE[i].level for i in range(7)}]
    lines = table.markdown().splitlines()
    assert len(lines) == 2 + 3 * (len(levels) + 1)
    assert lines[2].startswith("| free | easy |") and " 100.0 (100.0 to 100.0) |" in lines[2]
    assert len(headline(table.summaries["free"]).splitlines()) == len(levels) + 2

    table.save(tmp_path / "new" / "out", about={"split": "test"})
    saved = json.loads((tmp_path / "new" / "out" / "summary.json").read_text())
    assert saved["about"] == {"split": "test"}
    assert saved["styles"]["long"]["all"]["box_accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    rows = (tmp_path / "new" / "out" / "rows_long.jsonl").read_text().splitlines()
    assert len(rows) == 7 and json.loads(rows[0])["text"] == truth(IMAGES[0])
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "rows_free.jsonl",
        "rows_long.jsonl",
        "rows_none.jsonl",
        "summary.json",
        "table.md",
    ]


@pytest.mark.parametrize("style", STYLES)
def test_a_forced_beginning_is_that_of_the_chains_token_by_token(style):
    """A prefix cut inside a token would show the policy something it has never seen."""
    tokenizer, world = tiny_policy().processor.tokenizer, ShapeReason("tuning", chain_style=style)
    prefix = tokenizer.encode(style_prefix(style))
    for i in range(5):
        assert tokenizer.encode(world[i].completion or "")[: len(prefix)].tolist() == prefix.tolist()


def test_settings_that_cannot_be():
    with pytest.raises(InputError, match="styles must name each style once"):
        EvalConfig(styles=("free", "free"))
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        Generation(batch_size=0)
    with pytest.raises(InputError, match="jsonl needs a path"):
        DatasetConfig(name="jsonl")
    with pytest.raises(InputError, match=r"data.examples must be at least 1"):
        DatasetConfig(examples=0)
    with pytest.raises(InputError, match="model nowhere: no such folder"):
        model_folder("nowhere")
