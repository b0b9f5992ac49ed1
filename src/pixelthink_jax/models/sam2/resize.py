"""Image resizing as torch does it, each a pair of small matrix products.

A separable resize of an axis from `n` to `m` is an `[m, n]` matrix. The matrices are built by numpy from the formulas
of torch's `F.interpolate(align_corners=False)`; the kernels are in `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.
Bicubic uses a = -0.75 (PIL and `jax.image.resize` use -0.5); `antialias` widens the triangle when shrinking.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

Method = Literal["bilinear", "bicubic", "antialias"]


@functools.lru_cache(maxsize=64)
def resize_matrix(size_in: int, size_out: int, method: Method) -> np.ndarray:
    """Weights `[size_out, size_in]` of one axis; every row sums to one.

    >>> resize_matrix(2, 4, "bilinear").tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    >>> resize_matrix(4, 2, "antialias").astype(float).round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]
    """
    ratio = size_in / size_out
    if method == "antialias":
        return _antialias_matrix(size_in, size_out, ratio)
    centres = (np.arange(size_out) + 0.5) * ratio - 0.5
    if method == "bilinear":
        # torch clamps the source coordinate at the left border; the right one follows from clamping the taps.
        centres = np.maximum(centres, 0.0)
    first = np.floor(centres).astype(np.int64)
    offsets = (0, 1) if method == "bilinear" else (-1, 0, 1, 2)
    matrix = np.zeros((size_out, size_in))
    for offset in offsets:
        distance = np.abs(centres - first - offset)
        weight = 1.0 - distance if method == "bilinear" else _cubic(distance)
        np.add.at(matrix, (np.arange(size_out), np.clip(first + offset, 0, size_in - 1)), weight)
    return matrix.astype(np.float32)


def resize(x: Float[Array, "*b H W c"], size: tuple[int, int], method: Method) -> Float[Array, "*b h w c"]:
    """Resizes the rows and columns of a channels-last map, in float32.

    Args:
        x: The map; any real dtype.
        size: Rows and columns wanted.
        method: `bilinear` and `bicubic` interpolate; `antialias` is bilinear with a widened kernel when shrinking.

    Returns:
        A float32 map.
    """
    rows = jnp.asarray(resize_matrix(x.shape[-3], size[0], method))
    cols = jnp.asarray(resize_matrix(x.shape[-2], size[1], method))
    return apply_matrices(x, rows, cols)


def apply_matrices(
    x: Real[Array, "*b H W c"], rows: Float[Array, "h H"], cols: Float[Array, "w W"]
) -> Float[Array, "*b h w c"]:
    """The resize with given matrices; columns of zeros ignore padding of `x`, rows of zeros pad the result."""
    # Full precision: accelerators would round these weights to a few bits.
    highest = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("hH,...HWc->...hWc", rows, x.astype(jnp.float32), precision=highest)
    return jnp.einsum("wW,...hWc->...hwc", cols, tall, precision=highest)


def _antialias_matrix(size_in: int, size_out: int, ratio: float) -> np.ndarray:
    """Triangle filter whose support grows with the ratio, normalised over the pixels that exist."""
    scale = max(ratio, 1.0)
    centres = ratio * (np.arange(size_out) + 0.5)
    low = np.maximum((centres - scale + 0.5).astype(np.int64), 0)
    high = np.minimum((centres + scale + 0.5).astype(np.int64), size_in)
    pixels = np.arange(size_in)
    weight = np.maximum(1.0 - np.abs((pixels[None] - centres[:, None] + 0.5) / scale), 0.0)
    weight *= (pixels[None] >= low[:, None]) & (pixels[None] < high[:, None])
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """The cubic convolution kernel of Keys 1981."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
