"""Policies between training checkpoints, Orbax folders and Hugging Face folders, without holding one in memory."""

from pixelthink_jax.convert.checksums import verify_checksums
from pixelthink_jax.convert.run import Conversion, convert, convert_adapter

__all__ = ["Conversion", "convert", "convert_adapter", "verify_checksums"]
