"""An image and a question to a mask: the whole inference flow over a loaded policy and segmenter.

`pipeline` thinks, points and draws the mask; `files` writes the answer; `overlay` pictures it; `loading` opens the
two models; `questions` reads many.
"""

from pixelthink_jax.segmentation.files import result_record, write_segmentation
from pixelthink_jax.segmentation.loading import default_folder, load_models, load_policy, load_segmenter
from pixelthink_jax.segmentation.overlay import draw_overlay
from pixelthink_jax.segmentation.pipeline import (
    answer_in_image,
    best_mask,
    best_masks,
    segment,
    segment_nothing,
)

__all__ = [
    "answer_in_image",
    "best_mask",
    "best_masks",
    "default_folder",
    "draw_overlay",
    "load_models",
    "load_policy",
    "load_segmenter",
    "result_record",
    "segment",
    "segment_nothing",
    "write_segmentation",
]
