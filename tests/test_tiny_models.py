"""The two models that travel with the package: their size, their cards, and that they do what the cards say."""

from pathlib import Path

import numpy as np
import pytest

from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.segmentation import default_folder, load_models, segment
from pixelthink_jax.segmentation.loading import TINY_POLICY, TINY_SEGMENTER
from pixelthink_jax.train_segmenter import evaluate_segmenter

NAMES = (TINY_POLICY, TINY_SEGMENTER)
SCENES = 24


@pytest.fixture(scope="module")
def models():
    return load_models(None, None)


def test_both_are_small_and_have_a_card():
    files = [path for name in NAMES for path in Path(default_folder(name)).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    for name in NAMES:
        card = (Path(default_folder(name)) / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\nlicense: apache-2.0\n") and f"# {name}\n" in card
        assert "## How it was made" in card and "## Held-out numbers" in card


def test_the_policy_answers_held_out_scenes_at_length(models):
    """Far below the numbers of the card, so that few scenes suffice, and far above chance."""
    rows = evaluate_policy(
        models[0],
        open_source("shapereason", split="test", examples=SCENES),
        segmenter=models[1],
        generation=Generation(max_new_tokens=512, batch_size=SCENES),
    )
    assert np.mean([row.valid for row in rows]) > 0.9
    assert np.mean([row.box_correct for row in rows]) > 0.5
    assert np.mean([row.mask_iou for row in rows]) > 0.4
    assert np.mean([row.thinking_words for row in rows]) > 80


def test_the_segmenter_draws_held_out_scenes(models):
    assert evaluate_segmenter(models[1], scenes=16, split="test")["iou"] > 0.85


def test_be_brief_is_understood(models):
    scene = ShapeReason("test")[0]
    free, brief = (
        models[0].generate([scene.image], [scene.query], max_new_tokens=512, instructions=[words])[0][0]
        for words in (None, "Be brief.")
    )
    assert len(brief.token_ids) < len(free.token_ids) / 2


def test_a_picture_of_any_size_gets_a_mask_of_its_size(models):
    scene = ShapeReason("test", render_size=(640, 360))[1]
    result = segment(*models, scene.image, scene.query)
    assert result.mask.shape == scene.image.shape[:2]
    assert result.answer is None or result.mask.any()
