"""The report of a demonstration as one HTML document."""

import shlex

import jax

from pixelthink_jax import __version__
from pixelthink_jax.demo.record import Demo, Shown
from pixelthink_jax.demo.scenes import SPLIT
from pixelthink_jax.evaluation import report
from pixelthink_jax.evaluation.curves import curve
from pixelthink_jax.evaluation.html import Html, page, tag
from pixelthink_jax.evaluation.summary import ALL, LEVELS
from pixelthink_jax.grpo import TrainConfig
from pixelthink_jax.segmentation.loading import TINY_POLICY

_PICTURE_WIDTH = 640
_LARGE_WIDTH = 1000
_CURVE_WINDOW = 5


def demo_page(found: Demo, training: TrainConfig) -> str:
    """The whole page.

    Args:
        found: The demonstration.
        training: The run that was made in it.
    """
    n = len(found.before)
    return page(
        "pixelthink: thinking as long as the question deserves",
        tag("h1", "Thinking as long as the question deserves"),
        tag(
            "p",
            "An image and a question go in; a policy thinks, points with a box and two points, and a segmenter draws "
            f"the mask. {_models(training)} Here the policy was trained with GRPO for {len(found.history)} steps to "
            "think only as long as a budget allows that the difficulty of the question and the policy's own "
            f"uncertainty set. Below: {n} drawn scenes of the {SPLIT} split, which no training reads, before and "
            "after it.",
        ),
        report.change_tiles(found.changes),
        tag("h2", "What changed, by difficulty of the question"),
        report.change_table(found.changes),
        tag(
            "p",
            "Under each pair: the change with its 95 % interval, by bootstrap over the scenes, the same scenes before "
            "and after. A thought that was never closed counts with its whole length.",
            kind="soft",
        ),
        tag("h2", "The training"),
        _curves(found),
        tag("h2", "Questions and answers, before and after"),
        tag("p", "The first test scenes of each level, then one scene at photograph size."),
        report.legend(),
        _cards(found.shown),
        tag("h2", "Answers that were not in the format, after"),
        report.failure_table(found.after),
        tag("h2", "How this was made"),
        _provenance(found, training),
    )


def _models(training: TrainConfig) -> str:
    if training.policy == TINY_POLICY:
        return "These are the real architectures (Qwen2.5-VL and SAM2) at a tiny size, made for such scenes."
    return f"Policy: {training.policy}."


def _curves(found: Demo) -> Html:
    def lines(**names: str) -> dict[str, tuple[list[float], list[float]]]:
        return {
            label: (
                [row["step"] for row in found.history if name in row],
                [row[name] for row in found.history if name in row],
            )
            for label, name in names.items()
        }

    by_level = {level: f"thinking_tokens/{level}" for level in LEVELS}
    hits = {level: f"box_iou/{level}" for level in LEVELS}
    curves = (
        curve("reward", lines(reward="reward"), window=_CURVE_WINDOW),
        curve("thinking tokens", lines(**by_level), window=_CURVE_WINDOW),
        curve("share of boxes found", lines(**hits), window=_CURVE_WINDOW),
        curve("divergence from the policy as it came", lines(kl="kl"), window=_CURVE_WINDOW),
    )
    note = tag(
        "p",
        f"Of sampled completions, mean of the last {_CURVE_WINDOW} steps; other scenes each step.",
        kind="soft",
    )
    return tag("div", tag("div", *curves, kind="cards"), note)


def _cards(shown: tuple[Shown, ...]) -> Html:
    *scenes, large = shown
    cards = [
        report.answer_card(each.example, answer, width=_PICTURE_WIDTH, note=when)
        for each in scenes
        for when, answer in (("before", each.before), ("after", each.after))
    ]
    size = f"{large.example.image.shape[1]} x {large.example.image.shape[0]} pixels"
    note = f"A picture of {size}, after"
    last = report.answer_card(large.example, large.after, width=_LARGE_WIDTH, note=note, large=True)
    return tag("div", *cards, last, kind="cards")


def _provenance(found: Demo, training: TrainConfig) -> Html:
    device = jax.devices()[0]
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.seconds.items())
    where = f"pixelthink_jax {__version__}, jax {jax.__version__}, {device.platform} ({device.device_kind})"
    policy = f"{training.out}/policy"
    ask = ["pixelthink", "segment", "--policy", policy, "--image", str(found.photograph)]
    ask += ["--query", found.shown[-1].example.query, "--out", "answer"]
    n = found.changes[ALL]["tokens"].n
    return tag(
        "div",
        tag("p", f"{where}; {spent}. Decoding of the {n} scenes is greedy."),
        tag("p", "Ask the trained policy about the large picture yourself: ", tag("code", shlex.join(ask))),
        tag(
            "p",
            "Every completion with its scores is in ",
            tag("code", "rows_before.jsonl"),
            " and ",
            tag("code", "rows_after.jsonl"),
            " beside this page, and every completion of the training, with its reward, budget and advantage, in ",
            tag("code", "training/completions.jsonl"),
            ".",
        ),
    )
