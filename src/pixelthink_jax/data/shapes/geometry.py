"""The drawn object, and its signed distance, evaluated on a small pixel window at any picture size.

Distances are in canvas pixels, negative inside. They are exact near straight edges, which is all that
antialiasing and inside tests need.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

KINDS = ("circle", "square", "triangle", "star", "cross", "ring", "diamond")
_TRIANGLE = [(math.cos(a), math.sin(a)) for a in (math.pi / 2, math.pi * 7 / 6, -math.pi / 6)]
_STAR_INNER = 0.46


@dataclass(frozen=True)
class Shape:
    """One drawn object; lengths in canvas pixels, angle in radians, `shade` the jittered RGB, 0 to 255."""

    kind: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    shade: tuple[float, float, float]

    @property
    def phrase(self) -> str:
        """Size, colour and kind in words, such as `small red circle`."""
        return f"{self.size} {self.colour} {self.kind}"


def signed_distance(
    kind: str, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"], radius: float
) -> Float[np.ndarray, "*n"]:
    """Distance from points, given relative to the shape's centre with y downwards, to its outline.

    >>> signed_distance("circle", np.array([0.0, 3.0]), np.array([0.0, 4.0]), 5.0).tolist()
    [-5.0, 0.0]
    """
    if kind == "circle":
        return np.hypot(x, y) - radius
    if kind == "ring":
        return np.abs(np.hypot(x, y) - 0.72 * radius) - 0.28 * radius
    if kind == "star":
        return _star(x, y, radius)
    if kind == "triangle":
        # Circumscribed radius 1.15 r, centre lowered so that the box is centred; inner radius is half of it.
        edge = 0.575 * radius
        y = y - 0.2 * radius
        return np.maximum.reduce([x * nx + y * ny - edge for nx, ny in _TRIANGLE])
    ax, ay = np.abs(x), np.abs(y)
    if kind == "square":
        return np.maximum(ax, ay) - 0.88 * radius
    if kind == "cross":
        bar = 0.36 * radius
        return np.minimum(np.maximum(ax - radius, ay - bar), np.maximum(ax - bar, ay - radius))
    if kind == "diamond":
        slope = 0.8
        return (ax + slope * ay - slope * radius) / math.hypot(1.0, slope)
    raise ValueError(f"unknown kind of shape: {kind!r}")


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Five points, one up: fold the plane onto half a point, then the distance to that point's one edge."""
    sector = 2 * math.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - sector * np.round(angle / sector))
    length = np.hypot(x, y)
    u, v = length * np.cos(folded), length * np.sin(folded)
    tip = 1.08 * radius
    inner_u = _STAR_INNER * radius * math.cos(sector / 2)
    inner_v = _STAR_INNER * radius * math.sin(sector / 2)
    # Normal of the edge from the tip (tip, 0) to the inner corner, pointing outwards.
    nu, nv = inner_v, tip - inner_u
    return ((u - tip) * nu + v * nv) / math.hypot(nu, nv)


def distance_window(
    shape: Shape, canvas: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], Float[np.ndarray, "h w"], Float[np.ndarray, " h"], Float[np.ndarray, " w"]]:
    """Signed distance on the pixels around a shape of a picture of `size` (width, height).

    Returns:
        Upper left corner (x, y) of the window in picture pixels, distances at pixel centres in canvas pixels,
        and the window's row and column coordinates relative to the shape's centre, in canvas pixels.
    """
    reach = 1.2 * shape.radius + 2
    (left, right), (top, bottom) = (
        (
            max(int((centre - reach) * pixels / side), 0),
            min(int((centre + reach) * pixels / side) + 1, pixels),
        )
        for centre, pixels, side in zip((shape.x, shape.y), size, canvas, strict=True)
    )
    dx = ((np.arange(left, right) + 0.5) * (canvas[0] / size[0]) - shape.x).astype(np.float32)
    dy = ((np.arange(top, bottom) + 0.5) * (canvas[1] / size[1]) - shape.y).astype(np.float32)
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    x = dx[None, :] * cos + dy[:, None] * sin
    y = dy[:, None] * cos - dx[None, :] * sin
    return (left, top), signed_distance(shape.kind, x, y, shape.radius), dy, dx


def inside_window(
    shape: Shape, canvas: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], Bool[np.ndarray, "h w"]]:
    """Pixels of a picture of `size` whose centres lie inside the shape, as a window and its corner (x, y)."""
    corner, distance, _, _ = distance_window(shape, canvas, size)
    return corner, distance <= 0
