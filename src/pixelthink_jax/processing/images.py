"""Images on the host: any readable file to an upright uint8 RGB array, and the resize of Qwen2-VL.

First step of both flows. Source of `smart_resize`: transformers,
models/qwen2_vl/image_processing_qwen2_vl.py; white background under transparency: qwen_vl_utils. `patches`
turns the result into model input on the device.
"""

import contextlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pixelthink_jax.errors import InputError

ImageSource = str | Path | bytes | Image.Image | np.ndarray
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

# Above this an image is refused before it is decoded (Pillow's own warning limit, 89 million pixels).
MAX_IMAGE_PIXELS = 89_478_485
MAX_ASPECT_RATIO = 200

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource, *, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Reads one image as upright 8-bit RGB.

    EXIF orientation is applied, transparency is composited on white, grey, palette, CMYK and 16-bit images
    are converted (16 bits are scaled to 8, not clipped), and an animation gives its first frame.

    Args:
        source: A path, the bytes of a file, a PIL image, or an array `[H, W]`, `[H, W, 1 | 3 | 4]` of
            uint8, uint16 or bool.
        max_pixels: Larger images are refused before their pixels are decoded.

    Raises:
        InputError: The file is missing, is not an image, is damaged, is too large or has an unknown layout.

    >>> load_image(np.full((2, 3), 7, np.uint8)).shape
    (2, 3, 3)
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "image")
        with _one_line_errors(name):
            return _decode(source, name, max_pixels)
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    with _one_line_errors(name), warnings.catch_warnings():
        # The size limit replaces Pillow's warning.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _decode(image, name, max_pixels)


@contextlib.contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """What Pillow raises while opening or decoding, as one `InputError` that names the image."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such image file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder; expected an image file") from error
    except PermissionError as error:
        raise InputError(f"{name}: not allowed to read this image file; check its permissions") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image file that Pillow knows; use PNG, JPEG or WebP") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too many pixels; make the image smaller") from error
    except _DECODE_ERRORS as error:
        raise InputError(f"{name}: damaged or truncated image ({error}); copy the file again") from error


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The size Qwen2-VL gives an image: sides multiples of `factor`, area within limits, aspect nearly kept.

    Source: transformers `smart_resize` (Python's banker's rounding included).

    Args:
        height: Pixels.
        width: Pixels.
        factor: `patch_size * merge_size`.
        min_pixels: Smallest area of the result.
        max_pixels: Largest area of the result.

    Returns:
        `(height, width)`, each at least `factor`.

    Raises:
        InputError: One side is more than 200 times the other.

    >>> smart_resize(840, 840, factor=28, min_pixels=3136, max_pixels=12845056)
    (840, 840)
    >>> smart_resize(530, 1024, factor=28, min_pixels=3136, max_pixels=1003520)
    (532, 1036)
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InputError(
            f"image of {width}x{height} pixels: one side is over {MAX_ASPECT_RATIO} times the other; crop it"
        )
    h_bar, w_bar = round(height / factor) * factor, round(width / factor) * factor
    if h_bar * w_bar > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        h_bar = math.floor(height / beta / factor) * factor
        w_bar = math.floor(width / beta / factor) * factor
    elif h_bar * w_bar < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h_bar = math.ceil(height * beta / factor) * factor
        w_bar = math.ceil(width * beta / factor) * factor
    return max(factor, h_bar), max(factor, w_bar)


def resize(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int, *, filter: Filter
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Resizes with Pillow on 8-bit values, as the Hugging Face PIL processor and Seg-Zero's evaluation do."""
    if image.shape[:2] == (height, width):
        return image
    method = Image.Resampling[filter.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def _decode(image: Image.Image, name: str, max_pixels: int) -> UInt8[np.ndarray, "H W 3"]:
    width, height = image.size
    _check_size(name, width, height, max_pixels)
    image.load()
    orientation = _orientation(image)
    rgb = _to_rgb(image, name)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.array(rgb)


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width == 0 or height == 0:
        raise InputError(f"{name}: the image is empty ({width}x{height})")
    if width * height > max_pixels:
        raise InputError(
            f"{name}: {width}x{height} pixels are more than the limit {max_pixels}; make the image smaller"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 where the tag is missing or its block is malformed (the pixels are still good)."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_deep_to_uint8(np.asarray(image), name)).convert("RGB")
    if image.has_transparency_data or image.mode in ("PA", "La", "RGBa"):
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _deep_to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """16-bit grey levels scaled to 8 bits, rounded: 65535 becomes 255, 257 becomes 1."""
    if values.dtype.kind == "f" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise InputError(
            f"{name}: grey values of type {values.dtype} outside 0 to 65535; convert it to 8 bits"
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_array(array: np.ndarray, max_pixels: int) -> UInt8[np.ndarray, "H W 3"]:
    name = f"image array {array.dtype}{list(array.shape)}"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"{name}: expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    _check_size(name, array.shape[1], array.shape[0], max_pixels)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _deep_to_uint8(array, name)
    elif array.dtype != np.uint8:
        raise InputError(f"{name}: expected uint8, uint16 or bool values")
    if array.ndim == 3 and array.shape[2] == 3:
        return np.array(array)
    return np.array(_to_rgb(Image.fromarray(np.ascontiguousarray(array)), name))
