"""How large a request is: the picture as it is sent, and tokens before anyone has counted them."""

import math

import numpy as np
from jaxtyping import UInt8

from pixelthink_jax.judge.protocol import Request

_PIXELS_PER_TOKEN_SIDE = 28
_CHARACTERS_PER_TOKEN = 4


def fit_image(image: UInt8[np.ndarray, "H W 3"], max_side: int) -> tuple[int, int]:
    """Width and height at which an image is sent: its own, or the longer side shortened to `max_side`.

    >>> fit_image(np.zeros((500, 2000, 3), np.uint8), 1000)
    (1000, 250)
    """
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def input_tokens(request: Request, max_side: int | None) -> int:
    """About the tokens of picture and prompt: one for 28x28 pixels, as Qwen2.5-VL counts, and one for 4 characters."""
    height, width = request.image.shape[:2]
    if max_side is not None:
        width, height = fit_image(request.image, max_side)
    image = math.ceil(width / _PIXELS_PER_TOKEN_SIDE) * math.ceil(height / _PIXELS_PER_TOKEN_SIDE)
    return image + math.ceil(len(request.prompt) / _CHARACTERS_PER_TOKEN)


def longest_tokens(request: Request, max_side: int | None) -> int:
    """Tokens of a request and of the longest answer it allows."""
    return input_tokens(request, max_side) + request.form.max_tokens
