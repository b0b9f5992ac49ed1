"""The demonstration from end to end.

answer and evaluate -> train with GRPO -> answer and evaluate again -> report.html
"""

import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pixelthink_jax import __version__
from pixelthink_jax.config import to_tree
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.demo.page import demo_page
from pixelthink_jax.demo.recipe import STEPS, recipe
from pixelthink_jax.demo.record import Demo, Shown
from pixelthink_jax.demo.scenes import SPLIT, first_of_each_level, photograph
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.comparison import compare
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.length_table import LengthTable
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.summary import summarise
from pixelthink_jax.grpo import TrainConfig, train
from pixelthink_jax.policy import Policy
from pixelthink_jax.runtime.meter import Metrics
from pixelthink_jax.runtime.remote import check_out_dir
from pixelthink_jax.segmentation import load_models, segment
from pixelthink_jax.segmentation.loading import TINY_POLICY
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Example, Segmentation

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, in all, note)."""

_LARGEST_BATCH = 50


@dataclass(frozen=True)
class DemoConfig:
    """A demonstration.

    Attributes:
        out: Folder for the report, its numbers, and the training run.
        scenes: Held-out scenes to evaluate, before and after.
        steps: Updates of the training.
        pictures: Scenes of each level to show.
        policy: Policy folder; None takes the tiny one.
        segmenter: Segmenter folder; None takes the tiny one.
        max_new_tokens: Longest completion of the evaluation.
    """

    out: Path
    scenes: int = 500
    steps: int = STEPS
    pictures: int = 2
    policy: Path | None = None
    segmenter: Path | None = None
    max_new_tokens: int = 640

    def __post_init__(self) -> None:
        most = len(ShapeReason(SPLIT)) // 2
        if not 1 <= self.scenes <= most:
            raise InputError(f"scenes must be 1 to {most}, got {self.scenes}")
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if self.pictures < 0:
            raise InputError(f"pictures must not be negative, got {self.pictures}")

    @property
    def training(self) -> TrainConfig:
        """The run that is made."""
        return recipe(self.out / "training", self.policy or TINY_POLICY, steps=self.steps)


@dataclass
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str):  # noqa: ANN201 - a context manager
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run_demo(config: DemoConfig, *, on_progress: Progress | None = None) -> Demo:
    """Runs the demonstration and writes `report.html`, every row, the numbers, and the large picture.

    Args:
        config: Models and sizes.
        on_progress: See `Progress`.

    Raises:
        InputError: A model is missing or cannot be used, or the folder cannot be written to.
    """
    say, clock = on_progress or _silent, _Clock()
    out = check_out_dir(config.out)
    with clock.stage("loading"):
        policy, segmenter = load_models(config.policy, config.segmenter)
    examples = [*first_of_each_level(config.pictures), photograph(config.scenes)]
    with clock.stage("pictures"):
        answers_before = _answers(policy, segmenter, examples, config, "pictures", say)
    with clock.stage("evaluation"):
        before = _evaluate(policy, segmenter, config, "before", say)
    with clock.stage("training"):
        trained, history = _train(config, say)
    with clock.stage("evaluation"):
        after = _evaluate(trained, segmenter, config, "after", say)
    with clock.stage("pictures"):
        answers_after = _answers(trained, segmenter, examples, config, "pictures again", say)
    shown = tuple(Shown(*each) for each in zip(examples, answers_before, answers_after, strict=True))
    found = Demo(out, before, after, compare(before, after), history, shown, clock.seconds)
    _write(found, config)
    return found


def _train(config: DemoConfig, say: Progress) -> tuple[Policy, list[Metrics]]:
    """A run of its own each time: one that a former demonstration left would only be found finished."""
    settings = config.training
    shutil.rmtree(settings.out, ignore_errors=True)

    def show(step: int, metrics: Metrics, rows: object) -> None:
        del rows
        note = f"reward {metrics['reward']:.2f}, {metrics['thinking_tokens']:.0f} thinking tokens"
        say("training", step, config.steps, note)

    run = train(settings, callbacks=[show])
    if not run.finished:
        raise KeyboardInterrupt
    return run.policy, run.history


def _answers(
    policy: Policy,
    segmenter: Segmenter,
    examples: list[Example],
    config: DemoConfig,
    stage: str,
    say: Progress,
) -> list[Segmentation]:
    found = []
    for example in examples:
        found.append(
            segment(policy, segmenter, example.image, example.query, max_new_tokens=config.max_new_tokens)
        )
        say(stage, len(found), len(examples), "")
    return found


def _evaluate(
    policy: Policy, segmenter: Segmenter, config: DemoConfig, stage: str, say: Progress
) -> list[Row]:
    return evaluate_policy(
        policy,
        open_source("shapereason", split=SPLIT, examples=config.scenes),
        segmenter=segmenter,
        generation=Generation(
            max_new_tokens=config.max_new_tokens, batch_size=min(_LARGEST_BATCH, config.scenes)
        ),
        on_progress=lambda done, total: say(stage, done, total, ""),
    )


def _write(found: Demo, config: DemoConfig) -> None:
    found.out.mkdir(parents=True, exist_ok=True)
    rows = {"before": found.before, "after": found.after}
    table = LengthTable(rows, {name: summarise(part) for name, part in rows.items()})
    about = {"split": SPLIT, "scenes": config.scenes, "version": __version__}
    table.save(
        found.out,
        about={**about, "training": to_tree(config.training), "changes": to_tree(found.changes)},
    )
    Image.fromarray(found.shown[-1].example.image).save(found.photograph)
    found.report.write_text(demo_page(found, config.training), encoding="utf-8")


def _silent(stage: str, done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""
