"""The GRPO run of the demonstration, which needs no file: that of `configs/tiny.yaml`, to which a test holds it."""

from pathlib import Path

from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.grpo import TrainConfig
from pixelthink_jax.rl.budgets import ThreeWayBudget
from pixelthink_jax.rl.length import Clipped
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.rewards import RewardConfig
from pixelthink_jax.rl.sampling import SamplingConfig
from pixelthink_jax.runtime.optim import OptimConfig

STEPS = 24


def recipe(out: str | Path, policy: str | Path, *, steps: int = STEPS) -> TrainConfig:
    """PixelThink with constants for the tiny world.

    Args:
        out: Run folder.
        policy: Policy to begin with.
        steps: Updates.
    """
    return TrainConfig(
        out=str(out),
        policy=str(policy),
        data=DatasetConfig(split="train"),
        reward=RewardConfig(
            length_unit="thinking_tokens",
            unclosed_thought="whole",
            budget=ThreeWayBudget(easy=110.0, hard=220.0, uncertainty_scale=200.0),
            penalty=Clipped(slope=0.012),
        ),
        loss=LossConfig(kl_coef=0.3, entropy_coef=0.0),
        sampling=SamplingConfig(max_new_tokens=320, temperature=0.7),
        optim=OptimConfig(learning_rate=2e-4, warmup_steps=3, decay="linear", stable_fraction=0.5),
        steps=steps,
        prompts_per_step=8,
        group_size=8,
        freeze_vision=True,
        unroll=True,
        export_dtype="float32",
        seed=0,
        checkpoint_every=12,
    )
