"""What the demonstration shows and measures; nothing is chosen by its result.

The scenes shown are the first of each level, the scenes evaluated the first of the test split, which no training run
reads, and the large picture is the first scene after them that fills a photograph.
"""

from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.evaluation.summary import LEVELS
from pixelthink_jax.types import Example

SPLIT = "test"
PHOTOGRAPH = (1600, 1200)
PHOTOGRAPH_CANVAS = (256, 192)
"""Canvas of the scene drawn at photograph size: the one with the same sides."""


def first_of_each_level(count: int) -> list[Example]:
    """The first test scenes of each level, easiest first."""
    found: dict[str | None, list[Example]] = {level: [] for level in LEVELS}
    examples = iter(ShapeReason(SPLIT))
    while any(len(of_level) < count for of_level in found.values()):
        example = next(examples)
        found[example.level].append(example)
    return [example for of_level in found.values() for example in of_level[:count]]


def photograph(after: int) -> Example:
    """The first test scene from row `after` on that fills a photograph, drawn at that size."""
    world = ShapeReason(SPLIT)
    canvases = ((i, world.asked(i).graph.scene) for i in range(after, len(world)))
    index = next(i for i, scene in canvases if (scene.width, scene.height) == PHOTOGRAPH_CANVAS)
    return ShapeReason(SPLIT, render_size=PHOTOGRAPH)[index]
