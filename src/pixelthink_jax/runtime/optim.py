"""Optimizers and schedules by name, through optax."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class OptimConfig:
    """How parameters are updated.

    Attributes:
        kind: `adamw` for everything, or `muon` for the matrices of the blocks and AdamW with Nesterov momentum
            for the rest.
        learning_rate: Peak rate of AdamW.
        muon_learning_rate: Peak rate of the orthogonalised update; read only with `muon`.
        warmup_steps: Steps of linear warm-up from zero.
        decay: Shape after the warm-up: constant, or down to `final_fraction` of the peak.
        final_fraction: What is left of the peak rate at the last step.
        stable_fraction: Share of the steps after the warm-up that keep the peak rate before the decay begins.
        beta1: First-moment decay of AdamW.
        beta2: Second-moment decay of AdamW.
        first_moment_dtype: Dtype AdamW keeps the first moment in; `bfloat16` saves two bytes a parameter and makes an
            update about 3e-5 relative less exact at a rate of 1e-6. The second moment would stall in it.
        weight_decay: Decoupled decay, on every parameter.
        clip_norm: Global gradient norm above which the gradient is scaled down.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    warmup_steps: int = 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    final_fraction: float = 0.0
    stable_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"optim: {name} must be positive and finite, got {getattr(self, name)}")
        if self.warmup_steps < 0:
            raise InputError(f"optim: warmup_steps must not be negative, got {self.warmup_steps}")
        if not 0 <= self.final_fraction <= 1:
            raise InputError(f"optim: final_fraction must be in [0, 1], got {self.final_fraction}")
        if not 0 <= self.stable_fraction < 1:
            raise InputError(f"optim: stable_fraction must be in [0, 1), got {self.stable_fraction}")


def schedule(config: OptimConfig, peak: float, steps: int) -> optax.Schedule:
    """Warm-up to `peak`, a stable part, then the named decay over the remaining steps.

    >>> config = OptimConfig(warmup_steps=2, decay="linear")
    >>> [round(float(schedule(config, 1.0, 6)(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    after_warmup = max(1, steps - config.warmup_steps)
    stable = round(config.stable_fraction * after_warmup)
    rest = max(1, after_warmup - stable)
    end = peak * config.final_fraction
    shapes = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, end, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
    }
    parts = [
        (optax.linear_schedule(0.0, peak, max(1, config.warmup_steps)), config.warmup_steps),
        (optax.constant_schedule(peak), stable),
        (shapes[config.decay], rest),
    ]
    used = [(shape, length) for shape, length in parts if length > 0]
    ends = [sum(length for _, length in used[: i + 1]) for i in range(len(used) - 1)]
    return optax.join_schedules([shape for shape, _ in used], ends)


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The gradient transformation of a run of `steps` steps, clipping included."""
    rate = schedule(config, config.learning_rate, steps)
    if config.kind == "adamw":
        update = optax.adamw(
            rate,
            config.beta1,
            config.beta2,
            weight_decay=config.weight_decay,
            mu_dtype=config.first_moment_dtype,
        )
    else:
        update = optax.contrib.muon(
            schedule(config, config.muon_learning_rate, steps),
            weight_decay=config.weight_decay,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            adam_weight_decay=config.weight_decay,
            adam_learning_rate=rate,
            muon_weight_dimension_numbers=_block_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def _block_matrices(params: Any) -> Any:
    """Which leaves are matrices of a block: stacked kernels `[layer, in, out]`; layers are a batch axis."""
    from optax.contrib import MuonDimensionNumbers

    def of(path: tuple[Any, ...], leaf: Any) -> Any:
        stacked = any(getattr(key, "key", None) == "blocks" for key in path)
        return (
            MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2,))
            if stacked and leaf.ndim == 3
            else None
        )

    return jax.tree_util.tree_map_with_path(of, params)
