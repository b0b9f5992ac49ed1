"""Batches of scenes with prompts and masks: batch `k` is a pure function of (config, k), so a run resumes anywhere."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import jax
import numpy as np
from flax import struct
from jaxtyping import Bool, UInt8

from pixelthink_jax.data.shapes import ShapeReason, render, render_mask
from pixelthink_jax.data.targets import mask_box, mask_points
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.sam2.prompt_encoder import BOX_LABELS, NO_POINT, PAD_POINT, Prompts
from pixelthink_jax.train_segmenter.config import PromptConfig, SegmenterConfig

_PROMPT_TOKENS = 5
_AHEAD = 2


@struct.dataclass
class SceneBatch:
    """Scenes at the model's size, several prompts for each.

    Attributes:
        images: RGB bytes.
        prompts: In model pixels: two corners, two clicks and the pad point, some of them masked out.
        masks: The visible mask of each prompted object.
    """

    images: UInt8[AnyArray, "b S S 3"]
    prompts: Prompts
    masks: Bool[AnyArray, "b q S S"]


def scene_batches(config: SegmenterConfig, image_size: int, start: int) -> Generator[SceneBatch]:
    """Endless batches from number `start` on, drawn on a second thread and put on the device."""
    with ThreadPoolExecutor(1, thread_name_prefix="scenes") as thread:

        def draw(number: int) -> Future[SceneBatch]:
            return thread.submit(lambda: jax.device_put(make_batch(config, image_size, number)))

        ahead = deque(draw(start + i) for i in range(_AHEAD))
        for number in count(start + _AHEAD):
            batch = ahead.popleft().result()
            ahead.append(draw(number))
            yield batch


def make_batch(config: SegmenterConfig, image_size: int, number: int) -> SceneBatch:
    """Batch `number` of the run, as numpy arrays.

    Args:
        config: The run.
        image_size: Side of the model's input.
        number: Index of the batch, from 0.
    """
    world, rng = ShapeReason(config.split), np.random.default_rng([config.seed, number])
    size, per_scene = (image_size, image_size), config.prompts.objects
    images, masks, points, labels = [], [], [], []
    for place in range(config.batch_images):
        graph = world.asked((number * config.batch_images + place) % len(world)).graph
        images.append(render(graph.scene, size))
        # Fewer objects than prompts: some are asked for twice, with other jitter.
        order = np.resize(rng.permutation(len(graph.objects)), per_scene)
        for index in order:
            mask = render_mask(graph.scene, graph.scene.shapes.index(graph.objects[index].shape), size)
            places, kinds = draw_prompt(mask, config.prompts, rng)
            masks.append(mask)
            points.append(places)
            labels.append(kinds)
    batch = (config.batch_images, per_scene)
    prompts = Prompts(
        np.stack(points).reshape(*batch, _PROMPT_TOKENS, 2), np.stack(labels).reshape(*batch, _PROMPT_TOKENS)
    )
    return SceneBatch(np.stack(images), prompts, np.stack(masks).reshape(*batch, *size))


def draw_prompt(
    mask: Bool[np.ndarray, "S S"], config: PromptConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Corners, clicks and pad point of a mask, jittered, with the box or the clicks sometimes left out."""
    side = mask.shape[0] - 1
    box = np.array(mask_box(mask), np.float32).reshape(2, 2)
    clicks = np.array(mask_points(mask), np.float32)
    extent = box[1] - box[0] + 1
    if rng.random() >= config.exact_share:
        box = box + rng.normal(size=(2, 2)) * config.box_jitter * extent
        box = np.stack([box.min(axis=0), box.max(axis=0)])
        clicks = clicks + rng.normal(size=(2, 2)) * config.point_jitter * extent
    places = np.clip(np.concatenate([box, clicks, np.zeros((1, 2))]), 0, side).astype(np.float32)
    labels = np.array([*BOX_LABELS, 1, 1, PAD_POINT], np.int32)
    kind = rng.random()
    if kind < config.box_share:
        labels[2:4] = NO_POINT
    elif kind < config.box_share + config.points_share:
        labels[:2] = NO_POINT
    return places, labels
