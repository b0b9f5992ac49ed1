"""Masks of three states as run-length codes, and COCO segmentations as pixels.

A mask in memory is bool `[H, W]`, or uint8 with 1 target and 255 ignore where it has ignore pixels; stored, it is
one compressed COCO run-length code for each of the two states.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import MAX_IMAGE_PIXELS

IGNORE = 255
Mask = Bool[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"]


def pack_mask(mask: Mask) -> str:
    """A mask as JSON text: size, and the codes of target and ignore pixels.

    >>> pack_mask(np.array([[1, 255], [1, 0]], np.uint8))
    '{"size": [2, 2], "target": "022", "ignore": "211"}'
    """
    codes = {"target": _encode(mask == 1)}
    if mask.dtype == np.uint8 and (mask == IGNORE).any():
        codes["ignore"] = _encode(mask == IGNORE)
    return json.dumps({"size": list(mask.shape), **codes})


def unpack_mask(text: str) -> Mask:
    """The inverse of `pack_mask`.

    >>> unpack_mask('{"size": [2, 2], "target": "022", "ignore": "211"}').tolist()
    [[1, 255], [1, 0]]
    """
    packed = json.loads(text)
    target = _decode(packed["target"], packed["size"])
    if "ignore" not in packed:
        return target
    mask = target.astype(np.uint8)
    mask[_decode(packed["ignore"], packed["size"])] = IGNORE
    return mask


def count_layers(segmentation: Any, height: int, width: int, where: str) -> UInt8[np.ndarray, "H W"]:
    """How many parts of a COCO segmentation lie on each pixel.

    The published builders sum the parts and then take pixels equal to 1, so that overlaps drop out of boxes and points.

    Args:
        segmentation: Polygons `[[x, y, x, y, ...], ...]`, or a run-length code `{size, counts}`.
        height: Of the image.
        width: Of the image.
        where: What the segmentation belongs to, for the message.

    Raises:
        InputError: A polygon has less than three points or lies outside the image, or a code is damaged.
    """
    if isinstance(segmentation, Mapping):
        return decode_rle(segmentation, height, width, where).astype(np.uint8)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str) or not segmentation:
        raise InputError(f"{where}: its segmentation is {segmentation!r:.60}, expected polygons or an RLE")
    for part in segmentation:
        check_polygon(part, height, width, where)
    parts = [[float(v) for v in part] for part in segmentation]
    return coco.decode(coco.frPyObjects(cast(Any, parts), height, width)).sum(axis=2).astype(np.uint8)


def check_polygon(flat: Any, height: int, width: int, where: str) -> None:
    """Refuses what is no polygon on the image.

    Raises:
        InputError: It has not three points, its numbers are no numbers, no part of it is on the image, or a point is
            more than the image's size away from it, which would take for ever to draw.
    """
    numbers = flat if isinstance(flat, (list, tuple)) else []
    if len(numbers) % 2 or not all(is_number(v) for v in numbers):
        raise InputError(f"{where}: a polygon is {flat!r:.60}, expected x, y, x, y, ... in finite numbers")
    if len(numbers) < 6:
        raise InputError(f"{where}: a polygon of {len(numbers) // 2} points; expected at least 3")
    xs, ys = numbers[::2], numbers[1::2]
    if max(xs) < 0 or max(ys) < 0 or min(xs) >= width or min(ys) >= height:
        raise InputError(f"{where}: a polygon lies outside its image of {width}x{height} pixels")
    if min(min(xs) / width, min(ys) / height) < -1 or max(max(xs) / width, max(ys) / height) > 2:
        raise InputError(f"{where}: a polygon reaches far outside its image of {width}x{height} pixels")


def decode_rle(code: Mapping[str, Any], height: int, width: int, where: str) -> Bool[np.ndarray, "H W"]:
    """Pixels of a run-length code, compressed (text) or not (a list of runs).

    Raises:
        InputError: Its size is not the image's, or its runs do not fill it.
    """
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise InputError(
            f"{where}: an RLE of size {size} for an image of [{height}, {width}] (height, width)"
        )
    if height * width > MAX_IMAGE_PIXELS:
        raise InputError(
            f"{where}: an RLE of {height}x{width} pixels, more than the limit {MAX_IMAGE_PIXELS}"
        )
    runs = _runs(counts) if isinstance(counts, (str, bytes)) else counts
    if not isinstance(runs, (list, tuple)) or not all(type(v) is int and v >= 0 for v in runs):
        raise InputError(f"{where}: RLE counts {counts!r:.40} are neither runs nor a compressed text of them")
    if sum(runs) != height * width:
        raise InputError(f"{where}: the runs of an RLE cover {sum(runs)} of {height * width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(text: str | bytes) -> list[int] | None:
    """The runs of a compressed code, read here because pycocotools writes past its buffer on a damaged one."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        symbol = byte - 48
        if not 0 <= symbol < 64 or shift > 30:
            return None
        value |= (symbol & 31) << shift
        shift += 5
        if symbol & 32:
            continue
        if symbol & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs


def is_number(value: Any) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _encode(pixels: np.ndarray) -> str:
    counts = cast(bytes, coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"])
    return counts.decode("ascii")


def _decode(counts: str, size: Sequence[int]) -> np.ndarray:
    return coco.decode(cast(Any, {"size": list(size), "counts": counts.encode("ascii")})).astype(bool)
