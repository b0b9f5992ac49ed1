"""GRPO with the adaptive length reward as a whole run: `pixelthink train` and `pixelthink_jax.train`."""

from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.run import Run, train

__all__ = ["Run", "TrainConfig", "train"]
