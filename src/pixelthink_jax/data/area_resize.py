"""The resize of the published 840x840 training images: `cv2.resize(..., INTER_AREA)`.

Where both sides shrink each pixel is the mean of the area it covers. Otherwise OpenCV blends two neighbours with
weights of its own, not those of bilinear interpolation; so it does for most COCO images, which grow to 840.
Within one grey level of OpenCV, which computes in fixed point.

Source: OpenCV `modules/imgproc/src/resize.cpp` (`resize`, case INTER_AREA; `computeResizeAreaTab`).
"""

import numpy as np
from jaxtyping import Float, UInt8


def area_resize(image: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Resizes an image to `height` by `width`.

    >>> area_resize(np.array([[[0] * 3, [100] * 3]], np.uint8), 1, 1)[0, 0].tolist()
    [50, 50, 50]
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    weights = _covering if shrinks else _blending
    down, across = weights(image.shape[0], height), weights(image.shape[1], width)
    pixels = image.astype(np.float32).reshape(image.shape[0], -1)
    rows = (down @ pixels).reshape(height, image.shape[1], 3)
    columns = np.matmul(across, rows)
    return np.clip(np.rint(columns), 0, 255).astype(np.uint8)


def _covering(size: int, new_size: int) -> Float[np.ndarray, "new old"]:
    """Share of each old pixel in the area of each new one."""
    scale = size / new_size
    edges = np.arange(new_size + 1)[:, None] * scale
    old = np.arange(size)
    overlap = np.minimum(edges[1:], old + 1) - np.maximum(edges[:-1], old)
    return (np.maximum(overlap, 0) / scale).astype(np.float32)


def _blending(size: int, new_size: int) -> Float[np.ndarray, "new old"]:
    """Two old pixels for each new one; the second counts by how far the new one reaches into it."""
    scale = size / new_size
    new = np.arange(new_size)
    left = np.floor(new * scale).astype(int)
    reach = (new + 1) - (left + 1) / scale
    share = np.where(reach <= 0, 0.0, reach - np.floor(reach))
    share[left >= size - 1] = 0.0
    left = np.minimum(left, size - 1)
    weights = np.zeros((new_size, size), np.float32)
    weights[new, left] = 1 - share
    weights[new, np.minimum(left + 1, size - 1)] += share.astype(np.float32)
    return weights
