"""`segment`: the policy thinks and points, the segmenter draws.

    image -> processor -> greedy completion -> usable answer -> original pixels -> segmenter -> best mask

Follows the released evaluation (Seg-Zero @42a3345 `evaluation.py`): greedy, box and two positive points, the mask of
the highest predicted IoU. Deliberate differences: answers are read more tolerantly (`answers.usable`), coordinates
keep their fractions and are clipped to the image, and a completion without an answer is a result that says why.
"""

import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pixelthink_jax.answers import ParsedCompletion, Target, parse_completion, two_points, usable_targets
from pixelthink_jax.errors import InputError
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.images import ImageSource, load_image
from pixelthink_jax.processing.policy_format import frame_size
from pixelthink_jax.processing.processor import Prompt
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.runtime.hosts import joined, together
from pixelthink_jax.segmenter import IMAGES_AT_ONCE, Segmenter
from pixelthink_jax.types import Answer, Completion, Masks, Point, Segmentation

MAX_NEW_TOKENS = 1024
"""Longest completion, as in the released evaluation."""


def segment(
    policy: Policy,
    segmenter: Segmenter,
    image: ImageSource,
    query: str,
    *,
    instruction: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_thinking_tokens: int | None = None,
) -> Segmentation:
    """Answers one question about one image with a thought, a box, two points and a mask.

    A policy that is spread over several processes is asked by all of them at once, each with a question of its own or
    by `segment_nothing`.

    Where the policy names several objects (`vision_reasoner_json`) the mask is the union of theirs, the box encloses
    all, the points are the first one of the first and of the last object, and the score is the mean. A policy that
    gives boxes alone (`qwen_vl_json`) has no points, and the masks are drawn from the boxes.

    Args:
        policy: Thinks and points, greedily.
        segmenter: Draws the mask.
        image: Anything `load_image` reads.
        query: The question in words.
        instruction: A sentence added to the prompt, such as a request for brevity.
        max_new_tokens: Longest completion.
        max_thinking_tokens: Tokens after which the thought is closed; None sets no limit.

    Returns:
        The answer in pixels of the image, or why there is none; `seconds` has `image`, `policy`, `segmenter` and
        `total`.

    Raises:
        InputError: The image cannot be read, the question is empty, a setting cannot be used, or a model computes
            numbers that are not finite.
    """
    times = [time.perf_counter()]
    sampling = SamplingConfig(max_new_tokens, temperature=0.0, max_thinking_tokens=max_thinking_tokens)
    try:
        _check_unicode(query)
        pixels = load_image(image)
        prompt = policy.processor.prompt(pixels, query, instruction=instruction)
    except InputError:
        segment_nothing(policy, max_new_tokens=max_new_tokens, max_thinking_tokens=max_thinking_tokens)
        raise
    times.append(time.perf_counter())
    completion = _complete(policy, prompt, sampling)
    parsed = parse_completion(completion.text)
    targets, error = _targets_in_image(policy, prompt, parsed, completion)
    times.append(time.perf_counter())
    mask, score = _draw(segmenter, pixels, targets)
    times.append(time.perf_counter())
    stages = dict(zip(("image", "policy", "segmenter"), np.diff(times).tolist(), strict=True))
    return Segmentation(
        query=query,
        completion=completion,
        thinking=parsed.thinking or "",
        answer=_as_one_answer(targets),
        answer_error=error,
        mask=mask,
        mask_score=score,
        thinking_tokens=policy.processor.tokenizer.count(parsed.thinking or ""),
        seconds=stages | {"total": times[-1] - times[0]},
    )


def segment_nothing(
    policy: Policy, *, max_new_tokens: int = MAX_NEW_TOKENS, max_thinking_tokens: int | None = None
) -> None:
    """Takes part in a call of `segment` by other processes; nothing where the policy is this process's own."""
    if policy.spans_processes:
        sampling = SamplingConfig(max_new_tokens, temperature=0.0, max_thinking_tokens=max_thinking_tokens)
        _completions(policy, [], sampling)


def answer_in_image(answer: Target, *, frame: tuple[int, int], image_size: tuple[int, int]) -> Target | None:
    """One object from the policy's frame to pixels of the image, clipped to it.

    Args:
        answer: In the frame.
        frame: `(width, height)` of the frame, see `policy_format.frame_size`.
        image_size: `(width, height)` of the image.

    Returns:
        The object with its box within `[0, width] x [0, height]` and its points on pixels; None where the box has
        no part of the image.

    >>> target = Target(box_xyxy=(420.0, 0.0, 900.0, 84.0), points_xy=((840.0, 42.0),))
    >>> answer_in_image(target, frame=(840, 840), image_size=(100, 50))
    Target(box_xyxy=(50.0, 0.0, 100.0, 5.0), points_xy=((99.0, 2.5),))
    >>> answer_in_image(target, frame=(400, 400), image_size=(100, 50)) is None
    True
    """
    width, height = image_size
    across, down = frame
    # Multiplied before divided: what is a whole pixel of the image stays one.
    left, right = (x * width / across for x in answer.box_xyxy[::2])
    top, bottom = (y * height / down for y in answer.box_xyxy[1::2])
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return None
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    points = tuple(
        _on_image((x * width / across, y * height / down), image_size) for x, y in answer.points_xy
    )
    return Target(box_xyxy=box, points_xy=points)


def best_masks(
    segmenter: Segmenter, asked: Sequence[tuple[UInt8[np.ndarray, "_ _ 3"], Target]]
) -> Iterator[tuple[Bool[np.ndarray, "_ _"], float]]:
    """`best_mask` of each of many answers, some at a time.

    Args:
        segmenter: Draws the masks.
        asked: Images with what is to be drawn in them, in pixels; those of one image one after another.
    """
    for start in range(0, len(asked), IMAGES_AT_ONCE):
        part = asked[start : start + IMAGES_AT_ONCE]
        # Batches of one size, filled up with repeats, so that one program serves all.
        images, targets = zip(*part, *[part[-1]] * (IMAGES_AT_ONCE - len(part)), strict=True)
        boxes, points = [target.box_xyxy for target in targets], [target.points_xy for target in targets]
        found = segmenter.predict_batch(images, boxes, points, as_given=True)
        yield from (best_mask(masks) for masks, _ in zip(found, part, strict=False))


def best_mask(masks: Masks) -> tuple[Bool[np.ndarray, "H W"], float]:
    """The mask of the highest predicted IoU and that IoU; of equal ones the last, as the released evaluation sorts.

    Raises:
        InputError: A predicted IoU is not finite.
    """
    ious = masks.iou_predictions
    if not np.isfinite(ious).all():
        raise InputError(
            f"segmenter: its predicted IoUs are {ious.tolist()}, not finite; run pixelthink verify on its folder"
        )
    best = len(ious) - 1 - int(np.argmax(ious[::-1]))
    return masks.masks[best], float(ious[best])


def _check_unicode(query: str) -> None:
    """Refuses what a broken terminal or a JSON escape can smuggle in and no tokenizer or file takes."""
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"query {query!r}: not valid Unicode text; write it again") from error


def _complete(policy: Policy, prompt: Prompt, sampling: SamplingConfig) -> Completion:
    """The greedy completion of one prompt."""
    [completion] = _completions(policy, [prompt], sampling)
    if not np.isfinite(completion.uncertainty):
        raise InputError(
            "policy: its token probabilities are not finite; run pixelthink verify on its folder, or load it in float32"
        )
    return completion


def _completions(policy: Policy, own: list[Prompt], sampling: SamplingConfig) -> list[Completion]:
    """Greedy completions of this process's prompts, decoded together with those of the others."""
    parts = together(lambda: own) if policy.spans_processes else [own]
    prompts = joined(parts)
    if not prompts:
        return []
    keys = row_keys(0, 0, jnp.zeros(len(prompts), jnp.int32), 1)
    groups = policy.completions(policy.rollout(policy.prompt_arrays(prompts), keys, sampling))
    before = sum(map(len, parts[: jax.process_index()])) if policy.spans_processes else 0
    return [completion for [completion] in groups[before : before + len(own)]]


def _targets_in_image(
    policy: Policy, prompt: Prompt, parsed: ParsedCompletion, completion: Completion
) -> tuple[tuple[Target, ...], str | None]:
    """Every object of a completion in pixels of the image, or why there is none."""
    format = policy.processor.format
    written, error = usable_targets(parsed, answer_format=format.answer_format)
    frame = frame_size(format.coordinate_frame, model_size=prompt.model_size)
    placed = (answer_in_image(target, frame=frame, image_size=prompt.image_size) for target in written)
    targets = tuple(target for target in placed if target is not None)
    if targets:
        return targets, None
    error = error or "the box of the answer lies outside the image"
    if completion.finish_reason == "length":
        error += f"; the completion was cut at {len(completion.token_ids)} tokens"
    return (), error


def _draw(
    segmenter: Segmenter, pixels: UInt8[np.ndarray, "H W 3"], targets: Sequence[Target]
) -> tuple[Bool[np.ndarray, "H W"], float]:
    """The union of the objects' masks and the mean of their predicted IoUs."""
    union, scores = np.zeros(pixels.shape[:2], bool), []
    if targets:
        encoded = segmenter.encode(pixels)
        for target in targets:
            mask, score = best_mask(
                segmenter.predict(encoded, target.box_xyxy, target.points_xy, as_given=True)
            )
            union |= mask
            scores.append(score)
    return union, float(np.mean(scores)) if scores else 0.0


def _as_one_answer(targets: Sequence[Target]) -> Answer | None:
    """One box around all objects and one point of the first and of the last; a single object's own two points."""
    if not targets:
        return None
    boxes: Float[np.ndarray, "n 4"] = np.array([target.box_xyxy for target in targets])
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    points = (
        targets[0].points_xy if len(targets) == 1 else (*targets[0].points_xy[:1], *targets[-1].points_xy[:1])
    )
    return Answer(box_xyxy=(left, top, right, bottom), points_xy=two_points(points))


def _on_image(point: Point, image_size: tuple[int, int]) -> Point:
    """The nearest place that lies on a pixel."""
    x, y = (min(max(value, 0.0), size - 1.0) for value, size in zip(point, image_size, strict=True))
    return x, y
