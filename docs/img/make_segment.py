"""Draws `segment.png`, the picture of the README: the first test scene of each level, answered by the tiny models.

.venv/bin/python docs/img/make_segment.py
"""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pixelthink_jax import segment
from pixelthink_jax.demo.scenes import first_of_each_level
from pixelthink_jax.segmentation import draw_overlay, load_models
from pixelthink_jax.types import Example, Segmentation

WIDTH, PICTURE_HEIGHT, HEIGHT, MARGIN = 420, 320, 660, 14


def panel(example: Example, result: Segmentation) -> Image.Image:
    """A question, its overlay and its thought, one below the other."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(16), ImageFont.load_default(13)
    question = textwrap.fill(f"{example.level}: {example.query}", 46)
    draw.text((MARGIN, MARGIN), question, fill="black", font=bold)
    overlay = Image.fromarray(draw_overlay(example.image, result))
    overlay.thumbnail((WIDTH - 2 * MARGIN, PICTURE_HEIGHT))
    scale = min((WIDTH - 2 * MARGIN) / overlay.width, PICTURE_HEIGHT / overlay.height)
    overlay = overlay.resize((round(overlay.width * scale), round(overlay.height * scale)))
    sheet.paste(overlay, ((WIDTH - overlay.width) // 2, 64))
    thought = textwrap.shorten(result.thinking, 520, placeholder=" ...")
    draw.text((MARGIN, 76 + PICTURE_HEIGHT), textwrap.fill(thought, 58), fill=(70, 70, 70), font=plain)
    words = len(result.thinking.split())
    draw.text((MARGIN, HEIGHT - 26), f"{words} words of thought", fill=(150, 60, 30), font=plain)
    return sheet


def main() -> None:
    """Answers and draws the three panels."""
    policy, segmenter = load_models(None, None)
    panels = [
        panel(example, segment(policy, segmenter, example.image, example.query))
        for example in first_of_each_level(1)
    ]
    picture = Image.new("RGB", (WIDTH * len(panels), HEIGHT), "white")
    for place, sheet in enumerate(panels):
        picture.paste(sheet, (place * WIDTH, 0))
    picture.quantize(128).save(Path(__file__).with_name("segment.png"), optimize=True)


if __name__ == "__main__":
    main()
