"""One token per row from a row of logits, with the statistics the method needs.

Log-probability and the top-two gap are those of the temperature-scaled distribution before any truncation by
top-k or top-p (method section 5: uncertainty is over the sampling distribution). Greedy decoding reports them
at temperature 1. Nothing here sorts the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from pixelthink_jax.errors import InputError

# Enough halvings of [0, 1] to separate any two float32 probabilities that matter (2**-32 of the total mass).
_BISECTIONS = 32


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn.

    Attributes:
        max_new_tokens: Longest completion, its end token included.
        temperature: 0 is greedy.
        top_p: Nucleus mass; 1 is off.
        top_k: Number of likeliest tokens kept; 0 is off.
        max_thinking_tokens: Tokens a thought may have before it is closed for the policy; None sets no limit.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_thinking_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not (self.temperature >= 0 and np.isfinite(self.temperature)):
            raise InputError(f"temperature must be 0 (greedy) or positive, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 0 (off) or positive, got {self.top_k}")
        if self.max_thinking_tokens is not None and self.max_thinking_tokens < 0:
            raise InputError(f"max_thinking_tokens must not be negative, got {self.max_thinking_tokens}")


def row_keys(seed: int, step: int, prompt_ids: Int[Array, " b"], group_size: int) -> Key[Array, "b g"]:
    """One key per completion, from (seed, step, prompt id, sample id): whatever the batch layout and mesh."""
    base = jax.random.fold_in(jax.random.key(seed), step)
    per_prompt = jax.vmap(lambda i: jax.random.fold_in(base, i))(prompt_ids)
    samples = jnp.arange(group_size)
    return jax.vmap(lambda key: jax.vmap(lambda s: jax.random.fold_in(key, s))(samples))(per_prompt)


def top_p_threshold(probs: Float[Array, "... v"], top_p: Float[Array, ""]) -> Float[Array, "... 1"]:
    """The largest probability t such that tokens with probability >= t together hold at least `top_p`.

    >>> probs = jnp.array([0.5, 0.3, 0.15, 0.05])
    >>> [bool(p >= top_p_threshold(probs, jnp.array(0.7))[0]) for p in probs]
    [True, True, False, False]
    """

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.sum(jnp.where(probs >= middle, probs, 0.0), axis=-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    shape = (*probs.shape[:-1], 1)
    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros(shape), jnp.ones(shape)))
    return low


def truncate(
    logits: Float[Array, "... v"], *, top_k: int, top_p: Float[Array, ""] | None
) -> Float[Array, "... v"]:
    """Sets logits outside the top k, then outside the nucleus of mass `top_p`, to -inf. `top_k` 0 is off.

    Tokens as likely as the last one kept are kept too.
    """
    if 0 < top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits >= threshold, logits, -jnp.inf)
    if top_p is not None:
        probs = jax.nn.softmax(logits, axis=-1)
        logits = jnp.where(probs >= top_p_threshold(probs, top_p), logits, -jnp.inf)
    return logits


def token_statistics(
    logits: Float[Array, "... v"], tokens: Int[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Log-probability in nats of each token, and the gap between the two largest probabilities.

    >>> logprob, gap = token_statistics(jnp.log(jnp.array([0.7, 0.2, 0.1])), jnp.array(0))
    >>> round(float(jnp.exp(logprob)), 4), round(float(gap), 4)
    (0.7, 0.5)
    """
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    # Two reductions: a sorted top two would move all logits between chips where the vocabulary is cut.
    best, place = jnp.max(logits, axis=-1), jnp.argmax(logits, axis=-1)
    ids = jax.lax.broadcasted_iota(place.dtype, logits.shape, logits.ndim - 1)
    others = jnp.where(ids == place[..., None], -jnp.inf, logits)
    gap = jnp.exp(best - normaliser) - jnp.exp(jnp.max(others, axis=-1) - normaliser)
    return chosen - normaliser, gap


def sample_tokens(
    logits: Float[Array, "b g v"],
    keys: Key[Array, "b g"],
    *,
    temperature: Float[Array, ""],
    banned: Bool[Array, " v"],
    greedy: bool,
    top_k: int = 0,
    top_p: Float[Array, ""] | None = None,
) -> tuple[Int[Array, "b g"], Float[Array, "b g v"]]:
    """Picks a token for every completion and returns it with the temperature-scaled logits.

    Banned tokens (the vision ids) have no probability: they are not in the distribution whose log-probability
    is reported either.
    """
    logits = jnp.where(banned, -jnp.inf, logits)
    if greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), logits
    scaled = logits / temperature
    shape = scaled.shape[-1:]
    noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, shape)))(keys)
    tokens = jnp.argmax(truncate(scaled, top_k=top_k, top_p=top_p) + noise, axis=-1)
    return tokens.astype(jnp.int32), scaled
