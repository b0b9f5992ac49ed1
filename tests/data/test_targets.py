import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from pixelthink_jax.data.targets import (
    box_to_frame,
    completion_text,
    mask_box,
    mask_points,
    point_to_frame,
    solution_text,
)

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"


def _upstream_points(mask):
    """The genuine steps on the whole mask, as plainly as they are described."""
    depth = distance_transform_edt(mask)
    y1, x1 = np.unravel_index(depth.argmax(), depth.shape)
    rows, columns = np.nonzero(mask)
    distance = np.sqrt((rows - y1) ** 2 + (columns - x1) ** 2)
    far = np.zeros(mask.shape, bool)
    far[rows[distance > np.median(distance)], columns[distance > np.median(distance)]] = True
    if not far.any():
        return None
    y2, x2 = np.unravel_index(np.where(far, depth, -1.0).argmax(), depth.shape)
    return (int(x1), int(y1)), (int(x2), int(y2))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 24), st.integers(2, 24), st.floats(0.1, 0.9))
def test_points_equal_the_plain_reading_on_any_mask(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[0, 0] = False
    if not mask.any():
        return
    points = mask_points(mask)
    assert all(mask[y, x] for x, y in points)
    plain = _upstream_points(mask)
    assert plain is None or points == plain


def test_a_single_pixel_gives_its_own_place_twice():
    mask = np.zeros((7, 9), bool)
    mask[3, 8] = True
    assert mask_box(mask) == (8, 3, 8, 3)
    assert mask_points(mask) == ((8, 3), (8, 3))


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty mask"):
        mask_box(np.zeros((4, 4), bool))


def test_braces_in_a_thought_are_refused():
    with pytest.raises(ValueError, match="no brace"):
        completion_text("{}", (1, 2, 3, 4), ((1, 2), (3, 4)))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="golden samples are not here")
def test_genuine_polygons_give_the_golden_targets():
    from pycocotools import mask as coco

    golden = json.loads((SAMPLES / "golden_refcoco_39769.json").read_text())
    layout = json.loads((SAMPLES / "mini_refcoco_39769.json").read_text())
    polygons = {a["id"]: a["segmentation"] for a in layout["instances"]["annotations"]}
    checked = 0
    for row in golden:
        if row["ann_id"] not in polygons:
            continue
        height, width = row["img_height"], row["img_width"]
        layers = coco.decode(coco.frPyObjects(polygons[row["ann_id"]], height, width))
        # The golden's own mask: overlapping polygons count as 2 and drop out upstream.
        mask = layers.sum(axis=2) == 1
        box, points = mask_box(mask), mask_points(mask)
        assert list(box) == row["bbox_xyxy_tutorial"]
        assert [list(point) for point in points] == [row["point_1"], row["point_2"]]
        framed = box_to_frame(box, width, height)
        pair = (point_to_frame(points[0], width, height), point_to_frame(points[1], width, height))
        assert list(framed) == row["bbox_840"] and [list(p) for p in pair] == row["points_840"]
        assert solution_text(framed, pair) == row["solution_segzero"]
        checked += 1
    assert checked >= 1
