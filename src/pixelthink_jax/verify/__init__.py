"""Whether real weights work here: every tensor in place, finite numbers, a sensible answer, equal to transformers."""

from pixelthink_jax.verify.checks import Check, verify_policy, verify_segmenter
from pixelthink_jax.verify.yardstick import TransformersPolicy, TransformersSegmenter

__all__ = ["Check", "TransformersPolicy", "TransformersSegmenter", "verify_policy", "verify_segmenter"]
