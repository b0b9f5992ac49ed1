"""Draws a scene at any size: a dyed cloth with a grey texture, and antialiased shapes on it.

The picture is a function of canvas coordinates, so a 112x112 and a 1600x1200 rendering show the same scene; edges
are antialiased from the signed distance instead of by supersampling, which also makes drawing fast.

The cloth is always dyed the same way (`scene.DYE`): red fades to the right and blue downwards, both across the
grey that green keeps. So red minus green tells how far right a patch is and blue minus green how far down, whatever
the texture's brightness; a small vision tower with only relative (rotary) positions would otherwise take very long
to work that out.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pixelthink_jax.data.shapes.geometry import distance_window, inside_window
from pixelthink_jax.data.shapes.scene import DYE, Background, Scene

OUTLINE = 1.6
"""Width in canvas pixels of the darker rim of every shape."""


def render(scene: Scene, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a scene.

    Args:
        scene: What to draw.
        size: Width and height in pixels; None means canvas size. Another aspect ratio stretches the picture.
    """
    canvas = (scene.width, scene.height)
    width, height = size or canvas
    picture = _texture(scene.background, canvas, (width, height))
    pixel = math.sqrt(scene.width * scene.height / (width * height))
    for shape in scene.shapes:
        (left, top), distance, dy, dx = distance_window(shape, canvas, (width, height))
        cover = np.clip(0.5 - distance / pixel, 0, 1)
        rim = np.clip(0.5 + (distance + OUTLINE) / pixel, 0, 1)
        slope = (dy[:, None] + dx[None, :]) / (2 * shape.radius)
        tone = (1.04 - 0.12 * slope) * (1 - 0.4 * rim)
        area = picture[top : top + len(dy), left : left + len(dx)]
        for channel in range(3):
            plane = area[..., channel]
            plane += cover * (shape.shade[channel] * tone - plane)
    return (np.clip(picture, 0, 255) + 0.5).astype(np.uint8)


def render_mask(scene: Scene, shape_index: int, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Visible mask of one shape, by drawing order, in a picture of `size` (width, height)."""
    canvas = (scene.width, scene.height)
    mask = np.zeros((size[1], size[0]), bool)
    for shape in scene.shapes[shape_index:]:
        (left, top), window = inside_window(shape, canvas, size)
        area = mask[top : top + window.shape[0], left : left + window.shape[1]]
        if shape is scene.shapes[shape_index]:
            area |= window
        else:
            area &= ~window
    return mask


def _texture(
    background: Background, canvas: tuple[int, int], size: tuple[int, int]
) -> Float[np.ndarray, "H W 3"]:
    """Background colours 0 to 255: a grey texture of smooth noise, stripes or a checker board, dyed."""
    width, height = size
    x = (np.arange(width, dtype=np.float32) + 0.5) * (canvas[0] / width)
    y = (np.arange(height, dtype=np.float32) + 0.5) * (canvas[1] / height)
    across, down = _smooth_weights(x / canvas[0]), _smooth_weights(y / canvas[1])
    strength = 26 * background.contrast
    grey = background.tone + strength * (down @ background.grid @ across.T)
    if background.kind != "noise":
        cos, sin = math.cos(background.angle), math.sin(background.angle)
        turn = 2 * math.pi / background.period
        pattern = np.sin((x[None, :] * cos + y[:, None] * sin) * turn)
        if background.kind == "checker":
            pattern *= np.sin((y[:, None] * cos - x[None, :] * sin) * turn)
        grey += strength * 0.7 * np.clip(3 * pattern, -1, 1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[..., 0] += DYE * (1 - 2 * x / canvas[0])
    picture[..., 2] += DYE * (1 - 2 * y / canvas[1])[:, None]
    return picture


def _smooth_weights(position: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 6"]:
    """Weights of six control values along a side of length 1, with cosine blending between neighbours."""
    place = position * 5
    distance = np.abs(place[:, None] - np.arange(6, dtype=np.float32))
    return (0.5 + 0.5 * np.cos(math.pi * np.minimum(distance, 1))).astype(np.float32)
