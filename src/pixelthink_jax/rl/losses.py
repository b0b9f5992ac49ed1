"""Losses of completion tokens: clipped policy gradient, divergence from the reference, entropy.

Each comes in two forms: for every token, which the training step weighs and sums, and as the mean over the tokens of
each sequence, as the released code reports it. Masked tokens are 0 and a sequence without tokens gives 0, in value and
in gradient, whatever the arrays hold there.

Source: songw-zju/PixelThink @052d9de `core_algos.py` (verl); Schulman et al. 2017 (arXiv:1707.06347), equation 7.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models.layers import AnyArray

KlKind = Literal["k1", "k2", "k3"]
RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["sequence_mean", "token_mean", "fixed_length"]
Mask = Bool[AnyArray, "s t"] | Int[AnyArray, "s t"] | Float[AnyArray, "s t"]
PerToken = Float[Array, "s t"]

KL_LIMIT = 10.0
"""Largest magnitude of the divergence of one token."""

_LARGEST_EXPONENT = 20.0
"""Beyond it the clamped divergence is flat; `exp` of more than 88 would put NaN into the gradient."""


def masked_mean(values: Float[AnyArray, "s t"], mask: Mask) -> Float[Array, " s"]:
    """Mean of each row over its masked-in entries; 0 for a row without any.

    >>> masked_mean(jnp.array([[1.0, 3.0], [5.0, 7.0]]), jnp.array([[1, 1], [0, 0]])).tolist()
    [2.0, 0.0]
    """
    keep = jnp.asarray(mask) > 0
    total = jnp.sum(jnp.where(keep, values, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(keep, axis=1), 1)


def token_weights(mask: Mask, aggregation: Aggregation, *, longest: int | None = None) -> PerToken:
    r"""How much each token counts in the loss of a batch, :math:`L = \sum_{st} w_{st} \ell_{st}`.

    Args:
        mask: True at completion tokens.
        aggregation: `sequence_mean` averages each sequence and then the sequences, so that each counts equally
            (GRPO); `token_mean` averages all tokens (DAPO, arXiv:2503.14476, section 3.3); `fixed_length` divides by
            sequences times `longest`, so that a token's weight does not depend on how long its completion is (Dr. GRPO,
            arXiv:2503.20783, section 3.2).
        longest: Tokens that a completion may have; needed for `fixed_length`.

    >>> mask = jnp.array([[1, 1], [1, 0]])
    >>> token_weights(mask, "sequence_mean").tolist(), token_weights(mask, "fixed_length", longest=4).tolist()
    ([[0.25, 0.25], [0.5, 0.0]], [[0.125, 0.125], [0.125, 0.0]])
    """
    keep = (jnp.asarray(mask) > 0).astype(jnp.float32)
    sequences = keep.shape[0]
    if aggregation == "sequence_mean":
        return keep / jnp.maximum(keep.sum(axis=1, keepdims=True), 1.0) / sequences
    if aggregation == "token_mean":
        return keep / jnp.maximum(keep.sum(), 1.0)
    if longest is None:
        raise ValueError("token_weights: fixed_length needs the longest length")
    return keep / (sequences * longest)


def policy_token_loss(
    logprobs: Float[AnyArray, "s t"],
    old_logprobs: Float[AnyArray, "s t"],
    advantages: Float[AnyArray, " s"] | Float[AnyArray, "s t"],
    mask: Mask,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
    ratio_level: RatioLevel = "token",
) -> tuple[PerToken, PerToken]:
    r"""The clipped surrogate of policy gradient at every token, and where the clip binds.

    .. math:: \ell_t = \max(-A \rho_t, -A\,\mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)),
        \quad \rho_t = e^{\log p_t - \log p^{old}_t}

    Args:
        logprobs: Of the sampled tokens under the policy that is trained.
        old_logprobs: Under the policy that sampled them.
        advantages: One for each sequence, or for each token.
        mask: True at completion tokens.
        clip_eps: Clip range of the ratio.
        clip_eps_high: Upper clip range where it differs (DAPO's clip-higher, arXiv:2503.14476, section 3.1).
        ratio_level: `sequence` gives every token the geometric mean of its sequence's ratios (GSPO,
            arXiv:2507.18071, equation 7).

    Returns:
        The loss, and 1 where the clipped side is the larger.
    """
    advantages = jnp.asarray(advantages)
    weight = advantages[:, None] if advantages.ndim == 1 else advantages
    keep = jnp.asarray(mask) > 0
    # Tokens outside the mask may hold anything; a ratio of one keeps them out of the gradient too.
    drift = jnp.where(keep, jnp.asarray(logprobs) - old_logprobs, 0.0)
    if ratio_level == "sequence":
        drift = jnp.broadcast_to(masked_mean(drift, mask)[:, None], drift.shape)
    ratio = jnp.exp(drift)
    high = clip_eps if clip_eps_high is None else clip_eps_high
    plain, clipped = -weight * ratio, -weight * jnp.clip(ratio, 1.0 - clip_eps, 1.0 + high)
    return jnp.where(keep, jnp.maximum(plain, clipped), 0.0), (keep & (clipped > plain)).astype(jnp.float32)


def clipped_policy_loss(
    logprobs: Float[AnyArray, "s t"],
    old_logprobs: Float[AnyArray, "s t"],
    advantages: Float[AnyArray, " s"] | Float[AnyArray, "s t"],
    mask: Mask,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """Sequence means of `policy_token_loss`: the loss, and the share of tokens at which the clip binds.

    >>> one = jnp.ones((1, 1))
    >>> loss, clipped = clipped_policy_loss(jnp.log(2 * one), 0 * one, one[0], one)
    >>> round(float(loss[0]), 4), float(clipped[0])
    (-1.2, 1.0)
    """
    loss, binds = policy_token_loss(
        logprobs, old_logprobs, advantages, mask, clip_eps=clip_eps, clip_eps_high=clip_eps_high
    )
    return masked_mean(loss, mask), masked_mean(binds, mask)


def kl_token_estimate(
    logprobs: Float[AnyArray, "s t"],
    reference_logprobs: Float[AnyArray, "s t"],
    mask: Mask,
    *,
    kind: KlKind = "k3",
) -> PerToken:
    r"""Monte Carlo estimate of KL(policy || reference) in nats at every sampled token.

    With :math:`d = \log p^{ref} - \log p`: k1 is :math:`-d`, k2 is :math:`d^2 / 2`, k3 is :math:`e^d - d - 1` clamped
    to 10 in magnitude, as released (`low_var_kl`).

    Source: http://joschu.net/blog/kl-approx.html.
    """
    drift = jnp.where(jnp.asarray(mask) > 0, jnp.asarray(reference_logprobs) - logprobs, 0.0)
    if kind == "k1":
        return -drift
    if kind == "k2":
        return drift**2 / 2
    drift = jnp.minimum(drift, _LARGEST_EXPONENT)
    return jnp.clip(jnp.exp(drift) - drift - 1.0, -KL_LIMIT, KL_LIMIT)


def kl_estimate(
    logprobs: Float[AnyArray, "s t"],
    reference_logprobs: Float[AnyArray, "s t"],
    mask: Mask,
    *,
    kind: KlKind = "k3",
) -> Float[Array, " s"]:
    """Sequence means of `kl_token_estimate`.

    >>> float(kl_estimate(jnp.zeros((1, 1)), jnp.full((1, 1), 500.0), jnp.ones((1, 1)))[0])
    10.0
    """
    return masked_mean(kl_token_estimate(logprobs, reference_logprobs, mask, kind=kind), mask)


def entropy(logits: Float[AnyArray, "s t v"], mask: Mask) -> Float[Array, " s"]:
    """Mean entropy in nats of the distributions at completion tokens.

    >>> round(float(entropy(jnp.zeros((1, 1, 8)), jnp.ones((1, 1)))[0]), 4)
    2.0794
    """
    logp = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    return masked_mean(-jnp.sum(jnp.exp(logp) * logp, axis=-1), mask)
