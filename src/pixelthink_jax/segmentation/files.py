"""An answer on disk: `result.json`, `mask.png`, `overlay.png`, complete or not there at all."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pixelthink_jax.answers import ParsedCompletion, parse_completion
from pixelthink_jax.runtime.remote import check_out_dir
from pixelthink_jax.segmentation.overlay import draw_overlay
from pixelthink_jax.types import Segmentation

# The record last: whoever finds it finds the pictures too.
_FILES = ("mask.png", "overlay.png", "result.json")


def result_record(result: Segmentation) -> dict[str, Any]:
    """An answer as `result.json` holds it (design section 5), coordinates in pixels of the original image.

    `answer_text` is the text inside `<answer>`, or what follows the thought where there is no such tag.
    """
    parsed, answer = parse_completion(result.completion.text), result.answer
    return {
        "query": result.query,
        "thinking": result.thinking,
        "answer_text": _answer_text(parsed),
        "answer_error": result.answer_error,
        "box_xyxy": None if answer is None else list(answer.box_xyxy),
        "points_xy": None if answer is None else [list(point) for point in answer.points_xy],
        "mask_score": result.mask_score,
        "completion_tokens": len(result.completion.token_ids),
        "thinking_tokens": result.thinking_tokens,
        "thinking_words": len(result.thinking.split()),
        "uncertainty": result.completion.uncertainty,
        "seconds": result.seconds,
    }


def write_segmentation(result: Segmentation, image: UInt8[np.ndarray, "H W 3"], out_dir: str | Path) -> None:
    """Writes the three files of an answer; files of an earlier answer are replaced, others are left alone.

    Args:
        result: The answer.
        image: The image it is about.
        out_dir: Folder to write to; made where it is missing.

    Raises:
        InputError: `out_dir` is a file.
        ValueError: The image is not the one the answer is about.
    """
    out_dir = check_out_dir(out_dir).absolute()
    # Made before anything is touched, so that a failure here leaves nothing behind.
    record = json.dumps(result_record(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    overlay = draw_overlay(image, result)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        Image.fromarray(result.mask.astype(np.uint8) * np.uint8(255)).save(work / "mask.png")
        Image.fromarray(overlay).save(work / "overlay.png")
        (work / "result.json").write_text(record, encoding="utf-8")
        out_dir.mkdir(exist_ok=True)
        for name in _FILES:
            os.replace(work / name, out_dir / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _answer_text(parsed: ParsedCompletion) -> str:
    if parsed.answer_text is not None:
        return parsed.answer_text
    return parsed.text.rpartition("</think>")[2].strip()
