"""Frozen records that cross stages, and the axis alphabet of every shape annotation.

Axes: `b` batch (prompts), `g` group (completions of a prompt), `t` tokens, `r` completion tokens, `s` cached
tokens, `p` patches, `d` width, `h` heads, `k` key-value heads, `f` mlp width, `v` vocabulary, `H W C` image.

Frames: `_image_px` is in pixels of the original image; answers are written in the policy's own frame
(`processing.policy_format`), which for the released method is an 840x840 square.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Level = Literal["easy", "medium", "hard"]
Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Example:
    """One question about one image, with what is known about its answer.

    Attributes:
        id: Unique name of the row in its dataset.
        image: uint8 `[H, W, 3]`.
        query: The question in words.
        solution: `<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>`, integers in the 840 frame; None if unknown.
        mask: bool `[H, W]` in pixels of `image`, or uint8 with 1 target and 255 ignore; None if unknown.
        difficulty: Mean of the three sub-scores, 1 to 10; None if unknown.
        level: Difficulty level by the paper's cut-offs 3.5 and 5.0; None if the difficulty is unknown.
        completion: Target text of supervised training (`<think>...</think><answer>...</answer>`); None if absent.
        given: Beginning of the completion that supervised training takes as given, without loss; may be empty.
        instruction: Sentence added to the prompt, such as a request for brevity; None if absent.
        metadata: Anything else worth logging, such as the three sub-scores.
    """

    id: str
    image: np.ndarray
    query: str
    solution: str | None = None
    mask: np.ndarray | None = None
    difficulty: float | None = None
    level: Level | None = None
    completion: str | None = None
    given: str = ""
    instruction: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationCost:
    """What one completion cost; shared work is divided evenly among the completions it was done for.

    Attributes:
        prompt_tokens: Of the prompt, image tokens included.
        image_grid: Patches of the image: (frames, rows, columns).
        decode_slots: Rows of decode steps spent on it; a row that waits for longer ones spends them too.
        seconds: Wall-clock time by stage, the compilation of new shapes included.
    """

    prompt_tokens: int
    image_grid: tuple[int, int, int]
    decode_slots: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Completion:
    """One sampled text.

    Attributes:
        text: Decoded without special tokens.
        token_ids: int32 `[r]`, up to and including the end token when there is one.
        logprobs: float32 `[r]`, log-probability in nats of each token under the temperature-scaled distribution.
        uncertainty: Mean over tokens of `1 - (p1 - p2)`, the top-two probability gap (method section 5).
        finish_reason: `stop` if an end token was sampled, `length` if the token limit ended it.
        cost: What it took; None where nobody measured.
    """

    text: str
    token_ids: np.ndarray
    logprobs: np.ndarray
    uncertainty: float
    finish_reason: Literal["stop", "length"]
    cost: GenerationCost | None = None


@dataclass(frozen=True)
class Answer:
    """One box and two points, in the frame named by whoever holds the record; no points where a box is all there is."""

    box_xyxy: Box
    points_xy: tuple[Point, ...]


@dataclass(frozen=True)
class Masks:
    """What the segmenter returns for one prompt.

    Attributes:
        logits: float32 `[3, h, w]`, low-resolution mask logits, a quarter of the model's input size.
        masks: bool `[3, H, W]`, at the size of the original image.
        iou_predictions: float32 `[3]`, the model's own estimate of each mask's IoU.
    """

    logits: np.ndarray
    masks: np.ndarray
    iou_predictions: np.ndarray


@dataclass(frozen=True)
class Segmentation:
    """The whole answer to one question about one image, in pixels of the original image.

    Attributes:
        query: The question.
        completion: The policy's text with its token statistics.
        thinking: Text of the thought; empty when there is none.
        answer: Box and points in original image pixels; None when the completion holds no usable answer.
        answer_error: Why there is no answer; None when there is one.
        mask: bool `[H, W]`; all False when there is no answer.
        mask_score: Predicted IoU of the chosen mask; 0.0 when there is no answer.
        thinking_tokens: Tokens of the thought.
        seconds: Time by stage.
    """

    query: str
    completion: Completion
    thinking: str
    answer: Answer | None
    answer_error: str | None
    mask: np.ndarray
    mask_score: float
    thinking_tokens: int
    seconds: dict[str, float]
