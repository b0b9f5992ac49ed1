"""Batches of prompts on images, some of which come several times."""

import numpy as np
import pytest

from pixelthink_jax.answers import Target
from pixelthink_jax.segmentation import best_mask, best_masks
from tests.evaluation.tiny import tiny_segmenter


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((70, 90), (64, 50))]


def test_an_image_of_many_prompts_is_encoded_once_and_the_masks_are_those_of_each_by_itself(
    images, monkeypatch
):
    segmenter, encoded = tiny_segmenter(), []
    encode = segmenter._encode
    monkeypatch.setattr(segmenter, "_encode", lambda some: encoded.append(len(some)) or encode(some))
    boxes = [(5.0, 6.0, 40.0 + i, 44.0) for i in range(5)]
    group = [images[0]] * 3 + [images[1]] * 2
    asked = [(image, Target(box_xyxy=box, points_xy=())) for image, box in zip(group, boxes, strict=True)]
    found = list(best_masks(segmenter, asked))
    assert encoded == [2]
    for (image, target), (mask, score) in zip(asked, found, strict=True):
        alone, expected = best_mask(segmenter.predict(image, target.box_xyxy, None))
        assert score == pytest.approx(expected, rel=1e-5)
        assert mask.shape == image.shape[:2]
        np.testing.assert_array_equal(mask, alone)
