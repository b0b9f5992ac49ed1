"""Measures the world and draws its picture for `docs/shapereason.md`.

Run as `python -m pixelthink_jax.data.shapes.survey PICTURE.png > tables.md`.
"""

import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pixelthink_jax.data.shapes.chains import STYLES, chain
from pixelthink_jax.data.shapes.world import LEVELS, SPLIT_SIZES, Asked, ShapeReason
from pixelthink_jax.data.targets import difficulty_level
from pixelthink_jax.types import Example

_TOKEN = re.compile(r" ?[A-Za-z]+| ?\d{1,3}|[^\w\s]")


def thinking_tokens(text: str) -> int:
    """Tokens of a chain when every word and every number is one token, as with the tiny policy's tokenizer.

    >>> thinking_tokens("It is at 160 300.")
    6
    """
    return len(_TOKEN.findall(text))


def survey(*, rows: int = 3000, seed: int = 0) -> str:
    """Markdown tables: level shares, what differs between levels, question types, chain lengths."""
    parts = [_level_table(rows, seed), _type_table(rows, seed), _length_table(rows // 3, seed)]
    return "\n\n".join(parts)


def _level_table(rows: int, seed: int) -> str:
    lines = [
        "| split | level | share | objects | scene | segmentation | language | D | target area | visible |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for split in ("train", "test", "ood"):
        world = ShapeReason(split, seed=seed)
        asked = [world.asked(i) for i in range(min(rows, SPLIT_SIZES[split]))]
        for level in LEVELS:
            group = [item for item in asked if difficulty_level(item.difficulty.mean) == level]
            values = np.mean([_measures(item) for item in group], axis=0)
            shown = " | ".join(f"{value:.2f}" for value in values[:5])
            share = f"{100 * len(group) / len(asked):.1f} %"
            lines.append(f"| {split} | {level} | {share} | {shown} | {values[5]:.1%} | {values[6]:.1%} |")
    return "\n".join(lines)


def _measures(asked: Asked) -> list[float]:
    graph, difficulty = asked.graph, asked.difficulty
    item = graph.objects[asked.trace.answer]
    area = float(item.window.sum()) / (graph.scene.width * graph.scene.height)
    scores = [difficulty.scene, difficulty.segmentation, difficulty.language, difficulty.mean]
    return [float(len(graph.objects)), *scores, area, item.visible]


def _type_table(rows: int, seed: int) -> str:
    lines = ["| question structure | easy | medium | hard |", "|---|---|---|---|"]
    for split in ("train", "ood"):
        world = ShapeReason(split, seed=seed)
        asked = [world.asked(i) for i in range(min(rows, SPLIT_SIZES[split]))]
        found = Counter((item.query.type, difficulty_level(item.difficulty.mean)) for item in asked)
        for name in sorted({name for name, _ in found}):
            shares = " | ".join(f"{100 * found[name, level] / len(asked):.1f} %" for level in LEVELS)
            lines.append(f"| {split}: {name} | {shares} |")
    return "\n".join(lines)


def _length_table(rows: int, seed: int) -> str:
    """Words (and tokens) of every style for the same questions, and of their mixture."""
    world, rng = ShapeReason("train", seed=seed), np.random.default_rng(seed)
    texts: dict[tuple[str, str], list[str]] = {}
    for i in range(rows):
        asked = world.asked(i)
        level = difficulty_level(asked.difficulty.mean)
        for style in STYLES:
            thought = chain(asked.query, asked.trace, asked.graph, style, rng)
            texts.setdefault((level, style), []).append(thought)
    lines = [
        "| level | " + " | ".join(STYLES) + " | mixture | deviation / mean |",
        "|---|" + "---|" * (len(STYLES) + 2),
    ]
    for level in LEVELS:
        words = {style: np.array([len(text.split()) for text in texts[level, style]]) for style in STYLES}
        tokens = {style: np.mean([thinking_tokens(text) for text in texts[level, style]]) for style in STYLES}
        cells = [f"{words[style].mean():.0f} ({tokens[style]:.0f})" for style in STYLES]
        mean = sum(share * words[style].mean() for style, share in STYLES.items())
        square = sum(share * np.mean(words[style] ** 2.0) for style, share in STYLES.items())
        total = sum(share * tokens[style] for style, share in STYLES.items())
        spread = np.sqrt(square - mean**2) / mean
        lines.append(f"| {level} | {' | '.join(cells)} | {mean:.0f} ({total:.0f}) | {spread:.2f} |")
    return "\n".join(lines)


def draw(path: str | Path, *, columns: int = 5, seed: int = 0) -> None:
    """A grid of test scenes by level, and of out-of-distribution ones, with question and target."""
    import matplotlib.pyplot as plt
    from PIL import Image

    rows = [(level, _of_level("test", level, seed)) for level in LEVELS]
    rows.append(("out of distribution", iter(ShapeReason("ood", seed=seed))))
    size = (2.35 * columns, 2.75 * len(rows))
    figure, grid = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axes, (name, examples) in zip(grid, rows, strict=True):
        for axis, example in zip(axes, examples, strict=False):
            axis.imshow(example.image)
            axis.contour(np.asarray(example.mask), levels=[0.5], colors="white", linewidths=1.4)
            axis.set_title(_wrapped(example.query), fontsize=7.5)
            axis.set_xlabel(f"D = {example.difficulty:.1f}", fontsize=7)
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, fontsize=10)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=96)
    plt.close(figure)
    with Image.open(path) as picture:
        colours = picture.convert("RGB")
    # Dithering, which hides the bands of a small palette, needs the palette given.
    small = colours.quantize(palette=colours.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
    small.save(path, optimize=True)


def _of_level(split: str, level: str, seed: int) -> Iterator[Example]:
    return (example for example in ShapeReason(split, seed=seed) if example.level == level)


def _wrapped(text: str, *, width: int = 32) -> str:
    """A title on at most three lines."""
    return "\n".join(textwrap.wrap(text, width))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        draw(sys.argv[1])
    sys.stdout.write(survey() + "\n")
