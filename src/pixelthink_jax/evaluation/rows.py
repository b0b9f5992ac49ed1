"""One completion against one example, as a flat record that is one line of `rows_<style>.jsonl`.

A row holds what every measure of a report is computed from, the predicted mask included, so that a run can be
reported, compared, and scored under other conventions for ignore pixels, without its models.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Row:
    """What is known about one completion.

    Attributes:
        id: The example's.
        level: Its difficulty level; None if unknown.
        query_type: Kind of question, where the dataset names one.
        query: The question.
        text: The completion.
        valid: The strict reading finds thought and answer in their format.
        failure: First cause by which the strict reading fails; None for a valid completion.
        answer_error: Why the protocol finds no answer; None when it does.
        box_iou: With the true box, in the 840 frame; 0 without an answer.
        box_correct: `box_iou` is above 0.5; where there is no target, whether no box was given.
        points_in_box: Both points lie inside the completion's own box, edges included.
        mask_iou: With the true mask; None when no masks were made.
        intersection: Pixels in both masks.
        union: Pixels in either; all of the true mask without an answer.
        thinking_words: Words of the thought, an unclosed one included.
        thinking_tokens: Its tokens.
        completion_tokens: Tokens of the whole completion, the end token included.
        uncertainty: Mean of one minus the top-two probability gap.
        finish_reason: `stop` or `length`.
        response_words: Words of the whole completion, as the released length reward counts them.
        index: Place of the example in the dataset; -1 if unknown.
        difficulty: The example's, 1 to 10; None if unknown.
        protocol: Name of the protocol that read and scored it.
        skipped: Why the protocol leaves the example out of its averages; None if it counts.
        boxes_xyxy: Box of each object, in pixels of the image, as the segmenter was given them.
        points_xy: Points of each object, likewise.
        image_size: `[width, height]` of the image.
        mask_score: Mean predicted IoU of the masks that were joined; None without masks.
        mask_counts: The predicted mask as compressed COCO run lengths; None without masks.
        mask_pixels: Pixels of the predicted mask; None without masks.
        target_pixels: Of the true mask under the protocol's convention; 0 is a question without a target; None where
            the example has no mask.
        prompt_tokens: Of the prompt, image tokens included; 0 where nobody measured.
        image_grid: Patches the policy saw: frames, rows, columns.
        decode_slots: Rows of decode steps spent on it, see `types.GenerationCost`.
        seconds: Wall-clock time by stage, shared work divided evenly.
        reasoning: Parts of the judged quality of the thought, in [0, 1], `score` among them; None if not judged.
    """

    id: str
    level: str | None
    query_type: str | None
    query: str
    text: str
    valid: bool
    failure: str | None
    answer_error: str | None
    box_iou: float
    box_correct: bool
    points_in_box: bool
    mask_iou: float | None
    intersection: int | None
    union: int | None
    thinking_words: int
    thinking_tokens: int
    completion_tokens: int
    uncertainty: float
    finish_reason: str
    response_words: int = 0
    index: int = -1
    difficulty: float | None = None
    protocol: str = "pixelthink"
    skipped: str | None = None
    boxes_xyxy: list[list[float]] = field(default_factory=list)
    points_xy: list[list[list[float]]] = field(default_factory=list)
    image_size: list[int] = field(default_factory=list)
    mask_score: float | None = None
    mask_counts: str | None = None
    mask_pixels: int | None = None
    target_pixels: int | None = None
    prompt_tokens: int = 0
    image_grid: list[int] = field(default_factory=list)
    decode_slots: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    reasoning: dict[str, float] | None = None

    def line(self) -> str:
        """The row as one line of JSON."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file; a last line that a kill cut short is left out.

    Raises:
        InputError: Another line is not such a row; the message names it.
    """
    path = Path(path)
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [_row(line, f"{path}, line {n}") for n, line in enumerate(whole.split("\n"), 1) if line]


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows beside the file and renames, so that a kill leaves no half of it."""
    write_text(Path(path), "".join(row.line() for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes beside and renames, so that a kill leaves no half of a file, and two writers none of each other's."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def counted(rows: Iterable[Row]) -> list[Row]:
    """The rows that a protocol's averages are over."""
    return [row for row in rows if row.skipped is None]


def encode_mask(mask: Bool[np.ndarray, "H W"]) -> str:
    """A mask as compressed COCO run lengths.

    >>> mask = np.eye(3, dtype=bool)
    >>> (decode_mask(encode_mask(mask), (3, 3)) == mask).all()
    np.True_
    """
    from pycocotools import mask as coco

    counts: Any = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


def decode_mask(counts: str, image_size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """A mask from its run lengths.

    Args:
        counts: From `encode_mask`.
        image_size: `(width, height)`.
    """
    from pycocotools import mask as coco

    found: Any = {"size": [image_size[1], image_size[0]], "counts": counts.encode("ascii")}
    return np.asarray(coco.decode(found)).astype(bool)


def _row(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
        return Row(**values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: not a row of an evaluation ({error})") from error
