"""The completions that a step learns from: questions asked, read and paid, and asked anew where nothing can be learned.

A group whose completions are all paid alike has no advantage and no gradient. With dynamic sampling (DAPO, Yu et al.
2025, arXiv:2503.14476, section 3.2) such groups are left out and other questions asked in their place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.questions import Questions
from pixelthink_jax.grpo.sampler import Sampler
from pixelthink_jax.grpo.scoring import Scored, Scorer, joined_scores
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.processor import Prompt
from pixelthink_jax.rl.rollout import PromptArrays, RolloutBatch
from pixelthink_jax.runtime.hosts import fetch, joined, together
from pixelthink_jax.runtime.meter import Stopwatch
from pixelthink_jax.runtime.out_of_memory import out_of_memory
from pixelthink_jax.runtime.recompilation import CompileWatch
from pixelthink_jax.types import Example

REMEDIES = (
    "raise micro_batches, set remat to full, lower sampling.max_new_tokens, prompts_per_step or group_size"
)


@dataclass(frozen=True)
class Asked:
    """The questions of a step and what came of them.

    Attributes:
        examples: The questions; those that another process has read come without their pictures.
        prompts: Their prompts.
        arrays: The prompts on the device.
        rollout: The completions, on the host.
        scored: What they are paid.
        left_out: Groups that had nothing to teach and were replaced.
    """

    examples: list[Example]
    prompts: list[Prompt]
    arrays: PromptArrays
    rollout: RolloutBatch
    scored: Scored
    left_out: int = 0


class Asker:
    """Asks the questions of a step with the parameters as they are."""

    def __init__(self, policy: Policy, sampler: Sampler, scorer: Scorer, config: TrainConfig):
        """See the class."""
        self._policy, self._sampler, self._scorer, self._config = policy, sampler, scorer, config
        self._compiling = CompileWatch()

    def __call__(self, step: int, params: Any, questions: Questions, seconds: Stopwatch) -> Asked:
        """The completions of a step.

        Args:
            step: Number of the update.
            params: The whole policy's parameters.
            questions: Where they come from.
            seconds: Runs; laps `host` and `rollout` are taken.
        """
        found: list[Asked] = []
        for attempt in range(1 + self._config.more_rollouts):
            found.append(self._ask(step, params, questions.next_step(), attempt, seconds))
            if self._config.more_rollouts == 0:
                return found[0]
            if sum(int(teaches(asked.scored).sum()) for asked in found) >= self._config.prompts_per_step:
                break
        return self._chosen(found)

    def _ask(
        self, step: int, params: Any, examples: list[Example], attempt: int, seconds: Stopwatch
    ) -> Asked:
        prompts = joined(together(lambda: self._prompts(examples)))
        examples = _with_others(examples)
        arrays = self._policy.prompt_arrays(prompts)
        seconds.lap("host")
        with out_of_memory("rollout", REMEDIES), self._compiling("rollout", step, arrays):
            rollout = fetch(self._sampler(params, arrays, step=step, attempt=attempt))
        seconds.lap("rollout")
        return Asked(examples, prompts, arrays, rollout, self._scorer(step, rollout, prompts, examples))

    def _prompts(self, examples: Sequence[Example]) -> list[Prompt]:
        return [
            self._policy.processor.prompt(
                each.image, each.query, instruction=self._config.instruction or each.instruction
            )
            for each in examples
        ]

    def _chosen(self, found: list[Asked]) -> Asked:
        """The groups that teach, in order; where they are too few, filled up with others, so that shapes stay."""
        places = [(a, i) for a, asked in enumerate(found) for i in range(len(asked.examples))]
        useful = [(a, i) for a, i in places if teaches(found[a].scored)[i]]
        others = [place for place in places if place not in useful]
        chosen = sorted((useful + others)[: self._config.prompts_per_step])
        examples = [found[a].examples[i] for a, i in chosen]
        prompts = [found[a].prompts[i] for a, i in chosen]
        rollout = joined_groups([(found[a].rollout, i) for a, i in chosen])
        scored = joined_scores([(found[a].scored, i) for a, i in chosen])
        arrays = self._policy.prompt_arrays(prompts)
        return Asked(examples, prompts, arrays, rollout, scored, len(places) - len(chosen))


def _with_others(examples: list[Example]) -> list[Example]:
    """The questions of all processes: this one's whole, the others' without their pictures."""
    bare = [replace(each, image=np.zeros((1, 1, 3), np.uint8), mask=None, metadata={}) for each in examples]
    parts: list[list[Example]] = together(lambda: bare)
    parts[jax.process_index()] = examples
    return joined(parts)


def teaches(scored: Scored) -> np.ndarray:
    """Which groups have completions that are paid differently."""
    return np.ptp(scored.terms["reward"], axis=1) > 0


def joined_groups(groups: Sequence[tuple[RolloutBatch, int]]) -> RolloutBatch:
    """One rollout of groups taken from several, each padded to the longest room."""
    room = max(rollout.tokens.shape[-1] for rollout, _ in groups)

    def column(name: str) -> np.ndarray:
        rows = [np.asarray(getattr(rollout, name)[i]) for rollout, i in groups]
        if rows[0].ndim == 2:
            rows = [np.pad(row, ((0, 0), (0, room - row.shape[-1]))) for row in rows]
        return np.stack(rows)

    return RolloutBatch(**{name: column(name) for name in RolloutBatch.__dataclass_fields__})
