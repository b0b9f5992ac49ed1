"""Training examples from disk to model input on one core: 840x840 pictures out of ArrayRecord files, and as patches."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pixelthink_jax.bench.timing import Measurement, measurements
from pixelthink_jax.data.pipeline import example_stream
from pixelthink_jax.data.prepared import build_dataset, read_prepared
from pixelthink_jax.data.rows import mask_solution
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.processing.images import resize
from pixelthink_jax.types import Example

_JPEG_QUALITY = 95


class _Pictures:
    """Smooth scenes with grain, about as large when compressed as photographs are."""

    def __init__(self, count: int, form: str):
        self._count, self._form = count, form

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        mask = np.zeros((FRAME, FRAME), bool)
        mask[100:500, 200:700] = True
        solution = mask_solution(mask)
        return Example(f"row-{index}", self._pixels(index), "the thing", mask=mask, solution=solution)

    def picture(self, index: int) -> bytes:
        """The encoded picture of a row."""
        import io

        buffer = io.BytesIO()
        Image.fromarray(self._pixels(index)).save(buffer, format=self._form, quality=_JPEG_QUALITY)
        return buffer.getvalue()

    def _pixels(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (FRAME // 20, FRAME // 20, 3), dtype=np.uint8)
        smooth = resize(coarse, FRAME, FRAME, filter="bicubic")
        return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def measure_reading(*, examples: int = 32, rounds: int = 5) -> list[Measurement]:
    """Times one pass of the shuffled grain stream in this process, masks and checks included.

    Normalisation and patches are made on the device, so a row is ready when it is decoded.

    Args:
        examples: Rows of the dataset.
        rounds: Timed passes.

    Returns:
        One row for each encoding of the pictures; the rate counts examples of one core.
    """
    with tempfile.TemporaryDirectory() as folder:
        passes: dict[str, Callable[[], object]] = {}
        for form in ("JPEG", "PNG"):
            built = build_dataset(form.lower(), {"train": _Pictures(examples, form)}, Path(folder))
            passes[form] = _pass_over(built.folder)
        return measurements(f"read, {FRAME}x{FRAME}", passes, rounds=rounds, count=examples, unit="examples")


def _pass_over(folder: Path) -> Callable[[], object]:
    source = read_prepared(folder, "train")

    def read() -> int:
        with example_stream(source, seed=0, num_epochs=1) as stream:
            return sum(len(batch) for batch in stream)

    return read
