"""Numbers that others have published, to stand beside ours as reference rows.

They were measured by others, under their own protocols, and are marked so wherever they are shown. Sources, by
method: PixelThink's teaser and tables (arXiv 2505.23727), Seg-Zero's table 6 (arXiv 2503.06520), and the tables or
abstracts of the later works, as collected before this project began. With 779 questions a 95 % interval of gIoU is
about two points wide either way, so that rows closer than that do not differ.
"""

from dataclasses import dataclass
from typing import Literal, get_args

PublishedKey = Literal["reasonseg_val", "reasonseg_test", "reasonseg_diff_test", "refcoco_testA"]
"""Sets of questions with published numbers."""


@dataclass(frozen=True)
class Published:
    """One published result; percentages, None where it was not given.

    Attributes:
        method: Who.
        giou: Mean mask IoU.
        ciou: Cumulative mask IoU.
        tokens: Mean tokens of thought.
        source: Where it was read.
    """

    method: str
    giou: float | None
    ciou: float | None
    tokens: float | None
    source: str


_SEG_ZERO, _OWN = "Seg-Zero, table 6", "the work's own table or abstract"
_PIXELTHINK = "PixelThink"

# method, gIoU, cIoU, tokens, source
_TABLES: dict[PublishedKey, tuple[tuple[str, float | None, float | None, float | None, str], ...]] = {
    "reasonseg_diff_test": (
        ("Seg-Zero-7B", 58.20, 52.37, 90.58, _PIXELTHINK),
        ("PixelThink-7B", 60.17, 55.77, 47.66, _PIXELTHINK),
    ),
    "reasonseg_val": (
        ("Grounded-SAM", 26.0, 14.5, None, _SEG_ZERO),
        ("LISA-7B", 53.6, 52.3, None, _SEG_ZERO),
        ("LISA-13B", 57.7, 60.3, None, _SEG_ZERO),
        ("Qwen2.5-VL-3B + SAM2", 53.8, 44.1, None, _SEG_ZERO),
        ("Seg-Zero-3B", 62.6, 58.5, None, _SEG_ZERO),
        ("Seg-Zero-7B", 62.6, 62.0, None, _SEG_ZERO),
        ("PixelThink-7B", 63.8, 62.7, None, f"{_PIXELTHINK}; that this is val is inferred"),
        ("VisionReasoner-7B", 66.3, None, None, _OWN),
        ("Dr.Seg-7B", 67.8, None, None, _OWN),
        ("DR2Seg-7B", 68.5, None, None, _OWN),
    ),
    "reasonseg_test": (
        ("Grounded-SAM", 21.3, 16.4, None, _SEG_ZERO),
        ("LISA-7B", 48.7, 48.8, None, _SEG_ZERO),
        ("LISA-13B", 53.8, 50.8, None, _SEG_ZERO),
        ("Qwen2.5-VL-3B + SAM2", 47.6, 37.4, None, _SEG_ZERO),
        ("Seg-Zero-3B", 56.1, 48.6, None, _SEG_ZERO),
        ("Seg-Zero-7B", 57.5, 52.0, None, _SEG_ZERO),
        ("Seg-Zero-7B, a public re-run", 57.58, 51.25, None, "om-ai-lab/vlm-r1seg, 769 of 779 rows"),
        ("CoPRS-7B", 59.8, 55.1, None, _OWN),
        ("SAM-R1-7B", 60.2, 54.3, None, _OWN),
        ("VisionReasoner-7B", 63.6, 55.7, 85.3, f"{_OWN}; tokens by DR2Seg"),
        ("Dr.Seg-7B", 65.6, None, None, _OWN),
        ("DR2Seg-7B", 66.1, 63.6, 26.9, _OWN),
    ),
    "refcoco_testA": (
        ("LAVT", None, 75.8, None, _SEG_ZERO),
        ("LISA-7B", None, 76.5, None, _SEG_ZERO),
        ("PixelLM-7B", None, 76.5, None, _SEG_ZERO),
        ("Seg-Zero-3B", None, 79.3, None, _SEG_ZERO),
        ("Seg-Zero-7B", None, 80.3, None, "as quoted by Dr.Seg"),
        ("PixelThink-7B", None, 79.3, None, "as quoted by SARA"),
    ),
}  # fmt: skip


def published(key: str) -> tuple[Published, ...]:
    """Published numbers on a set of questions; none for a set without any.

    >>> [row.tokens for row in published("reasonseg_diff_test")]
    [90.58, 47.66]
    """
    return tuple(Published(*row) for name, rows in _TABLES.items() if name == key for row in rows)


assert set(_TABLES) == set(get_args(PublishedKey))
