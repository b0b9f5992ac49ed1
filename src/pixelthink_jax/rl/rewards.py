"""The released reward: five accuracy terms, a length budget, and a score that multiplies their sum.

    text --host--> AnswerArrays --device--> five terms -> sum * length score = reward in [0, 5]

Text is parsed once on the host; everything after that is pure array code, so that it runs jitted inside the training
step for all completions at once. Whatever cannot be read is NaN in the arrays: NaN fails every comparison, and a term
that needs it is 0.

Floats: arrays are float32. Sums, areas and differences of coordinates that are multiples of one half within
+-2000 are exact, so IoU and box distance decide as in double precision there, at the threshold too; the point distance
takes square roots and may fall on either side within 1e-4 of its threshold.

Source: songw-zju/PixelThink @052d9de `seg_pixelthink.py`; equal to Seg-Zero @77f9ea5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from pixelthink_jax.answers import ParsedCompletion, parse_completion, parse_solution, strict_reading
from pixelthink_jax.errors import InputError
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.rl.budgets import Budget, ThreeWayBudget
from pixelthink_jax.rl.length import Clipped, Penalty, length_score

LengthUnit = Literal["response_words", "thinking_words", "thinking_tokens", "response_tokens"]

IOU_ABOVE = 0.5
BOX_DISTANCE_BELOW = 10.0
POINT_DISTANCE_BELOW = 100.0
TERMS = ("thinking_format", "answer_format", "box_iou", "point_distance", "box_distance")


@dataclass(frozen=True)
class RewardConfig:
    """What a completion is paid for; the defaults are the released preset.

    Attributes:
        length_unit: What counts as length: words between white space or tokens, of the whole response or the thought.
        budget: Length that costs nothing.
        penalty: Length score beyond it.
        unclosed_thought: Length of a thought that was never closed: `none`, as released, or that of the `whole` text,
            so that leaving out the closing tag does not pay.
    """

    length_unit: LengthUnit = "response_words"
    budget: Budget = field(default_factory=ThreeWayBudget)
    penalty: Penalty = field(default_factory=Clipped)
    unclosed_thought: Literal["none", "whole"] = "none"

    def measured_thought(self, parsed: ParsedCompletion) -> str:
        """The text that counts as thought.

        >>> text = parse_completion("<think>the red")
        >>> RewardConfig().measured_thought(text), RewardConfig(unclosed_thought="whole").measured_thought(text)
        ('', '<think>the red')
        """
        if parsed.thinking is not None:
            return parsed.thinking
        return parsed.text if self.unclosed_thought == "whole" else ""


@struct.dataclass
class AnswerArrays:
    """Parsed answers, or ground truths, as arrays; NaN where nothing could be read.

    Attributes:
        thinking_format: 1 where the tags are in the format asked for.
        answer_format: 1 where the JSON has its keys.
        box: Corners in the 840 frame.
        points: Two points, whole numbers.
    """

    thinking_format: Float[AnyArray, "*n"]
    answer_format: Float[AnyArray, "*n"]
    box: Float[AnyArray, "*n 4"]
    points: Float[AnyArray, "*n 2 2"]


@struct.dataclass
class RewardInputs:
    """What the reward of a batch of groups is computed from.

    Attributes:
        answers: Of every completion.
        truths: Of every prompt.
        difficulty: Of every prompt, 1 to 10.
        uncertainty: Of every completion.
        length_used: Of every completion, in the unit of the config.
        custom: Weighted sum of further accuracy rewards; None without any.
    """

    answers: AnswerArrays
    truths: AnswerArrays
    difficulty: Float[AnyArray, " b"]
    uncertainty: Float[AnyArray, "b g"]
    length_used: Float[AnyArray, "b g"]
    custom: Float[AnyArray, "b g"] | None = None


@dataclass(frozen=True)
class RewardTerms:
    """The reward of one completion and what it is made of.

    Attributes:
        thinking_format: The whole text is a thought and an answer in their tags.
        answer_format: Its JSON has a box and two points.
        box_iou: IoU with the true box above one half.
        point_distance: Both points in the own box, near the true ones.
        box_distance: Corners near the true ones.
        length_used: In the unit of the config.
        length_budget: None without a constraint.
        length_score: 0 to 1.
        reward: The sum of the five times the score.
    """

    thinking_format: float
    answer_format: float
    box_iou: float
    point_distance: float
    box_distance: float
    length_used: float
    length_budget: float | None
    length_score: float
    reward: float


def answer_arrays(parsed: Sequence[ParsedCompletion]) -> AnswerArrays:
    """The strict reading of completions as numpy arrays, one row each.

    >>> answer_arrays([parse_completion("no answer")]).box.tolist()
    [[nan, nan, nan, nan]]
    """
    readings = [strict_reading(completion) for completion in parsed]
    nothing = (np.nan, np.nan)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which decides as a huge number does
        return AnswerArrays(
            np.array([r.thinking_format for r in readings], np.float32),
            np.array([r.answer_format for r in readings], np.float32),
            np.array([r.box_xyxy or nothing * 2 for r in readings]).astype(np.float32).reshape(-1, 4),
            np.array([r.points_xy or (nothing,) * 2 for r in readings]).astype(np.float32).reshape(-1, 2, 2),
        )


def solution_arrays(solutions: Sequence[str]) -> AnswerArrays:
    """Ground truths as numpy arrays, one row each.

    Raises:
        InputError: A solution cannot be read; the released code pays 0 for such a row in silence.

    >>> solution_arrays(["<box>(24,95),(417,819)</box><points>(116,483),(186,315)</points>"]).box.tolist()
    [[24.0, 95.0, 417.0, 819.0]]
    """
    truths = [parse_solution(solution) for solution in solutions]
    ones = np.ones(len(truths), np.float32)
    boxes = np.array([truth.box_xyxy for truth in truths], np.float32).reshape(-1, 4)
    return AnswerArrays(
        ones, ones, boxes, np.array([truth.points_xy for truth in truths], np.float32).reshape(-1, 2, 2)
    )


def box_iou_term(box: Float[AnyArray, "*n 4"], truth: Float[AnyArray, "*n 4"]) -> Bool[Array, "*n"]:
    """Whether the IoU of inclusive pixel boxes exceeds one half; boxes that do not overlap in a strict sense have 0.

    >>> box_iou_term(jnp.array([0.0, 0.0, 9.0, 9.0]), jnp.array([0.0, 0.0, 9.0, 4.0])).item()
    False
    """
    low = jnp.maximum(box[..., :2], truth[..., :2])
    high = jnp.minimum(box[..., 2:], truth[..., 2:])
    overlap = jnp.where(jnp.all(low < high, axis=-1), jnp.prod(high - low + 1.0, axis=-1), 0.0)
    area, true_area = (jnp.prod(b[..., 2:] - b[..., :2] + 1.0, axis=-1) for b in (box, truth))
    union = area + true_area - overlap
    return (overlap > 0) & (overlap > IOU_ABOVE * union)


def box_distance_term(box: Float[AnyArray, "*n 4"], truth: Float[AnyArray, "*n 4"]) -> Bool[Array, "*n"]:
    """Whether the corners differ by less than 10 pixels of the 840 frame on average.

    >>> box_distance_term(jnp.array([0.0, 0.0, 90.0, 90.0]), jnp.array([9.0, 9.0, 99.0, 99.0])).item()
    True
    """
    return jnp.sum(jnp.abs(jnp.asarray(box) - truth), axis=-1) < 4 * BOX_DISTANCE_BELOW


def point_distance_term(
    points: Float[AnyArray, "*n 2 2"], box: Float[AnyArray, "*n 4"], truth: Float[AnyArray, "*n 2 2"]
) -> Bool[Array, "*n"]:
    """Whether both points lie in the completion's own box and within 100 of the true ones, Euclidean, better matched.

    >>> own, truth = jnp.array([[5.0, 5.0], [8.0, 8.0]]), jnp.array([[8.0, 8.0], [5.0, 5.0]])
    >>> point_distance_term(own, jnp.array([0.0, 0.0, 9.0, 9.0]), truth).item()
    True
    """
    points, truth = jnp.asarray(points), jnp.asarray(truth)
    inside = (points >= box[..., None, :2]) & (points <= box[..., None, 2:])
    between = jnp.sqrt(jnp.sum((points[..., :, None, :] - truth[..., None, :, :]) ** 2, axis=-1))
    straight, crossed = between[..., 0, 0] + between[..., 1, 1], between[..., 0, 1] + between[..., 1, 0]
    near = jnp.minimum(straight, crossed) < 2 * POINT_DISTANCE_BELOW
    return jnp.all(inside, axis=(-2, -1)) & near


def reward_terms(answers: AnswerArrays, truths: AnswerArrays) -> dict[str, Float[Array, "*n"]]:
    """The five terms, each 0 or 1, by the names of `TERMS`."""
    terms = {
        "thinking_format": jnp.asarray(answers.thinking_format),
        "answer_format": jnp.asarray(answers.answer_format),
        "box_iou": box_iou_term(answers.box, truths.box),
        "point_distance": point_distance_term(answers.points, answers.box, truths.points),
        "box_distance": box_distance_term(answers.box, truths.box),
    }
    return {name: terms[name].astype(jnp.float32) for name in TERMS}


def group_rewards(inputs: RewardInputs, config: RewardConfig) -> dict[str, Float[Array, "b g"]]:
    """The reward of every completion of a batch of groups, with what it is made of.

    Pure array code: jitted inside the training step, and by itself in `score_completion`.

    Returns:
        The five terms, `length_budget` (infinity: none), `length_score` and `reward`.
    """
    b, g = inputs.length_used.shape
    spread = lambda x: jnp.broadcast_to(jnp.asarray(x)[:, None], (b, g, *x.shape[1:]))  # noqa: E731
    terms = reward_terms(inputs.answers, jax.tree.map(spread, inputs.truths))
    accuracy = sum(terms.values(), jnp.zeros((b, g)))
    if inputs.custom is not None:
        accuracy = accuracy + inputs.custom
    budget = config.budget(spread(inputs.difficulty), inputs.uncertainty)
    reward = config.penalty(accuracy, inputs.length_used, budget)
    score = length_score(config.penalty, accuracy, inputs.length_used, budget)
    return {**terms, "length_budget": budget, "length_score": score, "reward": reward}


def score_completion(
    text: str,
    solution: str,
    *,
    difficulty: float,
    uncertainty: float,
    thinking_tokens: int | None = None,
    response_tokens: int | None = None,
    config: RewardConfig | None = None,
) -> RewardTerms:
    """The reward of one completion.

    Args:
        text: The completion.
        solution: The ground truth in its genuine form.
        difficulty: Of the question, 1 to 10.
        uncertainty: Of the completion.
        thinking_tokens: Tokens of the thought; needed where that is the unit.
        response_tokens: Tokens of the completion; needed where that is the unit.
        config: None is the released preset.

    Raises:
        InputError: The solution cannot be read, or the unit needs a count that is not given.

    >>> text = '<think>big</think><answer>{"bbox": [1, 2, 9, 9], "points_1": [3, 3], "points_2": [5, 5]}</answer>'
    >>> solution = "<box>(1,2),(9,9)</box><points>(3,3),(5,5)</points>"
    >>> score_completion(text, solution, difficulty=2.0, uncertainty=0.1).reward
    5.0
    """
    config = config or RewardConfig()
    parsed = parse_completion(text)
    used = length_used(parsed, config, thinking_tokens=thinking_tokens, response_tokens=response_tokens)
    one = lambda value: jnp.full((1, 1), value, jnp.float32)  # noqa: E731
    inputs = RewardInputs(
        answers=jax.tree.map(lambda x: x[None], answer_arrays([parsed])),
        truths=solution_arrays([solution]),
        difficulty=one(difficulty)[0],
        uncertainty=one(uncertainty),
        length_used=one(used),
    )
    found = {name: float(value[0, 0]) for name, value in _score(config)(inputs).items()}
    budget = found.pop("length_budget")
    return RewardTerms(**found, length_used=used, length_budget=budget if np.isfinite(budget) else None)


def length_used(
    parsed: ParsedCompletion,
    config: RewardConfig,
    *,
    thinking_tokens: int | None = None,
    response_tokens: int | None = None,
) -> float:
    """The length of a completion in the unit of the config.

    >>> length_used(parse_completion("<think>the red one</think> here"), RewardConfig("thinking_words"))
    3.0
    """
    if config.length_unit == "response_words":
        return float(len(parsed.text.split()))
    if config.length_unit == "thinking_words":
        return float(len(config.measured_thought(parsed).split()))
    counted = {"thinking_tokens": thinking_tokens, "response_tokens": response_tokens}[config.length_unit]
    if counted is None:
        raise InputError(
            f"length unit {config.length_unit}: give {config.length_unit}, the count of the completion"
        )
    return float(counted)


@cache
def _score(config: RewardConfig) -> Any:
    """`group_rewards` under one config as a jitted function."""
    return jax.jit(partial(group_rewards, config=config))
