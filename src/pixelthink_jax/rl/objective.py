"""What a batch of completions is trained on: one of the named losses, weighed over tokens and summed.

A variant is three choices: whether rewards are divided by their group's deviation, whether the ratio is a token's or a
sequence's, and how tokens are averaged, with the clip range its authors use.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pixelthink_jax.errors import InputError
from pixelthink_jax.rl.losses import Aggregation, KlKind, RatioLevel, kl_token_estimate, policy_token_loss

Variant = Literal["grpo", "dr_grpo", "dapo", "gspo"]


class LossShape(NamedTuple):
    """The choices that make a variant."""

    standardised: bool
    ratio_level: RatioLevel
    aggregation: Aggregation
    clip_eps: float
    clip_eps_high: float


VARIANTS: dict[str, LossShape] = {
    # As released: songw-zju/PixelThink @052d9de, micro-batches of one sequence.
    "grpo": LossShape(True, "token", "sequence_mean", 0.2, 0.2),
    # Liu et al. 2025 (arXiv:2503.20783).
    "dr_grpo": LossShape(False, "token", "fixed_length", 0.2, 0.2),
    # Yu et al. 2025 (arXiv:2503.14476).
    "dapo": LossShape(True, "token", "token_mean", 0.2, 0.28),
    # Zheng et al. 2025 (arXiv:2507.18071), section 5.1.
    "gspo": LossShape(True, "sequence", "sequence_mean", 3e-4, 4e-4),
}


@dataclass(frozen=True)
class LossConfig:
    """What is minimised; the defaults are the released ones.

    Attributes:
        variant: A row of `VARIANTS`.
        clip_eps: Clip range of the ratio; None takes the variant's.
        clip_eps_high: Upper clip range; None takes the variant's, or `clip_eps` where that is given.
        kl_kind: Estimate of the divergence from the reference.
        kl_coef: Its weight; 0 leaves the reference out altogether.
        entropy_coef: Weight of the entropy bonus.
    """

    variant: Variant = "grpo"
    clip_eps: float | None = None
    clip_eps_high: float | None = None
    kl_kind: KlKind = "k3"
    kl_coef: float = 5e-3
    entropy_coef: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("clip_eps", "clip_eps_high", "kl_coef", "entropy_coef"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"loss: {name} must be finite and not negative, got {value}")

    @property
    def shape(self) -> LossShape:
        """The choices of the variant."""
        return VARIANTS[self.variant]

    @property
    def clip_range(self) -> tuple[float, float]:
        """How far the ratio may go below and above one.

        >>> LossConfig().clip_range, LossConfig("dapo").clip_range, LossConfig("dapo", clip_eps=0.1).clip_range
        ((0.2, 0.2), (0.2, 0.28), (0.1, 0.1))
        """
        own = self.shape
        if self.clip_eps is None:
            return own.clip_eps, own.clip_eps_high if self.clip_eps_high is None else self.clip_eps_high
        return self.clip_eps, self.clip_eps if self.clip_eps_high is None else self.clip_eps_high


def objective(
    config: LossConfig,
    *,
    logprobs: Float[Array, "s t"],
    entropies: Float[Array, "s t"],
    old_logprobs: Float[Array, "s t"],
    reference_logprobs: Float[Array, "s t"] | None,
    advantages: Float[Array, " s"],
    mask: Bool[Array, "s t"],
    weights: Float[Array, "s t"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    r""":math:`L = \sum_{st} w_{st} (\ell_{st} - c_H H_{st} + c_{KL} \mathrm{KL}_{st})` and its parts.

    Args:
        config: The loss.
        logprobs: Of the sampled tokens under the policy; the gradient flows here and into `entropies`.
        entropies: Of the distributions the tokens were drawn from.
        old_logprobs: Under the policy that sampled.
        reference_logprobs: Under the reference; None without a divergence term.
        advantages: One for each sequence.
        mask: True at completion tokens.
        weights: `losses.token_weights` of the whole batch, of which these sequences may be a part: the losses and the
            metrics of its parts add up to those of the batch.
    """
    low, high = config.clip_range
    policy, binds = policy_token_loss(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        clip_eps=low,
        clip_eps_high=high,
        ratio_level=config.shape.ratio_level,
    )
    parts = {"policy_loss": policy, "clip_fraction": binds, "entropy": jnp.where(mask, entropies, 0.0)}
    if reference_logprobs is not None:
        parts["kl"] = kl_token_estimate(logprobs, reference_logprobs, mask, kind=config.kl_kind)
    metrics = {name: jnp.sum(weights * values) for name, values in parts.items()}
    loss = metrics["policy_loss"] - config.entropy_coef * metrics["entropy"]
    if reference_logprobs is not None:
        loss = loss + config.kl_coef * metrics["kl"]
    return loss, {"loss": loss, **metrics}
