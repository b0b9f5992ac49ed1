"""Log-probabilities of given tokens without ever holding all logits."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig

# Logits held at once, in numbers: 2**26 float32 are 256 MB, twice that with their gradient.
_LOGITS_AT_ONCE = 2**26


def token_logprobs(
    params: Any, hidden: Float[Array, "b t d"], targets: Int[Array, "b t"], config: QwenVLConfig
) -> tuple[Float[Array, "b t"], Bool[Array, "b t"]]:
    """Log-probability in nats of each target token, and whether it is the likeliest.

    The vocabulary projection runs over chunks of positions, each recomputed in the backward pass, so that
    memory does not grow with positions times vocabulary.

    Args:
        params: The whole model's parameters.
        hidden: Final hidden states; position i predicts `targets[:, i]`.
        targets: The tokens to score.
        config: The model.
    """
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    count = flat.shape[0]
    chunk = min(count, max(1, _LOGITS_AT_ONCE // config.text.vocab_size))

    def score(positions: Float[Array, "n d"], tokens: Int[Array, " n"]) -> tuple[Array, Array]:
        logits = qwen_vl.logits(params, positions, config)
        chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1) == tokens

    if chunk == count:
        logprobs, correct = score(flat, wanted)
    else:
        pad = -count % chunk
        chunks = jnp.pad(flat, ((0, pad), (0, 0))).reshape(-1, chunk, flat.shape[-1])
        tokens = jnp.pad(wanted, (0, pad)).reshape(-1, chunk)
        logprobs, correct = jax.lax.map(lambda pair: jax.checkpoint(score)(*pair), (chunks, tokens))
        logprobs, correct = logprobs.reshape(-1)[:count], correct.reshape(-1)[:count]
    return logprobs.reshape(targets.shape), correct.reshape(targets.shape)
