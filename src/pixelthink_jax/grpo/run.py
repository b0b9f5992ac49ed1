"""The GRPO run: questions in, trained policy folder out; resumable at every checkpoint.

Each step, in four sentences: the questions of the step are asked, each several times, with the parameters as they are;
the completions are read and paid on the host; one jitted update follows (`rl.step`); what happened is logged.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.summary import LevelSummary, summarise
from pixelthink_jax.grpo.asking import REMEDIES
from pixelthink_jax.grpo.card import write_card
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.difficulty import open_difficulty
from pixelthink_jax.grpo.opening import Parts, begin_or_continue, open_data, open_parts
from pixelthink_jax.grpo.questions import Questions
from pixelthink_jax.grpo.scoring import Scored, completion_rows, level_metrics
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.processor import Prompt
from pixelthink_jax.rl.flops import GroupShape, update_flops
from pixelthink_jax.rl.placement import place_batch
from pixelthink_jax.rl.rollout import RolloutBatch
from pixelthink_jax.rl.step import StepBatch
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.hosts import any_of, fetch, from_first, is_first
from pixelthink_jax.runtime.interrupts import stop_requests
from pixelthink_jax.runtime.mesh import in_use
from pixelthink_jax.runtime.meter import Metrics
from pixelthink_jax.runtime.out_of_memory import out_of_memory
from pixelthink_jax.runtime.profiling import Profiler
from pixelthink_jax.runtime.remote import mirrored
from pixelthink_jax.runtime.run_log import JsonLines, RunLog
from pixelthink_jax.runtime.train_state import TrainState
from pixelthink_jax.types import Example

Callback = Callable[[int, Metrics, list[dict[str, Any]]], None]
"""Called after each step with its number, its metrics and one row for each completion."""


@dataclass(frozen=True)
class Run:
    """What a run leaves behind.

    Attributes:
        policy: The policy as trained so far; also in `out/policy`.
        history: Metrics of every step, the first step first.
        evaluation: The last evaluation by level; None without one.
        finished: False where the run was interrupted before its last step.
    """

    policy: Policy
    history: list[Metrics]
    evaluation: dict[str, LevelSummary] | None
    finished: bool


def train(
    config: TrainConfig,
    *,
    reward: Callable[..., Any] | None = None,
    dataset: ExampleSource | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Trains to the last step, continuing from the newest checkpoint in `config.out` if there is one.

    An interrupt (Ctrl-C, SIGTERM) ends the run after the step under way, with a checkpoint and a usable policy. Where
    several processes run, all of them call this; one that is interrupted ends all after the same step, and files are
    written by the first.

    Args:
        config: The run.
        reward: A reward of one's own, `f(completions, examples) -> [prompts, group]`, added to the accuracy.
        dataset: The questions, in place of `config.data`.
        callbacks: See `Callback`.

    Returns:
        The trained policy, also exported to `config.out/policy`, and what was logged.

    Raises:
        InputError: A setting, a model, a data row or a custom reward cannot be used, memory does not suffice, or loss
            or gradient stopped being finite.
    """
    with mirrored(config.out) as files:
        return _train(config, files, reward, dataset, callbacks)


def _train(
    config: TrainConfig,
    files: Path,
    reward: Callable[..., Any] | None,
    dataset: ExampleSource | None,
    callbacks: Sequence[Callback],
) -> Run:
    """The run, whose files but checkpoints go to `files`."""
    with ExitStack() as stack:
        source = dataset if dataset is not None else open_data(config.data)
        parts = open_parts(config, reward)
        checkpoints = stack.enter_context(closing(Checkpoints(config.out, every=config.checkpoint_every)))
        state, done, position = begin_or_continue(config, parts, checkpoints)
        questions = stack.enter_context(
            closing(Questions(source, config, open_difficulty(config.difficulty), state=position))
        )
        record = stack.enter_context(closing(_Record(config, files, done))) if is_first() else None
        stopping = stack.enter_context(stop_requests())
        summaries, step, stop = None, done, False
        while step < config.steps and not stop:
            step += 1
            if record:
                record.profiler.before(step)
            state, metrics, table = _one_step(step, state, questions, parts, config)
            if record:
                record.profiler.after(step)
            if _due(step, config):
                summaries = _evaluate(parts, state, config)
                metrics |= _evaluation_metrics(summaries)
            if record:
                record.log.write(step, metrics)
                record.rows.write(table)
            for callback in callbacks:
                callback(step, metrics, table)
            stop = any_of(stopping.is_set())
            extra = {"questions": questions.state(), "config": to_tree(config)}
            checkpoints.save(step, state, extra, force=step == config.steps or stop)
        history = from_first(lambda: record.log.rows() if record else [])
    policy, folder = parts.policy_at(state), files / "policy"
    policy.export(folder, dtype=config.export_dtype)
    if config.lora is not None:
        policy.export_adapter(files / "adapter", config.lora)
    from_first(lambda: write_card(folder, config, history, summaries))
    return Run(policy, history, summaries, finished=step == config.steps)


class _Record:
    """What one process writes about a run: metrics, completions and a trace."""

    def __init__(self, config: TrainConfig, files: Path, done: int):
        """Opens the files in a folder; rows after step `done` are cut."""
        self.log = RunLog(files, resume_step=done, wandb_project=config.wandb_project)
        self.profiler = Profiler(files, config.profile_steps)
        self.rows = JsonLines(files / "completions.jsonl", resume_step=done)

    def close(self) -> None:
        """Closes them, the last opened first."""
        for part in (self.rows, self.profiler, self.log):
            part.close()


def _one_step(
    step: int, state: TrainState, questions: Questions, parts: Parts, config: TrainConfig
) -> tuple[TrainState, Metrics, list[dict[str, Any]]]:
    """Asks, reads, pays and updates once."""
    seconds = parts.seconds
    seconds.start()
    asked = parts.asker(step, qwen_vl.whole_params(state.params, parts.frozen), questions, seconds)
    examples, prompts, scored = asked.examples, asked.prompts, asked.scored
    first_part = prompts[: len(prompts) // config.micro_batches]
    layout = (
        parts.policy.prompt_arrays(first_part).layout if config.micro_batches > 1 else asked.arrays.layout
    )
    batch = StepBatch(
        prompts=asked.arrays,
        layout=layout,
        tokens=asked.rollout.tokens,
        lengths=asked.rollout.lengths,
        sampler_logprobs=asked.rollout.logprobs,
        rewards=scored.inputs,
        banned=parts.policy.rules.banned,
    )
    seconds.lap("host")
    mesh = parts.meshes.train
    with out_of_memory("update", REMEDIES), in_use(mesh), parts.compiling("update", step, batch):
        batch = parts.reference.scored(place_batch(batch, mesh))
        state, found = parts.update(state, parts.frozen, parts.reference.resident, batch)
        found = fetch(found)
    seconds.lap("update")
    metrics = {name: float(value) for name, value in found.items()}
    _check_finite(step, metrics, examples)
    tokens = int(asked.rollout.lengths.sum())
    metrics |= level_metrics(scored, examples) | _counts(scored, questions) | seconds.read()
    metrics["groups_left_out"] = float(asked.left_out)
    metrics["tokens_per_second"] = tokens / metrics["seconds/step"]
    metrics["update_tflops_per_second"] = (
        _update_flops(parts, prompts, asked.rollout, config) / metrics["seconds/update"] / 1e12
    )
    with_text = step % config.samples_every == 0 or step == 1
    return state, metrics, completion_rows(step, scored, asked.rollout, examples, with_text=with_text)


def _update_flops(parts: Parts, prompts: Sequence[Prompt], rollout: RolloutBatch, config: TrainConfig) -> int:
    """Model FLOPs of the update, reference included."""
    groups = [
        GroupShape(len(prompt.input_ids), tuple(lengths), (prompt.grid_thw,))
        for prompt, lengths in zip(prompts, np.asarray(rollout.lengths).tolist(), strict=True)
    ]
    return update_flops(
        parts.policy.config, groups, reference=config.loss.kl_coef > 0, freeze_vision=not config.trains_vision
    )


def _due(step: int, config: TrainConfig) -> bool:
    every = config.evaluation.every
    return every > 0 and (step % every == 0 or step == config.steps)


def _evaluate(parts: Parts, state: TrainState, config: TrainConfig) -> dict[str, LevelSummary]:
    assert parts.held_out is not None
    rows = evaluate_policy(
        parts.policy_at(state),
        parts.held_out,
        segmenter=parts.segmenter,
        generation=config.evaluation.generation,
    )
    return summarise(rows, seed=config.seed)


def _evaluation_metrics(summaries: dict[str, LevelSummary]) -> Metrics:
    names = ("giou", "ciou", "valid", "box_accuracy", "tokens", "words")
    found = {}
    for level, summary in summaries.items():
        for name in names:
            estimate = getattr(summary, name)
            if estimate is not None:
                found[f"evaluation/{name}/{level}"] = float(estimate.value)
    return found


def _check_finite(step: int, metrics: Metrics, examples: Sequence[Example]) -> None:
    """Stops before a broken update is logged or saved; the last checkpoint is whole."""
    broken = [name for name in ("loss", "gradient_norm") if not np.isfinite(metrics[name])]
    if broken:
        ids = ", ".join(example.id for example in examples)
        raise InputError(
            f"step {step}: {broken[0]} is {metrics[broken[0]]}, with the examples {ids}; the last checkpoint is "
            "untouched: lower optim.learning_rate, or look at these rows"
        )


def _counts(scored: Scored, questions: Questions) -> Metrics:
    counts = {f"skipped/{cause}": float(n) for cause, n in questions.skipped.items()}
    custom = {f"reward/{n}": float(v.mean()) for n, v in scored.terms.items() if n in scored.custom_names}
    return counts | custom | {"missing_difficulty": float(scored.missing_difficulty.sum())}
