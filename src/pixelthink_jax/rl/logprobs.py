"""Log-probabilities of given tokens without ever holding all logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Real, Shaped

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
    memory does not grow with positions times vocabulary. On a mesh every chip adds up the gradient of the head over
    its own positions of all chunks, and the chips' sums are added once.

    Args:
        params: The whole model's parameters.
        hidden: Final hidden states; each predicts the target at its place.
        targets: The tokens to score.
        config: The model.
        temperature: Divides the logits.
        banned: Tokens that the sampler never draws; they are not in the distribution. None bans none.
    """
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    count, head = flat.shape[0], qwen_vl.output_head(params, config)
    size, shards = max(1, LOGITS_AT_ONCE * shards_of("v") // config.text.vocab_size), shards_of("m")
    if count <= size * shards:
        logits = on_axes(qwen_vl.head_logits(head, on_axes(flat, "m d")), "m v")
        scores = _scores(logits / temperature, wanted, banned)
    else:
        # Each chip goes through its own positions, with its own copy of the head.
        heads = on_axes(jnp.broadcast_to(head, (shards, *head.shape)), "m v d")

        @jax.checkpoint
        def score(chunk: tuple[Float[Array, "m s d"], Int[Array, "m s"]]) -> TokenScores:
            logits = on_axes(jax.vmap(qwen_vl.head_logits)(heads, chunk[0]), "m . v")
            return jax.vmap(partial(_scores, banned=banned))(logits / temperature, chunk[1])

        scores = jax.lax.map(score, (_chunks(flat, shards, size), _chunks(wanted, shards, size)))
        scores = jax.tree.map(lambda x: _joined(x, count), scores)
    return jax.tree.map(lambda x: x.reshape(targets.shape), scores)


def _chunks(x: Real[Array, "n ..."], shards: int, size: int) -> Real[Array, "chunk m s ..."]:
    """Rows, shared out one run after another, in chunks of `size` of each share, zeros after its last."""
    share = -(-x.shape[0] // shards)
    padding = [(0, 0)] * (x.ndim - 1)
    shares = jnp.pad(x, [(0, shards * share - x.shape[0]), *padding]).reshape(shards, share, *x.shape[1:])
    padded = jnp.pad(on_axes(shares, " ".join("m" + "." * x.ndim)), [(0, 0), (0, -share % size), *padding])
    chunks = padded.reshape(shards, -1, size, *x.shape[1:]).swapaxes(0, 1)
    return on_axes(chunks, " ".join(".m" + "." * x.ndim))


def _joined(chunks: Shaped[Array, "chunk m s"], count: int) -> Shaped[Array, " n"]:
    """What `_chunks` cut, for the first `count` rows."""
    shards = chunks.shape[1]
    return chunks.swapaxes(0, 1).reshape(shards, -1)[:, : -(-count // shards)].reshape(-1)[:count]


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
