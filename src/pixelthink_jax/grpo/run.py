"""The GRPO run: questions in, trained policy folder out; resumable at every checkpoint.

Each step, in four sentences: the questions of the step are asked, each several times, with the parameters as they are;
the completions are read and paid on the host; one jitted update follows (`rl.step`); what happened is logged.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.config import to_tree
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.run import model_folder
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.summary import LevelSummary, summarise
from pixelthink_jax.grpo.asking import REMEDIES, Asker
from pixelthink_jax.grpo.card import write_card
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.custom_rewards import CustomReward, load_custom_rewards
from pixelthink_jax.grpo.difficulty import open_difficulty
from pixelthink_jax.grpo.questions import Questions
from pixelthink_jax.grpo.sampler import Sampler
from pixelthink_jax.grpo.scoring import Scored, Scorer, completion_rows, level_metrics
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.processor import Prompt
from pixelthink_jax.rl.flops import GroupShape, update_flops
from pixelthink_jax.rl.placement import place_batch
from pixelthink_jax.rl.rollout import RolloutBatch
from pixelthink_jax.rl.step import StepBatch, make_step
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.mesh import Meshes, in_use, make_meshes
from pixelthink_jax.runtime.meter import Metrics, Stopwatch
from pixelthink_jax.runtime.optim import make_optimizer
from pixelthink_jax.runtime.out_of_memory import out_of_memory
from pixelthink_jax.runtime.profiling import Profiler
from pixelthink_jax.runtime.recompilation import CompileWatch
from pixelthink_jax.runtime.remote import mirrored
from pixelthink_jax.runtime.run_log import JsonLines, RunLog
from pixelthink_jax.runtime.train_state import TrainState, begin
from pixelthink_jax.segmentation import load_policy, load_segmenter
from pixelthink_jax.segmenter import Segmenter
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


@dataclass
class _Parts:
    """What the loop works with; everything that is opened once."""

    policy: Policy
    begun: Any
    frozen: Any
    reference: Any
    segmenter: Segmenter | None
    asker: Asker
    update: Any
    held_out: ExampleSource | None
    meshes: Meshes
    seconds: Stopwatch = field(default_factory=Stopwatch)
    compiling: CompileWatch = field(default_factory=CompileWatch)

    def shardings(self, tree: Any) -> Any:
        """Where each leaf of a training state goes; None on one device."""
        mesh = self.meshes.train
        return None if mesh is None else qwen_vl.tree_shardings(tree, mesh, self.policy.config)

    def policy_at(self, state: TrainState) -> Policy:
        """The policy as trained so far."""
        return self.policy.with_params(qwen_vl.whole_params(state.params, self.frozen))


def train(
    config: TrainConfig,
    *,
    reward: Callable[..., Any] | None = None,
    dataset: ExampleSource | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Trains to the last step, continuing from the newest checkpoint in `config.out` if there is one.

    An interrupt (Ctrl-C, SIGTERM) ends the run after the step under way, with a checkpoint and a usable policy.

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
        source = dataset if dataset is not None else _open(config.data)
        parts = _open_parts(config, reward)
        checkpoints = stack.enter_context(closing(Checkpoints(config.out, every=config.checkpoint_every)))
        state, done, position = _begin(config, parts, checkpoints)
        questions = stack.enter_context(
            closing(Questions(source, config, open_difficulty(config.difficulty), state=position))
        )
        log = stack.enter_context(
            closing(RunLog(files, resume_step=done, wandb_project=config.wandb_project))
        )
        profiler = stack.enter_context(closing(Profiler(files, config.profile_steps)))
        rows = stack.enter_context(closing(JsonLines(files / "completions.jsonl", resume_step=done)))
        stopping = stack.enter_context(_stop_requests())
        summaries, step = None, done
        while step < config.steps and not stopping.is_set():
            step += 1
            profiler.before(step)
            state, metrics, table = _one_step(step, state, questions, parts, config)
            profiler.after(step)
            if _due(step, config):
                summaries = _evaluate(parts, state, config)
                metrics |= _evaluation_metrics(summaries)
            log.write(step, metrics)
            rows.write(table)
            for callback in callbacks:
                callback(step, metrics, table)
            extra = {"questions": questions.state(), "config": to_tree(config)}
            checkpoints.save(step, state, extra, force=step == config.steps or stopping.is_set())
        history = log.rows()
    policy, folder = parts.policy_at(state), files / "policy"
    policy.export(folder, dtype=config.export_dtype)
    if config.lora is not None:
        policy.export_adapter(files / "adapter", config.lora)
    write_card(folder, config, history, summaries)
    return Run(policy, history, summaries, finished=step == config.steps)


def _one_step(
    step: int, state: TrainState, questions: Questions, parts: _Parts, config: TrainConfig
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
        batch = place_batch(batch, mesh)
        state, found = parts.update(state, parts.frozen, parts.reference, batch)
        found = jax.device_get(found)
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


def _update_flops(
    parts: _Parts, prompts: Sequence[Prompt], rollout: RolloutBatch, config: TrainConfig
) -> int:
    """Model FLOPs of the update, reference included."""
    groups = [
        GroupShape(len(prompt.input_ids), tuple(lengths), (prompt.grid_thw,))
        for prompt, lengths in zip(prompts, np.asarray(rollout.lengths).tolist(), strict=True)
    ]
    return update_flops(
        parts.policy.config, groups, reference=config.loss.kl_coef > 0, freeze_vision=not config.trains_vision
    )


def _open_parts(config: TrainConfig, reward: Callable[..., Any] | None) -> _Parts:
    """Opens models, data and compiled functions, the small and likely mistakes first."""
    held_out = _open(config.evaluation.data) if config.evaluation.every else None
    masked = any(custom.kind == "mask_iou" for custom in config.custom_rewards)
    segmenter = None
    if config.evaluation.segmenter is not None and (held_out is not None or masked):
        segmenter = load_segmenter(model_folder(config.evaluation.segmenter))
    meshes = make_meshes(
        config.mesh,
        config.rollout_mesh,
        prompts=config.prompts_per_step,
        group_size=config.group_size,
        micro_batches=config.micro_batches,
    )
    policy = load_policy(model_folder(config.policy), dtype=config.dtype, mesh=meshes.train)
    if meshes.rollout is not None:
        qwen_vl.check_mesh(policy.config, meshes.rollout.shape, where="rollout_mesh")
    rewards = load_custom_rewards(config.custom_rewards, processor=policy.processor, segmenter=segmenter)
    if reward is not None:
        rewards.append(CustomReward(getattr(reward, "__name__", "reward"), reward))
    update = make_step(
        config.step_config,
        policy.config,
        policy.processor.image_config,
        make_optimizer(config.optim, config.steps),
        dtype=jnp.dtype(config.dtype),
    )
    trained, frozen = qwen_vl.trained_and_frozen(
        policy.params,
        policy.config,
        freeze_vision=config.freeze_vision,
        lora=config.lora,
        key=jax.random.key(config.seed),
    )
    sampler = Sampler(
        policy,
        config.sampling,
        group_size=config.group_size,
        seed=config.seed,
        dtype=config.dtype,
        meshes=meshes,
    )
    scorer = Scorer(config, policy.processor, open_difficulty(config.difficulty), rewards)
    return _Parts(
        policy=policy,
        begun=trained,
        frozen=frozen,
        reference=policy.params if config.loss.kl_coef > 0 else None,
        segmenter=segmenter,
        asker=Asker(policy, sampler, scorer, config),
        update=update,
        held_out=held_out,
        meshes=meshes,
    )


def _begin(
    config: TrainConfig, parts: _Parts, checkpoints: Checkpoints
) -> tuple[TrainState, int, dict[str, Any] | None]:
    """The state to begin with, the steps already made, and where the questions stand."""
    optimizer = make_optimizer(config.optim, config.steps)
    # A copy, as the state is donated at each update: the policy that was loaded stays, and is the reference.
    state = begin(jax.tree.map(jnp.copy, parts.begun), optimizer, shardings=parts.shardings)
    if checkpoints.latest_step() is None:
        return state, 0, None
    done, state, extra = checkpoints.restore(state)
    _check_same_run(config, extra["config"])
    return state, done, extra["questions"]


_MAY_CHANGE = (
    "out",
    "mesh",
    "rollout_mesh",
    "steps",
    "evaluation",
    "samples_every",
    "checkpoint_every",
    "export_dtype",
    "profile_steps",
    "wandb_project",
)
"""Settings that a resumed run may change; any other would make it another run under the same name."""


def _check_same_run(config: TrainConfig, stored: dict[str, Any]) -> None:
    now = to_tree(config)
    for name, value in now.items():
        if name not in _MAY_CHANGE and stored.get(name) != value:
            raise InputError(
                f"{config.out}: its checkpoint was made with {name} = {stored.get(name)!r:.200}, this config says "
                f"{value!r:.200}; use another --out folder, or the config it was made with"
            )


def _due(step: int, config: TrainConfig) -> bool:
    every = config.evaluation.every
    return every > 0 and (step % every == 0 or step == config.steps)


def _evaluate(parts: _Parts, state: TrainState, config: TrainConfig) -> dict[str, LevelSummary]:
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
    return counts | custom | {"missing_difficulty": float(scored.missing_difficulty)}


def _open(data: Any) -> ExampleSource:
    return open_source(**vars(data))


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: Any) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopping.set()

    for number in before:
        signal.signal(number, request)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
