"""Runs a sweep: every arm trained and asked, choices made on the tuning split, what is there already left alone.

base + arm + choice + seed -> train -> rows of the tuning questions -> the arm's choice
                                    -> rows of the reported questions -> table, figure
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.evaluation.comparison import compare
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.rows import Row, read_rows, write_rows
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.summary import ALL
from pixelthink_jax.grpo import train
from pixelthink_jax.policy import Policy
from pixelthink_jax.runtime.meter import Metrics
from pixelthink_jax.runtime.remote import check_out_dir
from pixelthink_jax.segmentation import load_policy, load_segmenter
from pixelthink_jax.segmentation.loading import model_folder
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.sweep.config import SweepConfig
from pixelthink_jax.sweep.table import ArmRows, write_results

Progress = Callable[[str, str], None]
"""Called with (arm, what is being done)."""

START = "as it came"
"""The arm that every other is compared with: the policy before any training."""


@dataclasses.dataclass(frozen=True)
class _Tools:
    """What every arm uses."""

    config: SweepConfig
    segmenter: Segmenter
    say: Progress


def run_sweep(config: SweepConfig, *, on_progress: Progress | None = None) -> dict[str, ArmRows]:
    """Runs what is missing of a sweep and writes `results.md`, `results.json` and `results.png`.

    Args:
        config: The sweep.
        on_progress: See `Progress`.

    Returns:
        Rows of the reported questions of every arm, the policy as it came first.

    Raises:
        InputError: A setting, a model or a dataset cannot be used.
    """
    check_out_dir(config.out)
    segmenter = load_segmenter(model_folder(config.segmenter))
    tools = _Tools(config, segmenter, on_progress or (lambda arm, doing: None))
    first = config.training(next(iter(config.arms)), 0, config.seeds[0])
    start = load_policy(model_folder(first.policy), dtype=first.dtype)
    tune = _rows(tools, START, start, config.generation, "tune", config.tune, Path(config.out) / "start")
    found = {START: _reported(tools, START, [(start, Path(config.out) / "start")], config.generation, 0)}
    for arm, settings in config.arms.items():
        if settings.train:
            found[arm] = _trained_arm(tools, arm, tune)
        else:
            found[arm] = _reported(tools, arm, [(start, Path(config.out) / arm)], config.asked(arm), 0)
    abouts = {START: "before any training"} | {arm: each.about for arm, each in config.arms.items()}
    write_results(Path(config.out), found, abouts, start=START)
    return found


def _trained_arm(tools: _Tools, arm: str, start_rows: list[Row]) -> ArmRows:
    config = tools.config
    choice = _choice(tools, arm, start_rows)
    policies = []
    for seed in config.seeds:
        policies.append((_policy(tools, arm, choice, seed), Path(config.training(arm, choice, seed).out)))
    return _reported(tools, arm, policies, config.asked(arm), choice)


def _choice(tools: _Tools, arm: str, start_rows: list[Row]) -> int:
    """The choice of an arm, each tried with the first seed on the tuning questions."""
    config, seed = tools.config, tools.config.seeds[0]
    count = len(config.arms[arm].choices)
    if count < 2:
        return 0
    tried = []
    for choice in range(count):
        policy, folder = _policy(tools, arm, choice, seed), Path(config.training(arm, choice, seed).out)
        tried.append(_rows(tools, arm, policy, config.asked(arm), "tune", config.tune, folder))
    return best_choice(start_rows, tried, allowed_loss=config.allowed_loss)


def best_choice(start: Sequence[Row], tried: Sequence[Sequence[Row]], *, allowed_loss: float) -> int:
    """The choice with the shortest thoughts among those that keep the masks; that with the best masks if none does.

    Args:
        start: Rows of the policy before any training.
        tried: Rows of each choice on the same questions.
        allowed_loss: gIoU that a choice may cost and still keep the masks.
    """
    judged = []
    for number, rows in enumerate(tried):
        change = compare(start, rows)[ALL]
        kept = change["giou"].difference.value >= -allowed_loss
        judged.append((not kept, change["tokens"].after if kept else -change["giou"].after, number))
    return min(judged)[2]


def _policy(tools: _Tools, arm: str, choice: int, seed: int) -> Policy:
    """The trained policy of one run; a finished run is only loaded."""
    settings = tools.config.training(arm, choice, seed)
    done = Path(settings.out) / "finished"
    if done.is_file():
        return load_policy(Path(settings.out) / "policy", dtype=settings.dtype)

    def show(step: int, metrics: Metrics, rows: object) -> None:
        del rows
        doing = (
            f"choice {choice}, seed {seed}: step {step} of {settings.steps}, reward {metrics['reward']:.2f}, "
        )
        tools.say(arm, f"{doing}{metrics['thinking_tokens']:.0f} thinking tokens")

    run = train(settings, callbacks=[show])
    if not run.finished:
        raise KeyboardInterrupt
    done.touch()
    # As it was exported and not as it was trained, so that a resumed sweep reports the same numbers.
    return load_policy(Path(settings.out) / "policy", dtype=settings.dtype)


def _reported(
    tools: _Tools, arm: str, policies: list[tuple[Policy, Path]], generation: Generation, choice: int
) -> ArmRows:
    """Rows of every reported set of questions, one list a seed."""
    return ArmRows(
        choice,
        {
            name: [_rows(tools, arm, policy, generation, name, data, folder) for policy, folder in policies]
            for name, data in tools.config.report.items()
        },
    )


def _rows(
    tools: _Tools,
    arm: str,
    policy: Policy,
    generation: Generation,
    name: str,
    data: DatasetConfig,
    folder: Path,
) -> list[Row]:
    """One row a question, from the file where it is there."""
    path = folder / f"rows_{name}.jsonl"
    if path.is_file():
        return read_rows(path)
    source = open_source(**vars(data))
    rows = evaluate_policy(
        policy,
        source,
        segmenter=tools.segmenter,
        generation=generation,
        on_progress=lambda done, total: tools.say(arm, f"{name}: {done} of {total} questions"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(path, rows)
    return rows
