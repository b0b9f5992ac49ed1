"""Many rows of the world for the tests, made in a process without run-time type checks.

Run as `python -m tests.data.shapes.make_rows FILE`; writes a pickle of `Rows`.
"""

import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np

from pixelthink_jax.data.shapes import STYLES, ShapeReason, chains
from pixelthink_jax.data.shapes.chains import chain
from pixelthink_jax.data.shapes.world import Asked
from pixelthink_jax.data.targets import difficulty_level


@dataclass
class Rows:
    """What the tests look at.

    Attributes:
        asked: By split, (scene and question, example) pairs.
        levels: By split, (level, object count) of many rows.
        chains: (level, style, thought), every style for the same questions.
        long: (level, thought that stops at the derivation, thought filled with further checks) for these questions.
    """

    asked: dict[str, list] = field(default_factory=dict)
    levels: dict[str, list] = field(default_factory=dict)
    chains: list = field(default_factory=list)
    long: list = field(default_factory=list)


def make_rows() -> Rows:
    """Rows of two seeds; a few seconds."""
    rows = Rows()
    for split, count in (("train", 300), ("ood", 200)):
        world = ShapeReason(split, seed=3)
        rows.asked[split] = [(world.asked(i), world[i]) for i in range(count)]
    for split, count in (("train", 900), ("ood", 400)):
        world = ShapeReason(split, seed=1)
        asked = [world.asked(i) for i in range(count)]
        rows.levels[split] = [(difficulty_level(a.difficulty.mean), len(a.graph.objects)) for a in asked]
        if split == "train":
            rng = np.random.default_rng(0)
            questions = list(zip(asked[:450], [level for level, _ in rows.levels[split]], strict=False))
            rows.chains = [
                (level, style, chain(item.query, item.trace, item.graph, style, rng))
                for item, level in questions
                for style in STYLES
            ]
            rows.long = [
                (level, *(_long(item, share, rng) for share in (1.0, 0.0))) for item, level in questions
            ]
    return rows


def _long(item: Asked, direct_share: float, rng: np.random.Generator) -> str:
    with patch.object(chains, "DIRECT_SHARE", direct_share):
        return chain(item.query, item.trace, item.graph, "long", rng)


if __name__ == "__main__":
    # Loaded under its full name, so that the pickle can be read back by the tests.
    from tests.data.shapes import make_rows as this

    Path(sys.argv[1]).write_bytes(pickle.dumps(this.make_rows()))
