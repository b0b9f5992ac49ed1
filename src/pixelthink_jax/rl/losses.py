"""Losses per completion: clipped policy gradient, divergence from the reference, entropy.

Every function returns one number for each sequence, the mean over its own tokens, so that sequences count equally
whatever their length and however they are cut into micro-batches. A sequence without tokens gives 0.

Source: songw-zju/PixelThink @052d9de `core_algos.py` (verl); Schulman et al. 2017 (arXiv:1707.06347), equation 7.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models.layers import AnyArray

KlKind = Literal["k1", "k2", "k3"]
Mask = Bool[AnyArray, "s t"] | Int[AnyArray, "s t"] | Float[AnyArray, "s t"]

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


def clipped_policy_loss(
    logprobs: Float[AnyArray, "s t"],
    old_logprobs: Float[AnyArray, "s t"],
    advantages: Float[AnyArray, " s"] | Float[AnyArray, "s t"],
    mask: Mask,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    r"""The clipped surrogate of policy gradient and how often the clip binds.

    .. math:: L_i = \mathrm{mean}_t \max(-A \rho_t, -A\,\mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)),
        \quad \rho_t = e^{\log p_t - \log p^{old}_t}

    Args:
        logprobs: Of the sampled tokens under the policy that is trained.
        old_logprobs: Under the policy that sampled them.
        advantages: One for each sequence, or for each token.
        mask: True at completion tokens.
        clip_eps: Clip range of the ratio.
        clip_eps_high: Upper clip range where it differs (DAPO's clip-higher, arXiv:2503.14476, section 3.1).

    Returns:
        The loss, and the share of tokens at which the clipped side is the larger.

    >>> one = jnp.ones((1, 1))
    >>> loss, clipped = clipped_policy_loss(jnp.log(2 * one), 0 * one, one[0], one)
    >>> round(float(loss[0]), 4), float(clipped[0])
    (-1.2, 1.0)
    """
    advantages = jnp.asarray(advantages)
    weight = advantages[:, None] if advantages.ndim == 1 else advantages
    # Tokens outside the mask may hold anything; a ratio of one keeps them out of the gradient too.
    drift = jnp.where(jnp.asarray(mask) > 0, jnp.asarray(logprobs) - old_logprobs, 0.0)
    ratio = jnp.exp(drift)
    high = clip_eps if clip_eps_high is None else clip_eps_high
    plain, clipped = -weight * ratio, -weight * jnp.clip(ratio, 1.0 - clip_eps, 1.0 + high)
    binds = (clipped > plain).astype(jnp.float32)
    return masked_mean(jnp.maximum(plain, clipped), mask), masked_mean(binds, mask)


def kl_estimate(
    logprobs: Float[AnyArray, "s t"],
    reference_logprobs: Float[AnyArray, "s t"],
    mask: Mask,
    *,
    kind: KlKind = "k3",
) -> Float[Array, " s"]:
    r"""Monte Carlo estimate of KL(policy || reference) in nats a token, from sampled tokens.

    With :math:`d = \log p^{ref} - \log p`: k1 is :math:`-d`, k2 is :math:`d^2 / 2`, k3 is :math:`e^d - d - 1` clamped
    to 10 in magnitude, as released (`low_var_kl`).

    Source: http://joschu.net/blog/kl-approx.html.

    >>> float(kl_estimate(jnp.zeros((1, 1)), jnp.full((1, 1), 500.0), jnp.ones((1, 1)))[0])
    10.0
    """
    drift = jnp.where(jnp.asarray(mask) > 0, jnp.asarray(reference_logprobs) - logprobs, 0.0)
    if kind == "k1":
        return masked_mean(-drift, mask)
    if kind == "k2":
        return masked_mean(drift**2 / 2, mask)
    drift = jnp.minimum(drift, _LARGEST_EXPONENT)
    return masked_mean(jnp.clip(jnp.exp(drift) - drift - 1.0, -KL_LIMIT, KL_LIMIT), mask)


def entropy(logits: Float[AnyArray, "s t v"], mask: Mask) -> Float[Array, " s"]:
    """Mean entropy in nats of the distributions at completion tokens.

    >>> round(float(entropy(jnp.zeros((1, 1, 8)), jnp.ones((1, 1)))[0]), 4)
    2.0794
    """
    logp = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    return masked_mean(-jnp.sum(jnp.exp(logp) * logp, axis=-1), mask)
