"""The scene graph of the shape world: what is drawn, where, and what of it can be seen.

`sample_scene` draws a `Scene` (pure geometry and colours); `observe` rasterises it once at canvas size and
returns its `SceneGraph`, the truth from which masks, boxes, questions, reasoning and difficulty are all
computed.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from pixelthink_jax.data.shapes.geometry import KINDS, Shape, inside_window
from pixelthink_jax.data.targets import IntBox, IntPoint, box_to_frame, mask_points, point_to_frame

COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 62),
    "blue": (38, 84, 216),
    "yellow": (250, 218, 46),
    "purple": (146, 52, 182),
    "orange": (250, 132, 24),
}
SIZES = ("small", "large")
CANVASES = ((224, 224), (240, 208), (208, 240), (256, 192), (192, 256))
OBJECT_COUNTS = (4, 5, 6, 7)
RADII = {"small": (16.0, 21.0), "large": (29.0, 38.0)}
HELD_OUT_PAIRS = frozenset({("red", "star"), ("blue", "diamond"), ("yellow", "cross"), ("green", "ring")})
"""Colour-kind pairs that no training, validation, tuning or test scene contains."""

DYE = 48.0
"""Levels by which red, at the left edge, and blue, at the top, exceed green; at the other edges they fall short."""

MIN_VISIBLE = 0.55
"""Every object shows at least this share of its area."""


def in_tens(value: float) -> int:
    """A coordinate of the 840 frame as texts of this world say it: an eye of 112 pixels sees 7.5 units a pixel.

    >>> in_tens(347), in_tens(344.9), in_tens(345)
    (350, 340, 350)
    """
    return 10 * int(value / 10 + 0.5)


@dataclass(frozen=True)
class Background:
    """A dyed grey texture: `kind` noise, stripes or checker; `contrast` 0 to 1 is how strong it is.

    `tone` is the mean grey before the dye, 0 to 255.
    """

    kind: str
    tone: float
    contrast: float
    period: float
    angle: float
    grid: np.ndarray = field(compare=False)

    def colour_at(self, across: float, down: float) -> np.ndarray:
        """Mean RGB colour at a place given as shares of the picture's width and height."""
        return self.tone + DYE * np.array([1 - 2 * across, 0, 1 - 2 * down])


@dataclass(frozen=True)
class Scene:
    """Everything needed to draw the picture at any size; later shapes cover earlier ones."""

    width: int
    height: int
    shapes: tuple[Shape, ...]
    background: Background


@dataclass(frozen=True)
class SceneObject:
    """A shape as seen: `box` is that of its visible pixels, inclusive, in the 840 frame.

    `window` is the visible mask inside its own canvas rectangle, whose upper left corner is `corner` (x, y).
    """

    shape: Shape
    box: IntBox
    visible: float
    corner: IntPoint
    window: np.ndarray = field(compare=False)

    @property
    def said_box(self) -> IntBox:
        """The box as chains and answers of training rows say it."""
        x1, y1, x2, y2 = (in_tens(value) for value in self.box)
        return x1, y1, x2, y2

    @property
    def centre(self) -> IntPoint:
        """Middle of the visible box in the 840 frame, in tens."""
        x1, y1, x2, y2 = self.box
        return in_tens((x1 + x2) / 2), in_tens((y1 + y2) / 2)

    @property
    def wide(self) -> int:
        """Width of the visible box in the 840 frame, in tens."""
        return in_tens(self.box[2] - self.box[0])

    def value(self, attribute: str) -> str:
        """The object's `colour`, `kind` or `size`."""
        return getattr(self.shape, attribute)


@dataclass(frozen=True)
class SceneGraph:
    """A scene and its objects ordered left to right by centre."""

    scene: Scene
    objects: tuple[SceneObject, ...]

    def mask(self, index: int) -> np.ndarray:
        """Visible mask of one object, bool `[H, W]` in canvas pixels."""
        item, scene = self.objects[index], self.scene
        mask = np.zeros((scene.height, scene.width), bool)
        (x, y), (h, w) = item.corner, item.window.shape
        mask[y : y + h, x : x + w] = item.window
        return mask

    def points(self, index: int) -> tuple[IntPoint, IntPoint]:
        """The object's two points in the 840 frame."""
        scene = self.scene
        first, second = mask_points(self.mask(index))
        return (
            point_to_frame(first, scene.width, scene.height),
            point_to_frame(second, scene.width, scene.height),
        )


def sample_scene(
    rng: np.random.Generator,
    *,
    count: int,
    canvas: tuple[int, int],
    overlap: float = 0.3,
    held_out: tuple[str, str] | None = None,
) -> Scene:
    """Draw a scene.

    Args:
        rng: Source of randomness.
        count: Number of objects.
        canvas: Width and height in pixels.
        overlap: Probability that an object is placed so that it partly covers or is covered by another.
        held_out: A colour-kind pair of `HELD_OUT_PAIRS` that one object must have; None keeps them all out.

    Returns:
        A scene whose objects may still hide too much of each other; `observe` tells.
    """
    while True:
        names = _sample_attributes(rng, count, held_out)
        places = _sample_places(rng, [size for size, _, _ in names], canvas, overlap)
        if places is not None:
            break
    shapes = []
    for (size, colour, kind), (x, y, radius) in zip(names, places, strict=True):
        shade = np.clip(np.array(COLOURS[colour]) + rng.uniform(-10, 10, 3), 0, 255)
        angle = math.radians(rng.uniform(-12, 12))
        shapes.append(Shape(kind, colour, size, x, y, radius, angle, tuple(shade.tolist())))
    order = rng.permutation(count)
    background = _sample_background(rng, shapes, canvas)
    return Scene(canvas[0], canvas[1], tuple(shapes[i] for i in order), background)


def _sample_attributes(
    rng: np.random.Generator, count: int, held_out: tuple[str, str] | None
) -> list[tuple[str, str, str]]:
    """(size, colour, kind) of each object, from few colours and kinds so that objects share attributes."""
    colours = rng.permutation(list(COLOURS))[: rng.integers(3, 5)].tolist()
    kinds = rng.permutation(KINDS)[: rng.integers(3, 5)].tolist()
    names: list[tuple[str, str, str]] = []
    if held_out is not None:
        colours[0], kinds[0] = held_out
        names.append((SIZES[rng.integers(2)], *held_out))
    large = sum(name[0] == "large" for name in names)
    while len(names) < count:
        size = SIZES[int(rng.random() < 0.45 and large < 4)]
        name = (size, colours[rng.integers(len(colours))], kinds[rng.integers(len(kinds))])
        # At most two objects look alike, and training scenes never hold a held-out pair.
        if name[1:] in HELD_OUT_PAIRS or names.count(name) >= 2:
            continue
        large += size == "large"
        names.append(name)
    return names


def _sample_places(
    rng: np.random.Generator, sizes: list[str], canvas: tuple[int, int], overlap: float
) -> list[tuple[float, float, float]] | None:
    """Centre and radius of each object in canvas pixels, or None if they did not fit."""
    places: dict[int, tuple[float, float, float]] = {}
    radii = [rng.uniform(*RADII[size]) for size in sizes]
    for index in sorted(range(len(sizes)), key=lambda i: -radii[i]):
        radius = radii[index]
        touch = bool(places) and rng.random() < overlap
        for attempt, (u, v) in enumerate(rng.random((60, 2)).tolist()):
            x = radius + 2 + u * (canvas[0] - 2 * radius - 4)
            y = radius + 2 + v * (canvas[1] - 2 * radius - 4)
            gaps = [math.hypot(x - a, y - b) / (radius + r) for a, b, r in places.values()]
            nearest = min(gaps, default=2.0)
            # An object that should touch another waits for such a place, but not for ever.
            if 0.58 <= nearest <= 0.9 if touch and attempt < 40 else nearest >= 1.04:
                places[index] = (x, y, radius)
                break
        else:
            return None
    return [places[i] for i in range(len(sizes))]


def _sample_background(rng: np.random.Generator, shapes: list[Shape], canvas: tuple[int, int]) -> Background:
    """A texture from which every object stands clear: the best of a few tones."""
    kind = ("noise", "stripes", "checker")[rng.integers(3)]
    contrast, period = float(rng.uniform(0.1, 1.0)), float(rng.uniform(14, 48))
    angle, grid = float(rng.uniform(0, math.pi)), rng.uniform(-1, 1, (6, 6)).astype(np.float32)
    candidates = [
        Background(kind, float(tone), contrast, period, angle, grid) for tone in rng.uniform(100, 165, 4)
    ]
    return max(candidates, key=lambda cloth: min(_clearance(shape, cloth, canvas) for shape in shapes))


def _clearance(shape: Shape, background: Background, canvas: tuple[int, int]) -> float:
    """Distance between a shape's colour and the background's mean colour where it lies."""
    there = background.colour_at(shape.x / canvas[0], shape.y / canvas[1])
    return float(np.linalg.norm(np.array(shape.shade) - there))


def observe(scene: Scene) -> SceneGraph | None:
    """Rasterise the visible mask of every object at canvas size.

    A pixel belongs to a shape when its centre lies inside.

    Returns:
        The scene graph, or None when an object is hidden by more than `1 - MIN_VISIBLE`.
    """
    covered = np.zeros((scene.height, scene.width), bool)
    objects = []
    for shape in reversed(scene.shapes):
        (left, top), window = inside_window(shape, (scene.width, scene.height), (scene.width, scene.height))
        area = covered[top : top + window.shape[0], left : left + window.shape[1]]
        seen = window & ~area
        visible = float(seen.sum() / window.sum())
        if visible < MIN_VISIBLE:
            return None
        area |= window
        columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        x1, x2 = left + int(columns[0]), left + int(columns[-1])
        y1, y2 = top + int(rows[0]), top + int(rows[-1])
        box = box_to_frame((x1, y1, x2, y2), scene.width, scene.height)
        objects.append(SceneObject(shape, box, visible, (left, top), seen))
    objects.sort(key=lambda item: (item.centre, item.box))
    return SceneGraph(scene, tuple(objects))
