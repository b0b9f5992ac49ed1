"""Training a segmenter on the shape world: true boxes and points in, masks out."""

from pixelthink_jax.train_segmenter.config import SegmenterConfig
from pixelthink_jax.train_segmenter.evaluate import evaluate_segmenter
from pixelthink_jax.train_segmenter.run import SegmenterRun, run_train_segmenter

__all__ = ["SegmenterConfig", "SegmenterRun", "evaluate_segmenter", "run_train_segmenter"]
