"""The checks of `pixelthink verify`, each done as it is asked for.

A folder that cannot be loaded is an `InputError`, not a failed check: its message already holds the remedy.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pixelthink_jax.answers import Target, parse_completion, usable_targets
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.targets import mask_box, mask_points
from pixelthink_jax.models.sam2.resize import apply_matrices, resize_matrix
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.policy_format import frame_size
from pixelthink_jax.segmentation import answer_in_image, best_mask, load_policy, load_segmenter
from pixelthink_jax.segmentation.loading import Dtype
from pixelthink_jax.segmenter import LOGIT_LIMIT, Segmenter, normalise
from pixelthink_jax.types import Completion, Example
from pixelthink_jax.verify.yardstick import TransformersPolicy, TransformersSegmenter

State = Literal["ok", "warn", "fail"]

# Largest difference over largest value that rounding explains, by dtype of the computation.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
# A prompted segmenter that works draws a plain shape far better than this.
_LEAST_IOU = 0.5
_MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        state: `fail` if the weights do not work here, `warn` if they compute but their answer is not a good one.
        what: The thing.
        says: What was found, and what it means where it is not as it should be.
    """

    state: State
    what: str
    says: str


@cache
def known_scene() -> Example:
    """A drawn image with an easy question, whose true mask is known: the same one everywhere."""
    world = ShapeReason("validation")
    return next(row for row in world if row.level == "easy")


def verify_policy(
    folder: Path | None,
    *,
    dtype: Dtype = "auto",
    against: bool = False,
    max_new_tokens: int = _MAX_NEW_TOKENS,
) -> Iterator[Check]:
    """Loads a policy and asks it about the known scene.

    Args:
        folder: Hugging Face folder; None takes the tiny policy.
        dtype: Of parameters and computation.
        against: Compare its logits with transformers' in PyTorch.
        max_new_tokens: Longest completion.

    Raises:
        InputError: The folder cannot be loaded, or PyTorch is not installed.
    """
    start = time.perf_counter()
    policy = load_policy(folder, dtype=dtype)
    yield _weights("policy", policy.params, time.perf_counter() - start)
    scene = known_scene()
    prompt = policy.processor.prompt(scene.image, scene.query)
    batch = policy.processor.batch([prompt])
    pixel_values = np.asarray(policy.processor.pixel_values(batch))
    arrays = (batch.input_ids, batch.attention_mask, pixel_values, batch.image_grid_thw)
    # Without this a GPU multiplies float32 matrices in a shorter format.
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(policy.logits(*arrays))
    yield _finite("policy logits", logits)
    [[completion]] = policy.generate([scene.image], [scene.query], max_new_tokens=max_new_tokens)
    yield _greedy_text(completion)
    yield _coordinates(policy, completion, prompt.model_size, scene)
    if against:
        source, name = policy.folder, _dtype_name(policy.params)
        del policy  # Both in memory at once would be twice the model.
        assert source is not None
        reference = TransformersPolicy(source, dtype=name).logits(*arrays)
        yield _difference("policy against transformers", logits, reference, TOLERANCES[name])


def verify_segmenter(folder: Path | None, *, against: bool = False) -> Iterator[Check]:
    """Loads a segmenter and prompts it with the true box and points of the known scene.

    Args:
        folder: As `Segmenter.from_pretrained` takes it; None takes the tiny segmenter.
        against: Compare its mask logits with transformers' in PyTorch.

    Raises:
        InputError: The folder cannot be loaded, or PyTorch is not installed.
    """
    start = time.perf_counter()
    segmenter = load_segmenter(folder)
    yield _weights("segmenter", segmenter.params, time.perf_counter() - start)
    scene = known_scene()
    assert scene.mask is not None
    box, points = mask_box(scene.mask), mask_points(scene.mask)
    with jax.default_matmul_precision("highest"):
        masks = segmenter.predict(scene.image, box, points)
    yield _finite("segmenter logits", np.append(masks.logits, masks.iou_predictions))
    if np.isfinite(masks.iou_predictions).all():
        mask, score = best_mask(masks)
        iou = float((mask & scene.mask).sum() / (mask | scene.mask).sum())
        says = f"IoU {iou:.2f} with the true mask of a drawn shape, predicted {score:.2f}"
        good = iou >= _LEAST_IOU
        yield Check(
            "ok" if good else "fail",
            "segmenter mask",
            says if good else f"{says}; expected {_LEAST_IOU} or more",
        )
    if against:
        yield _segmenter_difference(segmenter, folder, scene, masks.logits)


def _segmenter_difference(
    segmenter: Segmenter, folder: Path | None, scene: Example, logits: np.ndarray
) -> Check:
    what = "segmenter against transformers"
    if folder is None or not (folder / "config.json").is_file():
        return Check("warn", what, "not compared: transformers reads Hugging Face folders only")
    side = segmenter.config.image_size
    assert scene.mask is not None
    scale = side / np.array(scene.image.shape[1::-1], np.float64)
    box = (np.array(mask_box(scene.mask)).reshape(2, 2) * scale).reshape(4)
    points = np.array(mask_points(scene.mask)) * scale
    reference = TransformersSegmenter(folder).mask_logits(_square(scene.image, side), box, points)
    return _difference(what, logits, np.clip(reference, -LOGIT_LIMIT, LOGIT_LIMIT), TOLERANCES["float32"])


def _square(image: np.ndarray, side: int) -> Float[np.ndarray, "1 S S 3"]:
    """The image as the segmenter's encoder sees it."""
    rows, columns = (resize_matrix(length, side, "antialias") for length in image.shape[:2])
    with jax.default_matmul_precision("highest"):
        return np.asarray(
            normalise(apply_matrices(jnp.asarray(image), jnp.asarray(rows), jnp.asarray(columns)))
        )[None]


def _weights(name: str, params: Any, seconds: float) -> Check:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    says = f"{count / 1e6:,.1f} M parameters in {_dtype_name(params)}, every tensor known and in place, {seconds:.1f} s"
    return Check("ok", f"{name} weights", says)


def _finite(what: str, values: np.ndarray) -> Check:
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        return Check(
            "fail",
            what,
            f"{bad} of {values.size} are not finite; try --dtype float32, or fetch the weights again",
        )
    return Check("ok", what, f"all {values.size} finite, largest {np.abs(values).max():.4g}")


def _greedy_text(completion: Completion) -> Check:
    length = len(completion.token_ids)
    ended = "ended by itself" if completion.finish_reason == "stop" else "cut at the limit"
    says = (
        f"{length} tokens, {ended}, uncertainty {completion.uncertainty:.3f}: {_shortened(completion.text)}"
    )
    return Check("ok" if np.isfinite(completion.logprobs).all() else "fail", "greedy text", says)


def _coordinates(
    policy: Policy, completion: Completion, model_size: tuple[int, int], scene: Example
) -> Check:
    """Whether box and points lie in the frame that the policy's folder declares."""
    format = policy.processor.format
    targets, error = usable_targets(parse_completion(completion.text), answer_format=format.answer_format)
    if not targets:
        return Check(
            "warn", "coordinates", f"no answer to look at ({error}); was the policy tuned for this task?"
        )
    frame = frame_size(format.coordinate_frame, model_size=model_size)
    if not _inside(targets[0], frame):
        says = f"box {targets[0].box_xyxy}, points {targets[0].points_xy} outside its {format.coordinate_frame} frame"
        return Check("fail", "coordinates", f"{says}; set coordinate_frame in pixelthink.json")
    height, width = scene.image.shape[:2]
    placed = answer_in_image(targets[0], frame=frame, image_size=(width, height))
    assert placed is not None and scene.mask is not None
    iou = _box_iou(placed.box_xyxy, mask_box(scene.mask))
    return Check(
        "ok", "coordinates", f"inside the {format.coordinate_frame} frame, box IoU {iou:.2f} with the truth"
    )


def _inside(target: Target, frame: tuple[int, int]) -> bool:
    """Whether a box with an area and its points lie in the frame."""
    left, top, right, bottom = target.box_xyxy
    width, height = frame
    points = all(0 <= x <= width and 0 <= y <= height for x, y in target.points_xy)
    return points and 0 <= left < right <= width and 0 <= top < bottom <= height


def _box_iou(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """IoU of two boxes that have an area.

    >>> round(_box_iou((0, 0, 2, 2), (1, 0, 3, 2)), 3)
    0.333
    """
    a, b = np.asarray(box, np.float64), np.asarray(other, np.float64)
    common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def _difference(what: str, ours: np.ndarray, reference: np.ndarray, tolerance: float) -> Check:
    """Largest absolute difference over the largest absolute reference value."""
    if ours.shape != reference.shape:
        return Check("fail", what, f"shapes differ: {ours.shape} here, {reference.shape} there")
    difference = float(np.abs(ours - reference).max() / np.abs(reference).max())
    says = f"largest difference {difference:.1e} of the largest value, allowed {tolerance:.0e}"
    return Check("ok" if difference <= tolerance else "fail", what, says)


def _shortened(text: str, limit: int = 160) -> str:
    r"""One printable line of a text.

    >>> _shortened("a\n\x1b[0m b", 4)
    'a ?[...'
    """
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= limit else f"{line[:limit]}..."


def _dtype_name(params: Any) -> str:
    leaf: Array = jax.tree.leaves(params)[0]
    return leaf.dtype.name
