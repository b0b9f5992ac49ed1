"""Arms of an experiment, each trained with several seeds, chosen on one split and reported on others."""

from pixelthink_jax.sweep.config import ArmConfig, SweepConfig
from pixelthink_jax.sweep.run import run_sweep

__all__ = ["ArmConfig", "SweepConfig", "run_sweep"]
