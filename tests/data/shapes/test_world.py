import json
import math
import re

import numpy as np
import pytest

from pixelthink_jax.data.shapes import OPENINGS, STYLES, ShapeReason
from pixelthink_jax.data.shapes.difficulty import distractors
from pixelthink_jax.data.shapes.scene import HELD_OUT_PAIRS
from pixelthink_jax.data.targets import box_to_frame, mask_box, mask_points, point_to_frame
from pixelthink_jax.rl.rewards import score_completion
from tests.data.shapes.plain_reading import answers, look

STRICT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
GENUINE_BOX = re.compile(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>")
GENUINE_POINTS = re.compile(r"<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>")
HELD_OUT_TYPES = {"closest", "between", "relation_to_same"}


@pytest.fixture(params=["train", "ood"])
def rows(request, many_rows):
    return many_rows.asked[request.param]


def tens(values):
    """To the nearest ten, halves up."""
    return [10 * math.floor(value / 10 + 0.5) for value in values]


def place(item):
    """How a chain says where an object is: middle and width of its box, in tens."""
    x1, y1, x2, y2 = item.box
    return "{} {} wide {}".format(*tens([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1]))


def test_mask_box_points_solution_and_completion_agree(rows):
    for _, row in rows:
        height, width = row.mask.shape
        assert row.image.shape == (height, width, 3) and row.image.dtype == np.uint8
        box = box_to_frame(mask_box(row.mask), width, height)
        points = mask_points(row.mask)
        assert all(row.mask[y, x] for x, y in points)
        framed = [list(point_to_frame(point, width, height)) for point in points]
        assert [int(v) for v in GENUINE_BOX.search(row.solution).groups()] == list(box)
        assert [int(v) for v in GENUINE_POINTS.search(row.solution).groups()] == sum(framed, [])
        assert STRICT.fullmatch(row.completion)
        answer = json.loads(re.search(r"{[^}]+}", row.completion)[0])
        assert answer == {"bbox": tens(box), "points_1": tens(framed[0]), "points_2": tens(framed[1])}


def test_the_written_answer_earns_the_whole_reward(rows):
    for _, row in rows:
        terms = score_completion(row.completion, row.solution, difficulty=4.0, uncertainty=0.0)
        assert terms.reward == 5.0, row.id


def test_every_question_has_one_answer_by_a_second_reading_of_its_words(rows):
    for asked, row in rows:
        assert answers(row.query, look(asked.graph)) == {asked.trace.answer}, row.query


def test_places_in_chains_are_those_of_the_scene(rows):
    for asked, row in rows:
        places = {f"at {place(o)} a {o.shape.phrase}" for o in asked.graph.objects}
        thought = row.completion.split("</think>")[0]
        stated = re.findall(r"at \d+ \d+ wide \d+ a (?:small|large) \w+ \w+", thought)
        assert set(stated) <= places
        style = row.metadata["style"]
        if style == "long":
            assert set(stated) == places
            target = asked.graph.objects[asked.trace.answer]
            assert thought.endswith(f" at {place(target)} a {target.shape.phrase}.")
        every = {f"at {place(o).partition(' wide')[0]}" for o in asked.graph.objects}
        assert set(re.findall(r"at \d+ \d+", thought)) <= every
        assert thought.removeprefix("<think>").startswith(OPENINGS[style])


def test_target_is_visible_and_has_rivals_that_share_attributes(rows):
    for asked, row in rows:
        assert row.metadata["target_visible"] >= 0.5
        assert distractors(asked.graph, asked.trace.answer)


def test_held_out_things_are_in_the_ood_split_and_nowhere_else(rows):
    for asked, row in rows:
        pairs = {(o.shape.colour, o.shape.kind) for o in asked.graph.objects} & HELD_OUT_PAIRS
        target = asked.graph.objects[asked.trace.answer].shape
        if row.id.startswith("ood"):
            assert row.metadata["novelty"]
            new_pair = (target.colour, target.kind) in HELD_OUT_PAIRS
            assert new_pair or asked.query.type in HELD_OUT_TYPES
        else:
            assert not pairs and asked.query.type not in HELD_OUT_TYPES
            assert row.metadata["novelty"] is None


def test_sub_scores_are_in_range_and_their_mean_gives_the_level(rows):
    for _, row in rows:
        scores = [row.metadata[name] for name in ("scene", "segmentation", "language")]
        assert all(1 <= score <= 10 for score in scores)
        assert row.difficulty == pytest.approx(np.mean(scores), abs=1e-3)
        assert row.level == ("easy" if row.difficulty < 3.5 else "hard" if row.difficulty >= 5 else "medium")


@pytest.mark.parametrize("split", ["train", "ood"])
def test_levels_are_thirds_with_the_same_object_counts(split, many_rows):
    counts = {level: [] for level in ("easy", "medium", "hard")}
    for level, count in many_rows.levels[split]:
        counts[level].append(count)
    total = len(many_rows.levels[split])
    for found in counts.values():
        assert len(found) / total == pytest.approx(1 / 3, abs=0.05)
    means = [np.mean(found) for found in counts.values()]
    assert max(means) - min(means) < 0.3


def test_rows_depend_on_seed_split_and_index_only():
    first, again = ShapeReason("test", seed=5)[7], ShapeReason("test", seed=5)[7]
    assert first.query == again.query and first.completion == again.completion
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image[:100, :100], ShapeReason("test", seed=6)[7].image[:100, :100])


def test_splits_share_no_scene():
    scenes = [
        ShapeReason(split).asked(i).graph.scene.shapes
        for split in ("train", "validation", "tuning", "test", "ood")
        for i in range(20)
    ]
    assert len(set(scenes)) == len(scenes)


def test_forcing_a_style_changes_the_thought_only():
    drawn = ShapeReason("test")[4]
    for style in STYLES:
        row = ShapeReason("test", chain_style=style)[4]
        assert (row.query, row.solution, row.metadata["style"]) == (drawn.query, drawn.solution, style)


def test_brief_rows_are_in_train_only_and_short(many_rows):
    rows = [row for _, row in many_rows.asked["train"]]
    brief = [row for row in rows if row.instruction]
    assert 0.07 < len(brief) / len(rows) < 0.17
    assert {row.metadata["style"] for row in brief} == {"none", "short"}
    assert not any(row.instruction for _, row in many_rows.asked["ood"])


def test_render_size_changes_picture_and_mask_but_no_text():
    full = ShapeReason("validation")[9]
    for size in ((112, 112), (1600, 1200)):
        row = ShapeReason("validation", render_size=size)[9]
        assert row.image.shape[:2] == row.mask.shape == size[::-1]
        assert (row.completion, row.solution, row.query) == (full.completion, full.solution, full.query)
        box = np.array(box_to_frame(mask_box(row.mask), *size))
        truth = np.array([int(v) for v in GENUINE_BOX.search(full.solution).groups()])
        assert np.abs(box - truth).max() <= 840 / 112 + 840 / 192 + 1


def test_listing_says_what_is_where_and_nothing_else():
    world = ShapeReason("train", task="listing", render_size=(32, 32))
    for i in range(12):
        row, graph = world[i], world.listed(i)
        said = [f"at {place(item)} a {item.shape.phrase}." for item in graph.objects]
        assert re.split(r" ?(?:first|second|third|fourth|fifth|sixth|seventh) ", row.completion)[1:] == said
        assert row.query == "list every shape" and row.image.shape == (32, 32, 3)
        assert row.solution is None and row.mask is None and row.difficulty is None


def test_pointing_gives_each_object_by_words_that_fit_it_alone():
    world, orders = ShapeReason("train", task="pointing", render_size=(32, 32)), set()
    for i in range(30):
        row, graph = world[i], world.listed(i)
        said = re.findall(r"([a-z ]+) at (\d+ \d+ \d+ \d+)\.", row.completion)
        assert " ".join(f"{words} at {box}." for words, box in said).replace("  ", " ") == row.completion
        found = []
        for words, box in said:
            (index,) = answers(words.strip(), look(graph))
            assert box == " ".join(map(str, tens(graph.objects[index].box)))
            found.append(index)
        assert len(set(found)) == len(found)
        asked = ", ".join(words.strip() for words, _ in said)
        assert row.query == f"point to {asked}" and row.solution is None
        orders.add(found == sorted(found))
    assert orders == {True, False}


def test_finding_asks_for_one_object_and_gives_its_box_alone():
    world, chosen = ShapeReason("train", task="finding", render_size=(32, 32)), set()
    for i in range(30):
        row, graph = world[i], world.listed(i)
        (index,) = answers(row.query.removeprefix("point to "), look(graph))
        assert row.completion == f"at {' '.join(map(str, tens(graph.objects[index].box)))}."
        assert row.solution is None
        chosen.add(index)
    assert len(chosen) > 2


@pytest.mark.parametrize("most", [1, 2, 4])
def test_listing_of_small_scenes_has_every_count_up_to_the_most(most):
    world = ShapeReason("train", task="listing", render_size=(32, 32), most_objects=most)
    assert {world[i].completion.count(" at ") for i in range(40)} == set(range(1, most + 1))


def test_most_objects_belongs_to_listing():
    for settings in ({"most_objects": 2}, {"most_objects": 0, "task": "listing"}):
        with pytest.raises(ValueError, match="expected at least 1, and a task that lists"):
            ShapeReason("train", **settings)


def test_brief_rows_all_ask_for_it_and_are_short():
    rows = [ShapeReason("train", brief=True)[i] for i in range(30)]
    assert {row.instruction for row in rows} == {"Be brief."}
    assert {row.metadata["style"] for row in rows} == {"none", "short"}
    forced = ShapeReason("train", brief=True, chain_style="none", level="easy")[0]
    assert forced.instruction == "Be brief." and "<think></think>" in forced.completion


def test_scene_examples_ask_several_things_of_one_picture():
    world = ShapeReason("train", seed=2)
    rows = world.scene_examples(11, limit=5)
    assert rows[0].completion == world[11].completion and len(rows) == 5
    assert len({row.id for row in rows}) == 5
    assert all(np.array_equal(row.image, rows[0].image) for row in rows)
    seen = look(world.asked(11).graph)
    for row in rows:
        (answer,) = answers(row.query, seen)
        assert np.array_equal(row.mask, world.asked(11).graph.mask(answer))


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"task": "caption"}, {"chain_style": "verbose"}])
def test_unknown_names_are_refused(wrong):
    with pytest.raises(ValueError, match="expected one of"):
        ShapeReason(**{"split": "train", **wrong})


def test_rows_outside_the_split_are_refused():
    with pytest.raises(IndexError):
        ShapeReason("test")[1000]
    assert ShapeReason("test")[-1].id == "test-0-999"
