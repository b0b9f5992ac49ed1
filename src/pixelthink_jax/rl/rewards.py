"""The reward: accuracy of the answer, a length budget, and a score that multiplies the accuracy.

    text --host--> AnswerArrays --device--> five terms -> sum * length score = reward in [0, 5]
    text --host--> ObjectTerms  --device--> six terms  -> sum * length score = reward in [0, 7]

Text is parsed once on the host; everything after that is pure array code, so that it runs jitted inside the training
step for all completions at once. The terms are those of `rl.accuracy` (one object, the released reward) or
`rl.object_accuracy` (a list of objects, VisionReasoner's reward).

Source: songw-zju/PixelThink @052d9de `seg_pixelthink.py`; equal to Seg-Zero @77f9ea5.
"""

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from pixelthink_jax.answers import (
    ParsedCompletion,
    objects_reading,
    parse_completion,
    parse_objects,
    parse_solution,
)
from pixelthink_jax.errors import InputError
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.rl.accuracy import AnswerArrays, answer_arrays, reward_terms, solution_arrays
from pixelthink_jax.rl.budgets import Budget, ThreeWayBudget
from pixelthink_jax.rl.length import Clipped, Penalty, length_score
from pixelthink_jax.rl.object_accuracy import ObjectTerms, object_terms

LengthUnit = Literal["response_words", "thinking_words", "thinking_tokens", "response_tokens"]
Accuracy = Literal["pixelthink", "vision_reasoner"]


@dataclass(frozen=True)
class RewardConfig:
    """What a completion is paid for; the defaults are the released preset.

    Attributes:
        length_unit: What counts as length: words between white space or tokens, of the whole response or the thought.
        budget: Length that costs nothing.
        penalty: Length score beyond it.
        unclosed_thought: Length of a thought that was never closed: `none`, as released, or that of the `whole` text,
            so that leaving out the closing tag does not pay.
        accuracy: How answers are held against the truth: `pixelthink`, one box and two points, or `vision_reasoner`, a
            list of objects with a box and a point each.
    """

    length_unit: LengthUnit = "response_words"
    budget: Budget = field(default_factory=ThreeWayBudget)
    penalty: Penalty = field(default_factory=Clipped)
    unclosed_thought: Literal["none", "whole"] = "none"
    accuracy: Accuracy = "pixelthink"

    def measured_thought(self, parsed: ParsedCompletion) -> str:
        """The text that counts as thought.

        >>> text = parse_completion("<think>the red")
        >>> RewardConfig().measured_thought(text), RewardConfig(unclosed_thought="whole").measured_thought(text)
        ('', '<think>the red')
        """
        if parsed.thinking is not None:
            return parsed.thinking
        return parsed.text if self.unclosed_thought == "whole" else ""

    def check_solution(self, solution: str) -> None:
        """Refuses a ground truth that this accuracy cannot be measured against.

        Raises:
            InputError: As said.
        """
        if self.accuracy == "vision_reasoner":
            parse_objects(solution)
        elif solution.lstrip().startswith("["):
            raise InputError(
                f"solution {solution[:80]!r}: it lists objects; set reward.accuracy to vision_reasoner"
            )
        else:
            parse_solution(solution)


@struct.dataclass
class RewardInputs:
    """What the reward of a batch of groups is computed from.

    Attributes:
        answers: Of every completion; with `vision_reasoner` compared with the truth already.
        truths: Of every prompt; None where the answers have been compared.
        difficulty: Of every prompt, 1 to 10.
        uncertainty: Of every completion.
        length_used: Of every completion, in the unit of the config.
        custom: Weighted sum of further accuracy rewards; None without any.
    """

    answers: AnswerArrays | ObjectTerms
    truths: AnswerArrays | None
    difficulty: Float[AnyArray, " b"]
    uncertainty: Float[AnyArray, "b g"]
    length_used: Float[AnyArray, "b g"]
    custom: Float[AnyArray, "b g"] | None = None


@dataclass(frozen=True)
class RewardTerms:
    """The reward of one completion and what it is made of; of listed objects, see `object_accuracy.ObjectTerms`.

    Attributes:
        thinking_format: The whole text is a thought and an answer in their tags.
        answer_format: Its JSON has a box and two points.
        box_iou: IoU with the true box above one half.
        point_distance: Both points in the own box, near the true ones.
        box_distance: Corners near the true ones.
        length_used: In the unit of the config.
        length_budget: None without a constraint.
        length_score: 0 to 1.
        reward: The sum of the terms times the score.
        non_repeat: Of listed objects only: at most one sentence is said twice.
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
    non_repeat: float | None = None


def group_rewards(inputs: RewardInputs, config: RewardConfig) -> dict[str, Float[Array, "b g"]]:
    """The reward of every completion of a batch of groups, with what it is made of.

    Pure array code: jitted inside the training step, and by itself in `score_completion`.

    Returns:
        The terms, `length_budget` (infinity: none), `length_score` and `reward`.
    """
    b, g = inputs.length_used.shape
    spread = lambda x: jnp.broadcast_to(jnp.asarray(x)[:, None], (b, g, *x.shape[1:]))  # noqa: E731
    if isinstance(inputs.answers, ObjectTerms):
        terms = {name: jnp.asarray(values) for name, values in vars(inputs.answers).items()}
    else:
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
    config.check_solution(solution)
    listed = config.accuracy == "vision_reasoner"
    answers = (
        object_terms([objects_reading(parsed)], [parse_objects(solution)], np.ones((1, 2)))
        if listed
        else answer_arrays([parsed])
    )
    inputs = RewardInputs(
        answers=jax.tree.map(lambda x: x[None], answers),
        truths=None if listed else solution_arrays([solution]),
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
