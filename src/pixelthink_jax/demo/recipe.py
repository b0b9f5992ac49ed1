"""The GRPO run of the demonstration: `configs/tiny.yaml`, said again here as the configs do not travel in the wheel."""

from pathlib import Path

from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.grpo import TrainConfig
from pixelthink_jax.rl.budgets import ThreeWayBudget
from pixelthink_jax.rl.length import Clipped
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.rewards import RewardConfig
from pixelthink_jax.rl.sampling import SamplingConfig
from pixelthink_jax.runtime.optim import OptimConfig

STEPS = 40


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
            penalty=Clipped(slope=0.005),
        ),
        loss=LossConfig(kl_coef=0.005, entropy_coef=0.0),
        sampling=SamplingConfig(max_new_tokens=320),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=3),
        steps=steps,
        prompts_per_step=8,
        group_size=8,
        freeze_vision=True,
        unroll=True,
        seed=0,
        checkpoint_every=20,
    )
