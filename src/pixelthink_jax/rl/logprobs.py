"""Log-probabilities of given tokens without ever holding all logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import on_axes, shards_of
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl import QwenVLConfig

# Logits held at once, in numbers: 2**26 float32 are 256 MB, twice that with their gradient.
LOGITS_AT_ONCE = 2**26


@struct.dataclass
class TokenScores:
    """What the model thinks of given tokens.

    Attributes:
        logprobs: Log-probability in nats of each token.
        entropies: Entropy in nats of the distribution it was scored under.
        likeliest: True where no token is likelier.
    """

    logprobs: Float[AnyArray, "*n"]
    entropies: Float[AnyArray, "*n"]
    likeliest: Bool[AnyArray, "*n"]


def token_logprobs(
    params: Any,
    hidden: Float[Array, "*n d"],
    targets: Int[Array, "*n"],
    config: QwenVLConfig,
    *,
    temperature: Float[Array, ""] | float = 1.0,
    banned: Bool[Array, " v"] | None = None,
) -> TokenScores:
    """Scores each target token under the distribution that predicts it.

    The vocabulary projection runs over chunks of positions, each recomputed in the backward pass, so that
    memory does not grow with positions times vocabulary.

    Args:
        params: The whole model's parameters.
        hidden: Final hidden states; each predicts the target at its place.
        targets: The tokens to score.
        config: The model.
        temperature: Divides the logits.
        banned: Tokens that the sampler never draws; they are not in the distribution. None bans none.
    """
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    count = flat.shape[0]
    chunk = min(count, max(1, LOGITS_AT_ONCE * shards_of("v") // config.text.vocab_size) * shards_of("m"))

    def score(positions: Float[Array, "m d"], tokens: Int[Array, " m"]) -> TokenScores:
        logits = qwen_vl.logits(params, on_axes(positions, "m d"), config)
        return _scores(on_axes(logits, "m v") / temperature, tokens, banned)

    if chunk == count:
        scores = score(flat, wanted)
    else:
        pad = -count % chunk
        chunks = jnp.pad(flat, ((0, pad), (0, 0))).reshape(-1, chunk, flat.shape[-1])
        tokens = jnp.pad(wanted, (0, pad)).reshape(-1, chunk)
        # Chunks follow one another, so it is within them that positions are shared out.
        chunks, tokens = on_axes(chunks, "chunk m d"), on_axes(tokens, "chunk m")
        scores = jax.lax.map(lambda pair: jax.checkpoint(score)(*pair), (chunks, tokens))
        scores = jax.tree.map(lambda x: x.reshape(-1)[:count], scores)
    return jax.tree.map(lambda x: x.reshape(targets.shape), scores)


def _scores(
    logits: Float[Array, "m v"], tokens: Int[Array, " m"], banned: Bool[Array, " v"] | None
) -> TokenScores:
    """The scores of one chunk."""
    allowed = logits if banned is None else jnp.where(banned[None], -jnp.inf, logits)
    normaliser = jax.nn.logsumexp(allowed, axis=-1)
    chosen = jnp.take_along_axis(allowed, tokens[:, None], axis=-1)[:, 0]
    # H = log Z - E[logit]; a banned token has probability 0, but 0 times minus infinity is not a number.
    probs = jnp.exp(allowed - normaliser[:, None])
    entropies = normaliser - jnp.sum(probs * logits, axis=-1)
    return TokenScores(chosen - normaliser, entropies, jnp.argmax(allowed, axis=-1) == tokens)
