"""The demonstration: the tiny models answer, are measured on held-out scenes, and a report shows how it went.

    load -> segment a few scenes and one large picture -> evaluate held-out scenes -> report.html

Nothing is chosen by its result: the scenes shown are the first of each level, the scenes evaluated the first of the
test split, which no training run reads.
"""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
from PIL import Image

from pixelthink_jax import __version__
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation import report
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.html import Html, page, tag
from pixelthink_jax.evaluation.length_table import LengthTable, forced_length_table
from pixelthink_jax.evaluation.summary import ALL, LEVELS
from pixelthink_jax.policy import Policy
from pixelthink_jax.segmentation import check_out_dir, load_models, segment
from pixelthink_jax.segmentation.loading import TINY_POLICY, TINY_SEGMENTER
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Example, Segmentation

SPLIT = "test"
PHOTOGRAPH = (1600, 1200)
PHOTOGRAPH_CANVAS = (256, 192)
"""Canvas of the scene drawn at photograph size: the one with the same sides."""

Progress = Callable[[str, int, int], None]

_PICTURE_WIDTH = 640
_LARGE_WIDTH = 1000
_LARGEST_BATCH = 25


@dataclass(frozen=True)
class DemoConfig:
    """A demonstration.

    Attributes:
        out: Folder for the report and its numbers.
        scenes: Held-out scenes to evaluate.
        pictures: Scenes of each level to show.
        policy: Policy folder; None takes the tiny one.
        segmenter: Segmenter folder; None takes the tiny one.
        max_new_tokens: Longest completion.
    """

    out: Path
    scenes: int = 100
    pictures: int = 2
    policy: Path | None = None
    segmenter: Path | None = None
    max_new_tokens: int = 640

    def __post_init__(self) -> None:
        most = len(ShapeReason(SPLIT)) // 2
        if not 1 <= self.scenes <= most:
            raise InputError(f"scenes must be 1 to {most}, got {self.scenes}")
        if self.pictures < 0:
            raise InputError(f"pictures must not be negative, got {self.pictures}")


@dataclass(frozen=True)
class Demo:
    """What a demonstration found.

    Attributes:
        report: The page.
        photograph: The large picture, for questions of one's own.
        table: The evaluation.
        shown: Each question that is pictured, with its answer; the large one last.
        seconds: Time by stage.
    """

    report: Path
    photograph: Path
    table: LengthTable
    shown: tuple[tuple[Example, Segmentation], ...]
    seconds: dict[str, float]


def run_demo(config: DemoConfig, *, on_progress: Progress | None = None) -> Demo:
    """Runs the demonstration and writes `report.html`, its rows, table and summary, and the large picture.

    Args:
        config: Models and sizes.
        on_progress: Called with (stage, done, in all).

    Raises:
        InputError: A model is missing or cannot be used, or the folder cannot be written to.
    """
    say = on_progress or _silent
    out, times = check_out_dir(config.out), [time.perf_counter()]
    policy, segmenter = load_models(config.policy, config.segmenter)
    times.append(time.perf_counter())
    shown = _answer_examples(policy, segmenter, config, say)
    times.append(time.perf_counter())
    table = _evaluate(policy, segmenter, config, say)
    times.append(time.perf_counter())
    spent = [after - before for before, after in zip(times, times[1:], strict=False)]
    seconds: dict[str, float] = dict(zip(("loading", "pictures", "evaluation"), spent, strict=True))
    out.mkdir(parents=True, exist_ok=True)
    found = Demo(out / "report.html", out / "photograph.png", table, shown, seconds)
    table.save(out, about={"split": SPLIT, "scenes": config.scenes, "version": __version__})
    Image.fromarray(shown[-1][0].image).save(found.photograph)
    found.report.write_text(demo_page(found, config), encoding="utf-8")
    return found


def _answer_examples(
    policy: Policy, segmenter: Segmenter, config: DemoConfig, say: Progress
) -> tuple[tuple[Example, Segmentation], ...]:
    """Asks about the first scenes of each level and about one large picture."""
    examples = [*first_of_each_level(config.pictures), photograph(config.scenes)]
    shown = []
    for example in examples:
        result = segment(
            policy, segmenter, example.image, example.query, max_new_tokens=config.max_new_tokens
        )
        shown.append((example, result))
        say("pictures", len(shown), len(examples))
    return tuple(shown)


def _evaluate(policy: Policy, segmenter: Segmenter, config: DemoConfig, say: Progress) -> LengthTable:
    generation = Generation(
        max_new_tokens=config.max_new_tokens, batch_size=min(_LARGEST_BATCH, config.scenes)
    )
    return forced_length_table(
        policy,
        open_source("shapereason", split=SPLIT, examples=config.scenes),
        styles=("free",),
        segmenter=segmenter,
        generation=generation,
        on_progress=lambda _, done, total: say("evaluation", done, total),
    )


def first_of_each_level(count: int) -> list[Example]:
    """The first test scenes of each level, easiest first."""
    found: dict[str | None, list[Example]] = {level: [] for level in LEVELS}
    examples = iter(ShapeReason(SPLIT))
    while any(len(of_level) < count for of_level in found.values()):
        example = next(examples)
        found[example.level].append(example)
    return [example for of_level in found.values() for example in of_level[:count]]


def photograph(after: int) -> Example:
    """The first test scene from row `after` on that fills a photograph, drawn at that size."""
    world = ShapeReason(SPLIT)
    canvases = ((i, world.asked(i).graph.scene) for i in range(after, len(world)))
    index = next(i for i, scene in canvases if (scene.width, scene.height) == PHOTOGRAPH_CANVAS)
    return ShapeReason(SPLIT, render_size=PHOTOGRAPH)[index]


def demo_page(found: Demo, config: DemoConfig) -> str:
    """The report as one HTML document."""
    summaries = found.table.summaries["free"]
    n = summaries[ALL].n
    return page(
        "pixelthink: what the models see",
        tag("h1", "What the models see"),
        tag(
            "p",
            "An image and a question go in; a policy thinks, points with a box and two points, and a segmenter "
            f"draws the mask. {_models(config)} Below: {n} drawn scenes of the {SPLIT} split.",
        ),
        report.tiles(summaries[ALL]),
        tag("h2", "By difficulty of the question"),
        report.level_table(summaries),
        tag("p", "Under each number: its 95 % interval, by bootstrap over the scenes.", kind="soft"),
        tag("h2", "Mask quality: gIoU"),
        report.bars(summaries, "giou", limit=1.0),
        tag("h2", "Words of thought"),
        report.bars(summaries, "words"),
        tag("h2", "Questions and answers"),
        tag(
            "p", f"The first {config.pictures} test scenes of each level, then one scene at photograph size."
        ),
        report.legend(),
        _cards(found.shown),
        tag("h2", "Answers that were not in the format"),
        report.failure_table(found.table.rows["free"]),
        tag("h2", "How this was made"),
        _provenance(found, config),
    )


def _models(config: DemoConfig) -> str:
    if config.policy is None and config.segmenter is None:
        return "These are the real architectures (Qwen2.5-VL and SAM2) at a tiny size, trained on other such scenes."
    return f"Policy: {config.policy or TINY_POLICY}. Segmenter: {config.segmenter or TINY_SEGMENTER}."


def _cards(shown: tuple[tuple[Example, Segmentation], ...]) -> Html:
    *scenes, (large, answer) = shown
    size = f"{large.image.shape[1]} x {large.image.shape[0]} pixels"
    cards = [report.answer_card(example, result, width=_PICTURE_WIDTH) for example, result in scenes]
    last = report.answer_card(large, answer, width=_LARGE_WIDTH, note=f"A picture of {size}", large=True)
    return tag("div", *cards, last, kind="cards")


def _provenance(found: Demo, config: DemoConfig) -> Html:
    device = jax.devices()[0]
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.seconds.items())
    where = f"pixelthink_jax {__version__}, jax {jax.__version__}, {device.platform} ({device.device_kind})"
    ask = ["pixelthink", "segment", "--image", str(found.photograph), "--query", found.shown[-1][0].query]
    return tag(
        "div",
        tag("p", f"{where}; {spent}. Decoding is greedy, at most {config.max_new_tokens} tokens."),
        tag(
            "p", "Ask about the large picture yourself: ", tag("code", shlex.join([*ask, "--out", "answer"]))
        ),
        tag(
            "p",
            "Every completion with its scores is in ",
            tag("code", "rows_free.jsonl"),
            " beside this page.",
        ),
    )


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
