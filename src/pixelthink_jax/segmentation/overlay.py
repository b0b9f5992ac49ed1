"""The picture of an answer: mask tinted and outlined, box and points drawn over the image."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from pixelthink_jax.types import Answer, Segmentation

MASK_COLOUR = (255, 64, 32)
BOX_COLOUR = (40, 220, 90)
POINT_COLOUR = (255, 230, 40)
_TINT = 0.45


def draw_overlay(image: UInt8[np.ndarray, "H W 3"], result: Segmentation) -> UInt8[np.ndarray, "H W 3"]:
    """Draws an answer over its image; lines scale with the image, and an image without an answer is returned as is.

    Raises:
        ValueError: The image and the mask differ in size.
    """
    if image.shape[:2] != result.mask.shape:
        raise ValueError(f"image {image.shape[:2]} and mask {result.mask.shape} differ in size")
    line = max(1, round(max(image.shape[:2]) / 300))
    picture = image.copy()
    tinted = picture[result.mask] * (1 - _TINT) + np.array(MASK_COLOUR) * _TINT
    picture[result.mask] = np.rint(tinted).astype(np.uint8)
    inside = np.asarray(binary_erosion(result.mask, iterations=line), bool)
    picture[result.mask & ~inside] = MASK_COLOUR
    return picture if result.answer is None else _draw_answer(picture, result.answer, line)


def _draw_answer(picture: np.ndarray, answer: Answer, line: int) -> np.ndarray:
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    # A box that ends at the image's edge is drawn on its last pixels.
    left, top, right, bottom = answer.box_xyxy
    right, bottom = max(left, min(right, canvas.width - 1)), max(top, min(bottom, canvas.height - 1))
    draw.rectangle((left, top, right, bottom), outline=BOX_COLOUR, width=line)
    radius = 2.5 * line
    for x, y in answer.points_xy:
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=POINT_COLOUR, outline=(0, 0, 0), width=line
        )
    return np.array(canvas)
