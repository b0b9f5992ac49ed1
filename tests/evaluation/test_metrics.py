"""Masks and boxes measured against counting by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelthink_jax.evaluation.metrics import box_iou, ciou, giou, intersection_union, mask_iou

boxes = st.tuples(*[st.integers(0, 40)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def test_masks_are_counted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    prediction, target = rng.random((2, 7, 9)) < 0.4
    both = sum(a and b for a, b in zip(prediction.flat, target.flat, strict=True))
    either = sum(a or b for a, b in zip(prediction.flat, target.flat, strict=True))
    assert intersection_union(prediction, target) == (both, either)
    assert mask_iou(prediction, target) == both / either


@pytest.mark.parametrize(
    ("ignore", "expected"), [("exclude", (1, 2)), ("target", (2, 4)), ("background", (1, 3))]
)
def test_ignored_pixels_by_convention(ignore, expected):
    target = np.array([[1, 255, 255, 1, 0]], np.uint8)
    prediction = np.array([[True, True, False, False, False]])
    assert intersection_union(prediction, target, ignore=ignore) == expected


def test_two_empty_masks_agree_and_sizes_must():
    empty = np.zeros((2, 3), bool)
    assert mask_iou(empty, empty) == 1.0
    with pytest.raises((ValueError, TypeError)):  # the latter where annotations are checked
        mask_iou(empty, empty.T)


def test_dataset_metrics():
    assert giou([1.0, 0.0, 0.5]) == 0.5
    assert ciou([10, 0], [10, 90]) == 0.1  # large objects weigh more than in the mean
    assert math.isnan(giou([])) and math.isnan(ciou([], []))


@settings(max_examples=40)
@given(boxes, boxes)
def test_box_iou_counts_inclusive_pixels(first, second):
    """Where boxes overlap in more than a line, the IoU is that of their filled pixels."""
    grids = []
    for x1, y1, x2, y2 in (first, second):
        grid = np.zeros((41, 41), bool)
        grid[y1 : y2 + 1, x1 : x2 + 1] = True
        grids.append(grid)
    wide = min(first[2], second[2]) > max(first[0], second[0])
    high = min(first[3], second[3]) > max(first[1], second[1])
    expected = mask_iou(*grids) if wide and high else 0.0
    assert box_iou(tuple(map(float, first)), tuple(map(float, second))) == pytest.approx(expected)
