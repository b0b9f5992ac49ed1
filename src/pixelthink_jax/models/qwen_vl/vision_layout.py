"""Where every patch goes so that window attention is a plain batched product: computed once, on the host.

The tower attends inside 112-pixel windows in most blocks and over the whole image in a few. Patches are put
into window order once before the first block and back once after the merger; in between, both kinds of block
need only reshapes:

* all images of one size: windows of equal shape lie together (inner ones, right edge, bottom edge, corner),
  so no row is padded and nothing is masked;
* images of several sizes: every window is padded to the full size and every image to the largest window
  count, with a mask over keys.

Source: transformers `get_vision_window_index`; same partition, another order of windows.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.qwen_vl.config import VisionConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VisionLayout:
    """Index arrays of a batch of images; a pytree whose static part is the list of window shapes.

    A segment is one frame (a still image is one frame); a unit is the block of patches that becomes one
    token.

    Attributes:
        order: int32 `[segments, units]`, unit of the input that stands at each place; 0 where nothing does.
        positions: int32 `[segments, patches, 2]`, row and column of each patch.
        mask: bool `[segments, patches]`, True at real patches; None when all are real.
        restore: int32 `[image_tokens]`, place of each token in the flattened `[segments * units]`.
        windows: Runs of equal windows in order: (number of windows, patches in each).
    """

    order: Any
    positions: Any
    mask: Any
    restore: Any
    windows: tuple[tuple[int, int], ...] = field(metadata={"static": True})


def _windows(height: int, width: int, side: int) -> list[np.ndarray]:
    """Row-major units of each window of a `height` x `width` frame; windows of equal shape adjacent."""
    units = np.arange(height * width).reshape(height, width)
    tiles = [units[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
    return [tile.reshape(-1) for tile in sorted(tiles, key=lambda tile: (-tile.shape[0], -tile.shape[1]))]


def _unit_positions(height: int, width: int, units: np.ndarray, merge: int) -> np.ndarray:
    """Row and column `[units, merge**2, 2]` of the patches of each unit of a frame `width` units wide."""
    corner = np.stack([units // width, units % width], axis=-1) * merge
    inside = np.stack(np.meshgrid(np.arange(merge), np.arange(merge), indexing="ij"), axis=-1).reshape(-1, 2)
    return corner[:, None] + inside


def _checked_grids(image_grid_thw: np.ndarray, merge: int) -> list[tuple[int, int, int]]:
    grids = np.asarray(image_grid_thw)
    if grids.ndim != 2 or grids.shape[1] != 3 or not len(grids):
        raise InputError(f"image_grid_thw: shape {grids.shape}; expected [images, 3] with at least one image")
    if (grids < 1).any() or (grids[:, 1:] % merge).any():
        raise InputError(
            f"image_grid_thw: {grids.tolist()}; rows and columns must be positive multiples of {merge}"
        )
    return [(int(t), int(h) // merge, int(w) // merge) for t, h, w in grids]


def vision_layout(image_grid_thw: np.ndarray, config: VisionConfig) -> VisionLayout:
    """Places the patches of a batch of images for the vision tower.

    Args:
        image_grid_thw: int `[n, 3]`, frames, rows and columns of patches of each image.
        config: The vision tower.

    Returns:
        The layout; equal grids give equal shapes, so one compiled tower serves them.

    Raises:
        InputError: The grid is empty, or its rows or columns are no multiple of the merge size.

    >>> layout = vision_layout(np.array([[1, 60, 60]]), VisionConfig())      # one 840 x 840 image
    >>> layout.windows, layout.mask
    (((49, 64), (14, 32), (1, 16)), None)
    """
    merge, unit, side = config.spatial_merge_size, config.merge_unit, config.window_tokens
    grids = _checked_grids(image_grid_thw, merge)
    frames = [(h, w) for t, h, w in grids for _ in range(t)]
    tiles = {size: _windows(*size, side) for size in set(frames)}
    exact = len(tiles) == 1
    if exact:
        sizes = [len(tile) for tile in tiles[frames[0]]]
        padded = {frames[0]: tiles[frames[0]]}
    else:
        sizes = [side * side] * max(len(windows) for windows in tiles.values())
        padded = {size: _padded(windows, len(sizes), side * side) for size, windows in tiles.items()}
    order, positions, mask, restore, first = [], [], [], [], 0
    for index, (h, w) in enumerate(frames):
        units = np.concatenate(padded[h, w])
        real = units >= 0
        order.append(np.where(real, units + first, 0))
        positions.append(_unit_positions(h, w, np.maximum(units, 0), merge).reshape(-1, 2))
        mask.append(np.repeat(real, unit))
        places = np.empty(h * w, np.int64)
        places[units[real]] = np.flatnonzero(real)
        restore.append(places + index * len(units))
        first += h * w
    return VisionLayout(
        order=np.stack(order).astype(np.int32),
        positions=np.stack(positions).astype(np.int32),
        mask=None if exact else np.stack(mask),
        restore=np.concatenate(restore).astype(np.int32),
        windows=_runs(sizes, unit),
    )


def _padded(windows: list[np.ndarray], count: int, size: int) -> list[np.ndarray]:
    """The windows filled with -1 to `size` units each and to `count` windows."""
    short = [np.pad(window, (0, size - len(window)), constant_values=-1) for window in windows]
    return short + [np.full(size, -1)] * (count - len(short))


def _runs(sizes: list[int], unit: int) -> tuple[tuple[int, int], ...]:
    """Run-length code of window sizes, in patches."""
    edges = [0, *(i for i in range(1, len(sizes)) if sizes[i] != sizes[i - 1]), len(sizes)]
    return tuple((high - low, sizes[low] * unit) for low, high in zip(edges[:-1], edges[1:], strict=True))
