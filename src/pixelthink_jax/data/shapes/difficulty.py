"""Three difficulty sub-scores, each 1 (very easy) to 10 (very hard), computed from the scene graph.

The paper lets a large model give them; here they are formulas of the same three ideas, so that the labels are
exact and free. Difficulty is their mean and the levels are the paper's cut-offs (method section 4 and 6).
"""

from dataclasses import dataclass

import numpy as np

from pixelthink_jax.data.shapes.queries import Query, Trace
from pixelthink_jax.data.shapes.scene import SceneGraph
from pixelthink_jax.data.targets import FRAME


@dataclass(frozen=True)
class Difficulty:
    """Scene complexity, segmentation challenge and linguistic ambiguity, 1 to 10 each."""

    scene: float
    segmentation: float
    language: float

    @property
    def mean(self) -> float:
        """The difficulty D."""
        return round((self.scene + self.segmentation + self.language) / 3, 3)


def score(query: Query, trace: Trace, graph: SceneGraph) -> Difficulty:
    """The sub-scores of one question about one scene."""
    return Difficulty(
        scene=scene_complexity(graph),
        segmentation=segmentation_challenge(graph, trace.answer),
        language=linguistic_ambiguity(query, trace, graph),
    )


def scene_complexity(graph: SceneGraph) -> float:
    """`1 + 0.5 (n - 4) + 1.5 contrast + 3 spread + 4 hidden`.

    `n` objects, the background texture's `contrast` (0 to 1), the `spread` (standard deviation over mean) of
    the radii, and the mean `hidden` share of the objects.
    """
    radii = np.array([item.shape.radius for item in graph.objects])
    hidden = float(np.mean([1 - item.visible for item in graph.objects]))
    spread = float(radii.std() / radii.mean())
    contrast = graph.scene.background.contrast
    return _clip(1 + 0.5 * (len(radii) - 4) + 1.5 * contrast + 3 * spread + 4 * hidden)


def segmentation_challenge(graph: SceneGraph, answer: int) -> float:
    """`1 + 3 smallness + 6 hidden + 2 camouflage`.

    `smallness` falls linearly from 1 to 0 as the visible box grows from 1 to 12 % of the picture; `hidden` is
    the share of the target that is covered; `camouflage` falls from 1 to 0 as the colour distance between the
    target and the background where it lies grows from 75 to 225.
    """
    item = graph.objects[answer]
    x1, y1, x2, y2 = item.box
    share = (x2 - x1) * (y2 - y1) / FRAME**2
    smallness = float(np.clip((0.12 - share) / 0.11, 0, 1))
    there = graph.scene.background.colour_at((x1 + x2) / (2 * FRAME), (y1 + y2) / (2 * FRAME))
    distance = float(np.linalg.norm(np.array(item.shape.shade) - there))
    camouflage = float(np.clip((225 - distance) / 150, 0, 1))
    return _clip(1 + 3 * smallness + 6 * (1 - item.visible) + 2 * camouflage)


def linguistic_ambiguity(query: Query, trace: Trace, graph: SceneGraph) -> float:
    """`1 + 3.2 hops + 0.4 (attributes - 1) + 0.3 distractors`.

    `hops` are the steps beyond matching words with objects, `attributes` those named in the question, and
    `distractors` the objects other than the target (at most four count) that have its colour or kind.
    """
    named = len(query.description.given)
    if query.anchor is not None:
        named += len(query.anchor.description.given)
    rivals = min(len(distractors(graph, trace.answer)), 4)
    return _clip(1 + 3.2 * query.hops + 0.4 * max(named - 1, 0) + 0.3 * rivals)


def distractors(graph: SceneGraph, answer: int) -> tuple[int, ...]:
    """Objects other than the answer that share its colour or its kind."""
    target = graph.objects[answer].shape
    return tuple(
        i
        for i, item in enumerate(graph.objects)
        if i != answer and (item.shape.colour == target.colour or item.shape.kind == target.kind)
    )


def _clip(value: float) -> float:
    return round(min(max(value, 1.0), 10.0), 3)
