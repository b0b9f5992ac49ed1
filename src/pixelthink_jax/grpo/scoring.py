"""From a rollout to what the update is made of: texts read once on the host, rewards' inputs, and the record of it.

RolloutBatch -> texts -> ParsedCompletion -> RewardInputs -> `rl.step.StepBatch`
`-> terms, budget, reward, advantage of every completion
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from pixelthink_jax.answers import ParsedCompletion, objects_reading, parse_completion, parse_objects
from pixelthink_jax.data.targets import FRAME, difficulty_level
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.protocols.reading import thought
from pixelthink_jax.grpo.config import DifficultyConfig, TrainConfig
from pixelthink_jax.grpo.custom_rewards import CustomReward
from pixelthink_jax.grpo.difficulty import RELEASED_DEFAULT, Difficulty, shuffled, usable
from pixelthink_jax.processing.policy_format import PolicyFormat, frame_size
from pixelthink_jax.processing.processor import Processor, Prompt
from pixelthink_jax.rl.accuracy import AnswerArrays, answer_arrays, reward_terms, solution_arrays
from pixelthink_jax.rl.advantages import group_advantages
from pixelthink_jax.rl.object_accuracy import ObjectTerms, object_terms
from pixelthink_jax.rl.rewards import RewardConfig, RewardInputs, group_rewards, length_used
from pixelthink_jax.rl.rollout import RolloutBatch
from pixelthink_jax.runtime.hosts import share, together
from pixelthink_jax.types import Example


@dataclass(frozen=True)
class Scored:
    """A rollout as read.

    Attributes:
        texts: `[prompts][group]`.
        inputs: Of the rewards.
        terms: What `group_rewards` found, `advantage`, and each custom reward by its name; `[b, g]` each.
        thinking_tokens: Tokens of every thought, an unclosed one whole.
        custom_names: Those of the custom rewards.
        missing_difficulty: Questions whose difficulty was replaced by the released default, `[b]`.
    """

    texts: list[list[str]]
    inputs: RewardInputs
    terms: dict[str, Float[np.ndarray, "b g"]]
    thinking_tokens: Float[np.ndarray, "b g"]
    custom_names: tuple[str, ...]
    missing_difficulty: Bool[np.ndarray, " b"]


class Scorer:
    """Reads the completions of a step and computes everything about their reward."""

    def __init__(
        self,
        config: TrainConfig,
        processor: Processor,
        difficulty: Difficulty,
        rewards: Sequence[CustomReward],
    ):
        """`rewards` are added, weighed, to the accuracy."""
        self._config, self._processor = config, processor
        self._difficulty, self._rewards = difficulty, list(rewards)
        self._score = jax.jit(partial(_scores, config=config))

    def __call__(
        self, step: int, rollout: RolloutBatch, prompts: Sequence[Prompt], examples: Sequence[Example]
    ) -> Scored:
        """Scores one step; every process its share, and all get to know everything.

        Args:
            step: Number of the update, from which label noise is drawn.
            rollout: On the host.
            prompts: Its prompts.
            examples: Its questions; those that other processes have read are not looked at.

        Raises:
            InputError: A custom reward cannot be used.
        """
        own = share(len(examples))
        part = slice(own.start, own.stop)
        mine = jax.tree.map(lambda leaf: leaf[part], rollout)
        found = together(lambda: self._share(step, mine, prompts[part], examples[part], own))
        return joined_scores([(scored, i) for scored in found if scored for i in range(len(scored.texts))])

    def _share(
        self,
        step: int,
        rollout: RolloutBatch,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        places: range,
    ) -> Scored | None:
        """Scores the questions at some places of a step; None where there are none."""
        b, g = rollout.lengths.shape
        texts = [[self._text(rollout, i, j) for j in range(g)] for i in range(b)]
        parsed = [parse_completion(text) for group in texts for text in group]
        answers, truths = self._answers(parsed, prompts, examples, g)
        scores = np.concatenate(together(lambda: self._difficulty(examples, _success(answers, truths))))
        filled, known = step_difficulty(scores, self._config.difficulty, seed=(self._config.seed, step))
        if not examples:
            return None
        difficulty = filled[places.start : places.stop]
        thinking = [self._processor.tokenizer.count(thought(completion)) for completion in parsed]
        inputs = RewardInputs(
            answers=answers,
            truths=truths,
            difficulty=difficulty,
            uncertainty=np.asarray(rollout.uncertainty, np.float32),
            length_used=self._lengths(parsed, rollout).reshape(b, g),
        )
        extra = {reward.name: reward(texts, examples, inputs) for reward in self._rewards}
        if extra:
            weighed = [reward.weight * extra[reward.name] for reward in self._rewards]
            inputs = replace(inputs, custom=np.sum(weighed, axis=0, dtype=np.float32))
        terms = {name: np.asarray(values) for name, values in self._score(inputs).items()} | extra
        missing = ~known[places.start : places.stop]
        return Scored(
            texts, inputs, terms, np.array(thinking, np.float32).reshape(b, g), tuple(extra), missing
        )

    def _answers(
        self,
        parsed: Sequence[ParsedCompletion],
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        g: int,
    ) -> tuple[AnswerArrays | ObjectTerms, AnswerArrays | None]:
        """What is held against the truth, `[b, g]`, and the truth `[b]` where that comes later."""
        scale, solutions = _to_840(self._processor, prompts), [example.solution or "" for example in examples]
        if self._config.reward.accuracy == "pixelthink":
            return _in_frame(answer_arrays(parsed), scale, g), solution_arrays(solutions)
        truths = [truth for solution in solutions for truth in [parse_objects(solution)] * g]
        readings = [objects_reading(completion) for completion in parsed]
        terms = object_terms(readings, truths, np.repeat(scale, g, axis=0))
        return jax.tree.map(lambda x: x.reshape(-1, g), terms), None

    def _text(self, rollout: RolloutBatch, b: int, g: int) -> str:
        return self._processor.tokenizer.decode(
            np.asarray(rollout.tokens[b, g, : int(rollout.lengths[b, g])])
        )

    def _lengths(self, parsed: Sequence[ParsedCompletion], rollout: RolloutBatch) -> Float[np.ndarray, " n"]:
        reward, count = self._config.reward, self._processor.tokenizer.count
        tokens = np.asarray(rollout.lengths).reshape(-1).tolist()
        return np.array(
            [
                length_used(
                    completion,
                    reward,
                    thinking_tokens=_thinking_tokens(completion, reward, count),
                    response_tokens=all_tokens,
                )
                for completion, all_tokens in zip(parsed, tokens, strict=True)
            ],
            np.float32,
        )


def check_answers(reward: RewardConfig, format: PolicyFormat) -> None:
    """Refuses a reward that the policy is never asked to earn.

    Raises:
        InputError: It is asked for one object and paid for a list, or the other way round.
    """
    wanted = "vision_reasoner_json" if reward.accuracy == "vision_reasoner" else "pixelthink_json"
    if format.answer_format != wanted:
        raise InputError(
            f"reward.accuracy {reward.accuracy} reads {wanted}, the policy is asked for {format.answer_format}; set "
            f"format: {reward.accuracy}, or another accuracy"
        )


def step_difficulty(
    scores: Float[np.ndarray, " b"], config: DifficultyConfig, *, seed: tuple[int, int]
) -> tuple[Float[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
    """Scores with the released default where they cannot be used, label noise added, and which ones were kept.

    >>> step_difficulty(np.array([2.0, np.nan], np.float32), DifficultyConfig(missing="released"), seed=(0, 1))[1]
    array([ True, False])
    """
    known = np.array([usable(float(score)) for score in scores], bool)
    filled = np.where(known, scores, np.float32(RELEASED_DEFAULT)).astype(np.float32)
    if config.shuffled_share:
        filled = shuffled(filled, config.shuffled_share, np.random.default_rng(seed))
    return filled, known


def joined_scores(groups: Sequence[tuple[Scored, int]]) -> Scored:
    """One record of groups taken from several."""
    first = groups[0][0]
    return Scored(
        texts=[scored.texts[i] for scored, i in groups],
        inputs=jax.tree.map(
            lambda *rows: np.concatenate(rows),
            *(jax.tree.map(lambda x, i=i: x[i : i + 1], scored.inputs) for scored, i in groups),
        ),
        terms={name: np.stack([scored.terms[name][i] for scored, i in groups]) for name in first.terms},
        thinking_tokens=np.stack([scored.thinking_tokens[i] for scored, i in groups]),
        custom_names=first.custom_names,
        missing_difficulty=np.stack([scored.missing_difficulty[i] for scored, i in groups]),
    )


def completion_rows(
    step: int, scored: Scored, rollout: RolloutBatch, examples: Sequence[Example], *, with_text: bool
) -> list[dict[str, Any]]:
    """The joint record of a step: one row a completion, as JSON."""
    rows = []
    for b, g in np.ndindex(*rollout.lengths.shape):
        example, terms = examples[b], scored.terms
        budget = float(terms["length_budget"][b, g])
        row = {
            "step": step,
            "id": example.id,
            "level": level_of(example, scored, b),
            "difficulty": float(scored.inputs.difficulty[b]),
            "uncertainty": float(scored.inputs.uncertainty[b, g]),
            "completion_tokens": int(rollout.lengths[b, g]),
            "thinking_tokens": int(scored.thinking_tokens[b, g]),
            "length_used": float(scored.inputs.length_used[b, g]),
            "length_budget": budget if np.isfinite(budget) else None,
            **{name: float(values[b, g]) for name, values in terms.items() if name != "length_budget"},
        }
        if with_text:
            row |= {"query": example.query, "text": scored.texts[b][g]}
        rows.append(row)
    return rows


def level_metrics(scored: Scored, examples: Sequence[Example]) -> dict[str, float]:
    """Thinking tokens, length, share over budget and box hits of each level that occurs in a step."""
    levels = np.array([level_of(example, scored, b) for b, example in enumerate(examples)])
    over = np.asarray(scored.inputs.length_used) > scored.terms["length_budget"]
    measured = {
        "thinking_tokens": scored.thinking_tokens,
        "over_budget": over,
        "box_iou": scored.terms["box_iou"],
    }
    found = {"thinking_tokens": float(scored.thinking_tokens.mean())}
    for level in dict.fromkeys(levels.tolist()):
        found |= {
            f"{name}/{level}": float(values[levels == level].mean()) for name, values in measured.items()
        }
    return found


def level_of(example: Example, scored: Scored, index: int) -> str:
    """The example's own level, else that of the difficulty it was given."""
    return example.level or difficulty_level(float(scored.inputs.difficulty[index]))


def _scores(inputs: RewardInputs, config: TrainConfig) -> dict[str, Any]:
    """Everything about the reward of a step, as the update computes it again for itself."""
    rewards = group_rewards(inputs, config.reward)
    advantage = group_advantages(rewards["reward"], standardised=config.loss.shape.standardised)
    return {**rewards, "advantage": advantage}


def _success(answers: AnswerArrays | ObjectTerms, truths: AnswerArrays | None) -> Float[np.ndarray, "b g"]:
    """Where a completion's box is right; of several objects, the share that is."""
    if isinstance(answers, ObjectTerms):
        return np.asarray(answers.box_iou)
    b, g = answers.thinking_format.shape
    spread = jax.tree.map(lambda x: np.repeat(x[:, None], g, axis=1), truths)
    return np.asarray(reward_terms(answers, spread)["box_iou"]).reshape(b, g)


def _to_840(processor: Processor, prompts: Sequence[Prompt]) -> Float[np.ndarray, "b 2"]:
    """Factors from the policy's frame to the 840 frame of solutions."""
    frame = processor.format.coordinate_frame
    return np.float32(FRAME) / np.array(
        [frame_size(frame, model_size=prompt.model_size) for prompt in prompts], np.float32
    )


def _in_frame(answers: AnswerArrays, scale: Float[np.ndarray, "b 2"], g: int) -> AnswerArrays:
    """Answers of `[b * g]` completions as `[b, g]`, scaled."""
    grouped = jax.tree.map(lambda x: x.reshape(-1, g, *x.shape[1:]), answers)
    return replace(
        grouped,
        box=grouped.box * np.tile(scale, 2)[:, None],
        points=grouped.points * scale[:, None, None],
    )


def _thinking_tokens(completion: ParsedCompletion, reward: RewardConfig, count: Any) -> int | None:
    """Tokens of what counts as thought, where that is the unit."""
    return count(reward.measured_thought(completion)) if reward.length_unit == "thinking_tokens" else None
