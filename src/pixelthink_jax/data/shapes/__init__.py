"""ShapeReason, the procedural reasoning-segmentation world (design section 6; `docs/shapereason.md`).

Flow: `scene` (what is where) -> `asking`, `queries` (questions and their one answer) -> `difficulty` ->
`wording`, `chains` (text) -> `render` (picture) -> `world.ShapeReason` (rows).
"""

from pixelthink_jax.data.shapes.chains import OPENINGS, STYLES
from pixelthink_jax.data.shapes.render import render, render_mask
from pixelthink_jax.data.shapes.world import SPLIT_SIZES, ShapeReason

__all__ = ["OPENINGS", "SPLIT_SIZES", "STYLES", "ShapeReason", "render", "render_mask"]
