"""What a protocol is, and the table of those that are known.

Sources: Seg-Zero @77f9ea5 and @42a3345 `evaluation.py`, @42a3345 `evaluation_visionreasoner.py`, VisionReasoner
@c013132, LISA @3cb2d43 `train_ds.py::validate`, hustvl/LENS @28cf510. Where two of them differ is a field here, so a
protocol is a row of settings and no code of its own.

Known differences that are left: the published scripts run SAM2 in bfloat16 and in batches with padded points (scores
move in the third decimal), and Seg-Zero writes no row for a skipped example, so that their counts are lower.
"""

from dataclasses import dataclass
from typing import Literal

from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import ProtocolName
from pixelthink_jax.evaluation.metrics import Ignore
from pixelthink_jax.processing.processor import Rounding

ReadingRule = Literal["usable", "seg_zero", "seg_zero_multi", "vision_reasoner"]
EmptyUnion = Literal["answered", "one", "skip", "no_boxes"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a completion is turned into a score.

    Attributes:
        name: As configs and reports say it.
        about: What it is, in a sentence or two.
        source: Where it was read.
        reading: `usable` takes whatever can be understood (`answers.usable`); the others are
            `answers.tolerant_reading`, one for each published script.
        rounding: How coordinates become pixels of the image, see `processor.to_image_px`; `float` also clips them to
            the image, as `segment` does.
        ignore: What ignore pixels count as, see `metrics.intersection_union`.
        empty_union: IoU where neither mask has a pixel: `answered` is 1 for an answer that draws nothing and 0 for
            no answer; `one` is 1; `skip` leaves the example out of every average; `no_boxes` is 1 if no box was
            given, whatever the reason, and else 0.
        iou_epsilon: Added to the union of each single IoU.
        size_mismatch: A mask of another size than its image is an error of the data, or the example is skipped.
        any_box: A box counts as found if any of the completion's boxes has an exclusive-area IoU above 0.5; False
            judges the first box by the released reward's inclusive areas.
    """

    name: ProtocolName
    about: str
    source: str
    reading: ReadingRule = "usable"
    rounding: Rounding = "float"
    ignore: Ignore = "exclude"
    empty_union: EmptyUnion = "answered"
    iou_epsilon: float = 0.0
    size_mismatch: Literal["error", "skip"] = "error"
    any_box: bool = False


_ROWS = (
    EvaluationProtocol(
        "pixelthink",
        "Ours: whatever can be understood of an answer is used, nothing is skipped, everything is counted. A "
        "completion without a usable answer is an empty mask; ignore pixels are left out of both masks.",
        "this project",
    ),
    EvaluationProtocol(
        "seg_zero",
        "Seg-Zero's script, its faults included: the first {...} of the text, a thought is required, coordinates are "
        "rounded to even, the box and two points go to the segmenter and the mask of the highest predicted IoU is "
        "kept; what cannot be read scores 0; ignore pixels are target; an empty union or a mask of another size is "
        "skipped. PixelThink's numbers are compared under this one.",
        "dvlab-research/Seg-Zero @77f9ea5 evaluation.py",
        reading="seg_zero",
        rounding="seg_zero_round",
        ignore="target",
        empty_union="skip",
        size_mismatch="skip",
    ),
    EvaluationProtocol(
        "seg_zero_multi",
        "Seg-Zero's script for several objects: the list inside <answer>, a box and a point for each, their masks "
        "joined; failures score 0; ignore pixels are target; an empty union or a mask of another size is skipped.",
        "dvlab-research/Seg-Zero @42a3345 evaluation_visionreasoner.py",
        reading="seg_zero_multi",
        rounding="half_up",
        ignore="target",
        empty_union="skip",
        size_mismatch="skip",
        any_box=True,
    ),
    EvaluationProtocol(
        "vision_reasoner",
        "VisionReasoner's script: as seg_zero_multi, but nothing is skipped; where there is no target, an answer "
        "without boxes scores 1 (also one that could not be read) and any other 0.",
        "JIA-Lab-research/VisionReasoner @c013132",
        reading="vision_reasoner",
        rounding="half_up",
        ignore="target",
        empty_union="no_boxes",
        any_box=True,
    ),
    EvaluationProtocol(
        "lisa",
        "LISA's averages over our reading of the answers: ignore pixels are left out, an empty union scores 1, and "
        "1e-5 is added to each union.",
        "dvlab-research/LISA @3cb2d43 train_ds.py::validate",
        empty_union="one",
        iou_epsilon=1e-5,
    ),
    EvaluationProtocol(
        "lens",
        "LENS's convention over our reading of the answers: ignore pixels are background.",
        "hustvl/LENS @28cf510",
        ignore="background",
    ),
    EvaluationProtocol(
        "gres",
        "The generalized benchmark of gRefCOCO over our reading of the answers: where there is no target, an empty "
        "mask has an IoU of 1, whatever left it empty, and any other 0. N-Acc is the share of these that are empty, "
        "T-Acc the share of the others that are not. Its rule for methods that cannot say that nothing is there, which "
        "clears masks of a few pixels, is left out.",
        "GRES, arXiv 2306.00968",
        empty_union="one",
    ),
    EvaluationProtocol(
        "zero_shot",
        "An untuned model under Seg-Zero's conventions: whatever can be understood of its answer, every box drawn "
        "without points and joined; what cannot be read scores 0; ignore pixels are target; an empty union or a "
        "mask of another size is skipped. How the published baseline read its answers is not known.",
        "this project; conventions of seg_zero",
        ignore="target",
        empty_union="skip",
        size_mismatch="skip",
        any_box=True,
    ),
)
PROTOCOLS: dict[str, EvaluationProtocol] = {row.name: row for row in _ROWS}
"""By name."""


def evaluation_protocol(name: str) -> EvaluationProtocol:
    """The protocol of that name.

    Raises:
        InputError: There is none.

    >>> evaluation_protocol("lisa").ignore
    'exclude'
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol: got {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
