"""Group-relative advantages: how much better a completion is than its siblings."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pixelthink_jax.models.layers import AnyArray


def group_advantages(
    rewards: Float[AnyArray, "prompts group"], *, eps: float = 1e-6, standardised: bool = True
) -> Float[Array, "prompts group"]:
    r"""Rewards standardised within each group of completions of one prompt.

    .. math:: A_i = \frac{r_i - \mathrm{mean}_g r}{\mathrm{std}_g r + \epsilon}

    with the unbiased deviation. A group of one has mean 0 and deviation 1, so its advantage is its reward; a larger
    group of equal rewards gives exactly 0, where rounding of the mean over `eps` would make about 0.2 of nothing.

    Args:
        rewards: One row a prompt.
        eps: Added to the deviation.
        standardised: False subtracts the mean only (Dr. GRPO, arXiv:2503.20783, section 3.1).

    Source: Shao et al. 2024 (arXiv:2402.03300), section 4.1.2; verl `core_algos.compute_grpo_outcome_advantage`.

    >>> [[round(a, 4) for a in row] for row in group_advantages(jnp.array([[1.0, 3.0], [2.7, 2.7]])).tolist()]
    [[-0.7071, 0.7071], [0.0, 0.0]]
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    if rewards.shape[1] == 1:
        return rewards / (1.0 + eps) if standardised else rewards
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    scale = jnp.std(rewards, axis=1, keepdims=True, ddof=1) + eps if standardised else 1.0
    equal = jnp.all(rewards == rewards[:, :1], axis=1, keepdims=True)
    return jnp.where(equal, 0.0, centred / scale)
