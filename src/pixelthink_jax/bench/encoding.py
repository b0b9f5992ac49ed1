"""The SAM2 image encoder on one square of the model's size, weights random."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from pixelthink_jax.bench.timing import Measurement, measurements
from pixelthink_jax.models.sam2.config import PRESETS, Sam2Config
from pixelthink_jax.models.sam2.model import encode_image, init_params
from pixelthink_jax.segmenter import Segmenter


class EncodingRival(Protocol):
    """Anything that embeds normalised squares."""

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """The image embedding."""
        ...


def measure_encoding(
    *,
    model: Sam2Config = PRESETS["tiny"],
    rounds: int = 5,
    rival: tuple[str, Callable[[Path], EncodingRival]] | None = None,
) -> list[Measurement]:
    """Times trunk and pyramid on one image.

    Args:
        model: The architecture, filled with random weights.
        rounds: Timed calls of each contestant.
        rival: Its name, and what opens it from the same weights.

    Returns:
        One row for each contestant; the rate counts images.
    """
    params = init_params(model, jax.random.key(0))
    side = model.image_size
    pixels = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    encode = jax.jit(partial(encode_image, config=model))
    contestants: dict[str, Callable[[], object]] = {
        "pixelthink": lambda: jax.block_until_ready(encode(params, pixels)),
    }
    with tempfile.TemporaryDirectory() as folder:
        if rival is not None:
            Segmenter(params, model).export(Path(folder) / "model")
            opened = rival[1](Path(folder) / "model")
            contestants[rival[0]] = lambda: opened.embed(pixels)
        return measurements(f"encode, {side}x{side}", contestants, rounds=rounds, count=1, unit="images")
