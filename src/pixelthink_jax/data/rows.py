"""From what a file says of a question to an `Example`: the checks all datasets share, the answer from the mask."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from pixelthink_jax.data.masks import Mask
from pixelthink_jax.data.targets import (
    box_to_frame,
    difficulty_level,
    mask_box,
    mask_points,
    point_to_frame,
    solution_text,
)
from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import load_image
from pixelthink_jax.types import Example

_LOWEST, _HIGHEST = 1.0, 10.0


def mask_solution(pixels: Bool[np.ndarray, "H W"]) -> str:
    """The genuine solution string of a mask, in the 840 frame.

    Raises:
        ValueError: The mask is empty.

    >>> mask_solution(np.ones((2, 4), bool))
    '<box>(0,0),(630,420)</box><points>(630,420),(210,420)</points>'
    """
    height, width = pixels.shape
    first, second = mask_points(pixels)
    points = point_to_frame(first, width, height), point_to_frame(second, width, height)
    return solution_text(box_to_frame(mask_box(pixels), width, height), points)


def listed_object(pixels: Bool[np.ndarray, "H W"]) -> dict[str, list[int]]:
    """One object as the multi-object sets write it: its box and the first of its points, in the 840 frame.

    Raises:
        ValueError: The mask is empty.

    >>> listed_object(np.ones((2, 4), bool))
    {'bbox_2d': [0, 0, 630, 420], 'point_2d': [630, 420]}
    """
    height, width = pixels.shape
    first, _ = mask_points(pixels)
    box = box_to_frame(mask_box(pixels), width, height)
    return {"bbox_2d": list(box), "point_2d": list(point_to_frame(first, width, height))}


def make_example(
    where: str,
    *,
    id: str,
    image: UInt8[np.ndarray, "H2 W2 3"],
    query: Any,
    mask: Mask | None = None,
    solution: str | None = None,
    no_target: bool = False,
    difficulty: Any = None,
    metadata: dict[str, object] | None = None,
    **texts: str | None,
) -> Example:
    """A checked row; its solution is that of the mask where none is given.

    Args:
        where: File and row, for messages.
        id: Name of the row.
        image: Upright picture.
        query: The question.
        mask: At the size of the picture.
        solution: As published.
        no_target: Nothing in the picture is what the question asks for; otherwise an empty mask is a mistake.
        difficulty: 1 to 10; None is unknown.
        metadata: What else is known.
        texts: Further text fields of `Example`.

    Raises:
        InputError: The question is no text, mask and image differ in size, or the mask is empty.
    """
    check_text(query, where, "query")
    if mask is not None and mask.shape != image.shape[:2]:
        raise InputError(
            f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]}, the upright image "
            f"{image.shape[1]}x{image.shape[0]}; a rotation tag (EXIF) that one of them ignored does this"
        )
    if mask is not None and not no_target and not (mask == 1).any():
        raise InputError(f"{where}: the mask is empty; leave the row out or correct it")
    if solution is None and mask is not None and not no_target:
        solution = mask_solution(mask == 1)
    score = check_difficulty(difficulty, where)
    return Example(
        id=id,
        image=image,
        query=query,
        mask=mask,
        solution=solution,
        difficulty=score,
        level=None if score is None else difficulty_level(score),
        metadata=metadata or {},
        **{name: text for name, text in texts.items() if text is not None},  # type: ignore[arg-type]
    )


def check_text(text: Any, where: str, name: str) -> None:
    """Refuses what is no text, an empty one, and one that no file can hold.

    Raises:
        InputError: As said.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: {name} is {text!r:.80}, expected a text")
    if not text.strip():
        raise InputError(f"{where}: {name} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {name} holds half of a surrogate pair: {text!a:.80}") from error


def check_difficulty(value: Any, where: str) -> float | None:
    """A score from 1 to 10, or None.

    Raises:
        InputError: It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _LOWEST <= value <= _HIGHEST:
        raise InputError(f"{where}: difficulty is {value!r:.40}, expected a number from 1 to 10")
    return float(value)


def cell_image(value: Any, where: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a table's cell: bytes, or the struct `{bytes, path}` that the datasets library writes.

    Raises:
        InputError: It is neither, or no picture.
    """
    return load_picture(cell_bytes(value, where), where)


def cell_bytes(value: Any, where: str) -> bytes:
    """The encoded picture of a table's cell.

    Raises:
        InputError: There is none.
    """
    data = value.get("bytes") or value.get("path") if isinstance(value, dict) else value
    if isinstance(data, str) and data:
        return file_bytes(Path(data), where)
    if not isinstance(data, bytes) or not data:
        raise InputError(f"{where}: image is {value!r:.60}, expected bytes or the path of a file")
    return data


def file_bytes(path: Path, where: str) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: It is missing, or no file.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {str(path):.200} cannot be read ({type(error).__name__})") from error


def load_picture(source: Any, where: str) -> UInt8[np.ndarray, "H W 3"]:
    """`load_image`, with file and row in its message.

    Raises:
        InputError: The picture is missing, damaged or too large.
    """
    try:
        return load_image(source)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def png_bytes(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
