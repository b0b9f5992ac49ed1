"""8-bit images to the rows a vision tower reads, on the device.

Images travel as uint8, a quarter of the bytes of float pixels (an eighth with the duplicated frame), and are
rescaled, normalised and cut into patches there. Source: transformers `Qwen2VLImageProcessorPil.patchify`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.folder import read_json, write_json
from pixelthink_jax.processing.images import Filter

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# PIL's resampling numbers, as preprocessor files write them.
_FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_MUST_BE_TRUE = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
# Image processor classes with this arithmetic; the suffixes name the backend.
_KNOWN_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")


@dataclass(frozen=True)
class ImageConfig:
    """What `preprocessor_config.json` says about images.

    Attributes:
        patch_size: Side of a patch in pixels.
        temporal_patch_size: Frames in a patch; a still image is repeated.
        merge_size: Side, in patches, of the block that becomes one image token.
        min_pixels: Smallest area after `smart_resize`.
        max_pixels: Largest area after `smart_resize`.
        image_mean: Mean of each channel of the rescaled image.
        image_std: Deviation of each channel.
        rescale_factor: Multiplies 8-bit values.
        filter: Resampling filter.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 12_845_056
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    rescale_factor: float = 1 / 255
    filter: Filter = "bicubic"

    def __post_init__(self) -> None:
        """Refuses sizes that cannot be used."""
        for name in ("patch_size", "temporal_patch_size", "merge_size", "min_pixels"):
            if getattr(self, name) < 1:
                raise InputError(f"image settings: {name} is {getattr(self, name)}; expected at least 1")
        if self.max_pixels < self.min_pixels:
            raise InputError(
                f"image settings: max_pixels {self.max_pixels} is below min_pixels {self.min_pixels}"
            )

    @property
    def factor(self) -> int:
        """Sides of a resized image are multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Numbers in a patch row."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ImageConfig":
        """Reads `preprocessor_config.json`, or the `image_processor` part of `processor_config.json`.

        Raises:
            InputError: Neither file is there, or it asks for arithmetic that is not done here.
        """
        folder = Path(folder)
        values = read_json(folder / "preprocessor_config.json", default={})
        values = values or read_json(folder / "processor_config.json", default={}).get("image_processor", {})
        if not values:
            raise InputError(f"{folder}: preprocessor_config.json is missing; copy it from the base model")
        return _parse(values, folder)

    def save(self, folder: str | Path) -> None:
        """Writes `preprocessor_config.json` with the keys of both older and newer transformers."""
        values = {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.image_mean),
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_std": list(self.image_std),
            "max_pixels": self.max_pixels,
            "merge_size": self.merge_size,
            "min_pixels": self.min_pixels,
            "patch_size": self.patch_size,
            "processor_class": "Qwen2_5_VLProcessor",
            "resample": _FILTERS.index(self.filter),
            "rescale_factor": self.rescale_factor,
            "size": {"longest_edge": self.max_pixels, "shortest_edge": self.min_pixels},
            "temporal_patch_size": self.temporal_patch_size,
        }
        write_json(Path(folder) / "preprocessor_config.json", values)


def _parse(values: Mapping[str, Any], folder: Path) -> ImageConfig:
    kind = str(values.get("image_processor_type", _KNOWN_PROCESSORS[0]))
    if kind.removesuffix("Fast").removesuffix("Pil") not in _KNOWN_PROCESSORS:
        raise InputError(
            f"{folder}: image_processor_type {kind} is not supported; expected Qwen2VLImageProcessor"
        )
    for name in _MUST_BE_TRUE:
        if values.get(name, True) is not True:
            raise InputError(
                f"{folder}: preprocessor_config.json has {name}={values[name]}; only true is supported"
            )
    size = values.get("size") or {}
    default = ImageConfig()
    try:
        # `min_pixels` wins over `size`, as in transformers.
        return ImageConfig(
            patch_size=int(values.get("patch_size", default.patch_size)),
            temporal_patch_size=int(values.get("temporal_patch_size", default.temporal_patch_size)),
            merge_size=int(values.get("merge_size", default.merge_size)),
            min_pixels=int(values.get("min_pixels") or size.get("shortest_edge") or default.min_pixels),
            # The class default of transformers, which is what a file without the key means.
            max_pixels=int(values.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280),
            image_mean=_three(values.get("image_mean", default.image_mean)),
            image_std=_three(values.get("image_std", default.image_std)),
            rescale_factor=float(values.get("rescale_factor", default.rescale_factor)),
            filter=_FILTERS[int(values.get("resample", _FILTERS.index(default.filter)))],
        )
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{folder}: preprocessor_config.json has a value of the wrong kind ({error})"
        ) from error


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


@functools.partial(jax.jit, static_argnames="image_config")
def patchify(
    images: UInt8[Array | np.ndarray, "n H W 3"], *, image_config: ImageConfig
) -> Float[Array, "patches patch_dim"]:
    """Rescales, normalises and cuts images of one size into patch rows.

    Args:
        images: Sides are multiples of `image_config.factor`.
        image_config: Patch geometry and normalisation.

    Returns:
        float32 rows, image by image; within an image in merge-block order (block row, block column, row in
        block, column in block), each row (channel, time, y, x). Equals transformers' `pixel_values` to
        rounding.

    Raises:
        ValueError: A side is not a multiple of the factor.
    """
    n, height, width, channels = images.shape
    if height % image_config.factor or width % image_config.factor:
        raise ValueError(f"images of {width}x{height}: sides must be multiples of {image_config.factor}")
    p, m, t = image_config.patch_size, image_config.merge_size, image_config.temporal_patch_size
    mean = jnp.asarray(image_config.image_mean, jnp.float32).reshape(1, 1, 1, channels)
    std = jnp.asarray(image_config.image_std, jnp.float32).reshape(1, 1, 1, channels)
    pixels = (images.astype(jnp.float32) * jnp.float32(image_config.rescale_factor) - mean) / std
    blocks = pixels.reshape(n, height // (p * m), m, p, width // (p * m), m, p, channels)
    # (n, block row, row in block, y, block column, column in block, x, channel) -> rows of (channel, y, x)
    rows = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)
    rows = jnp.broadcast_to(rows[..., None, :, :], (*rows.shape[:6], t, p, p))
    return rows.reshape(-1, channels * t * p * p)


def patchify_all(
    images: Sequence[UInt8[np.ndarray, "_ _ _ 3"]], *, image_config: ImageConfig
) -> Float[Array, "patches patch_dim"]:
    """Patch rows of several stacks, each of one size, in order (`PromptBatch.images`)."""
    rows = [patchify(stack, image_config=image_config) for stack in images]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows)
