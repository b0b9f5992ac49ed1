"""The segmenter run: its prompts, its loss, and a run that was killed against one that was not."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.config import from_tree
from pixelthink_jax.data.targets import mask_box, mask_points
from pixelthink_jax.errors import InputError
from pixelthink_jax.models.sam2.model import init_params
from pixelthink_jax.models.sam2.prompt_encoder import BOX_LABELS, NO_POINT, PAD_POINT
from pixelthink_jax.runtime.run_log import read_log
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.train_segmenter import SegmenterConfig, evaluate_segmenter, run, run_train_segmenter
from pixelthink_jax.train_segmenter.batches import draw_prompt, make_batch, scene_batches
from pixelthink_jax.train_segmenter.config import PromptConfig
from pixelthink_jax.train_segmenter.loss import binary_iou, dice_loss, focal_loss
from tests.runtime.store import store  # noqa: F401 - a fixture

MODEL = {
    "image_size": 64,
    "depths": [1, 1, 2, 1],
    "widths": [8, 16, 24, 32],
    "heads": [1, 1, 1, 2],
    "windows": [8, 4, 4, 2],
    "global_blocks": [3],
    "embed_dim": 16,
    "mask_channels": 4,
    "decoder_heads": 2,
    "decoder_mlp": 16,
    "iou_width": 16,
}


def config(out: Path | str, **values: Any) -> SegmenterConfig:
    tree = {
        "out": str(out),
        "steps": 4,
        "model": MODEL,
        "optim": {"learning_rate": 1e-3, "weight_decay": 0.1},
        "batch_images": 2,
        "prompts": {"objects": 2},
        "held_out_scenes": 2,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return from_tree(SegmenterConfig, {**tree, **values})


@pytest.fixture(autouse=True, scope="module")
def compiled_once() -> Iterator[None]:
    """Runs of one model, optimizer and length get the same compiled step: it follows from them alone."""
    made, original = {}, run.make_train_step

    def make_train_step(model, config, optimizer):
        key = (model, config.optim, config.steps)
        return made.setdefault(key, original(model, config, optimizer))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_train_step", make_train_step)
        yield


def same_leaves(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


class Killed(Exception):
    """Ends a run from outside."""


def test_a_killed_run_continues_to_the_same_segmenter_here_and_on_a_store(tmp_path, store):  # noqa: F811
    def kill(step: int, _: dict[str, float]) -> None:
        if step == 3:
            raise Killed

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = run_train_segmenter(config(tmp_path / "whole"))
    held_out = whole.held_out
    stopped = run_train_segmenter(config("fake://cut"), on_log=stop)
    assert (stopped.steps, stopped.held_out) == (1, {})
    assert (store / "cut" / "checkpoints" / "1").is_dir()
    with pytest.raises(Killed):
        run_train_segmenter(config("fake://cut"), on_log=kill)
    continued = run_train_segmenter(config("fake://cut"))
    assert continued.steps == whole.steps == 4
    same_leaves(whole.segmenter.params, continued.segmenter.params)
    rows = [[row["loss"] for row in read_log(folder)] for folder in (tmp_path / "whole", store / "cut")]
    assert len(rows[0]) == 4 and rows[0] == rows[1]
    assert json.loads((tmp_path / "whole" / "held_out.json").read_text()) == held_out
    exported = Segmenter.from_pretrained(tmp_path / "whole" / "segmenter")
    assert evaluate_segmenter(exported, scenes=2) == held_out
    assert 0 <= held_out["iou"] <= 1 and 0 <= held_out["iou_below_half"] <= 1


def test_a_run_learns_and_keeps_its_frequencies(tmp_path):
    losses = {}
    trained = run_train_segmenter(
        config(tmp_path, steps=30, held_out_scenes=0, optim={"learning_rate": 3e-3}),
        on_log=lambda step, row: losses.update({step: row["loss"]}),
    ).segmenter
    assert np.mean([losses[s] for s in range(25, 31)]) < 0.8 * np.mean([losses[s] for s in range(1, 4)])
    frequencies = [
        leaf
        for params in (trained.params, init_params(trained.config, jax.random.key(0)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "positional_embedding"
    ]
    half = len(frequencies) // 2
    assert half
    same_leaves(frequencies[:half], frequencies[half:])


def test_continues_from_a_segmenter_folder(tmp_path):
    first = run_train_segmenter(config(tmp_path / "first", held_out_scenes=0)).segmenter
    folder = str(tmp_path / "first" / "segmenter")
    second = run_train_segmenter(
        config(tmp_path / "second", model=None, segmenter=folder, held_out_scenes=0)
    ).segmenter
    assert second.config == first.config
    pairs = zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
    moved = [float(jnp.abs(before - after).max()) for before, after in pairs]
    assert 0 < max(moved) < 0.05


def test_batches_depend_on_their_number_only(tmp_path):
    settings = config(tmp_path)
    batches = scene_batches(settings, 64, 5)
    for number in (5, 6, 7):
        same_leaves(next(batches), make_batch(settings, 64, number))
    batches.close()


def test_exact_prompts_are_the_box_and_points_of_the_mask():
    mask = np.zeros((32, 32), bool)
    mask[4:20, 10:25] = True
    exact = PromptConfig(exact_share=1.0, box_share=0.0, points_share=0.0)
    places, labels = draw_prompt(mask, exact, np.random.default_rng(0))
    np.testing.assert_array_equal(places[:2].reshape(-1), mask_box(mask))
    np.testing.assert_array_equal(places[2:4], mask_points(mask))
    assert labels.tolist() == [*BOX_LABELS, 1, 1, PAD_POINT]


def test_prompts_lose_their_box_or_points_in_the_shares_asked_for():
    mask = np.zeros((32, 32), bool)
    mask[4:20, 10:25] = True
    rng, seen = np.random.default_rng(0), []
    for _ in range(2000):
        places, labels = draw_prompt(mask, PromptConfig(box_share=0.2, points_share=0.3), rng)
        assert (places >= 0).all() and (places <= 31).all()
        assert (places[0] <= places[1]).all()
        seen.append((labels[0] == NO_POINT, labels[2] == NO_POINT))
    without_box, without_points = np.mean(seen, axis=0)
    assert abs(without_box - 0.3) < 0.04 and abs(without_points - 0.2) < 0.04
    assert not any(a and b for a, b in seen)


def test_losses_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 5, 7)), rng.integers(0, 2, (3, 5, 7)).astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    true = np.where(target > 0.5, p, 1 - p)
    focal = focal_loss(jnp.asarray(logits), jnp.asarray(target), 2.0)
    np.testing.assert_allclose(focal, np.mean(-((1 - true) ** 2) * np.log(true), axis=(1, 2)), rtol=1e-5)
    plain = focal_loss(jnp.asarray(logits), jnp.asarray(target), 0.0)
    np.testing.assert_allclose(plain, np.mean(-np.log(true), axis=(1, 2)), rtol=1e-5)
    dice = 1 - (2 * (p * target).sum((1, 2)) + 1) / ((p + target).sum((1, 2)) + 1)
    np.testing.assert_allclose(dice_loss(jnp.asarray(logits), jnp.asarray(target)), dice, rtol=1e-5)
    empty = jnp.zeros((2, 2), bool)
    assert float(binary_iou(empty, empty)) == 0.0
    assert float(binary_iou(empty.at[0].set(True), empty.at[0, 0].set(True))) == 0.5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model": None}, "exactly one of segmenter"),
        ({"steps": 0}, "at least 1"),
        ({"prompts": {"box_share": 0.7, "points_share": 0.7}}, "within 0 to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, values, says):
    with pytest.raises(InputError, match=says):
        config(tmp_path, **values)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(InputError, match=r"the loss is .*; lower optim.learning_rate"):
        run_train_segmenter(config(tmp_path, steps=20, optim={"learning_rate": 1e30}))
