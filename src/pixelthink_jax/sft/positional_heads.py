"""Heads that begin by looking at the tokens just before, so that copying is learned soon.

A model copies what it has read (the words of a question, a number of a list) by finding the last place where the same
word stood and taking what followed. That needs a head that carries each token to the next one (induction heads: Olsson
et al. 2022, arXiv:2209.11895). Rotary attention finds an offset only through what content has in common, or through
query and key biases, which begin at zero and give each other no gradient there; small models therefore stand on a
plateau for a long time. Qwen2.5's blocks have these biases, so such a head can be written down.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pixelthink_jax.models.qwen_vl import QwenVLConfig

STRENGTH = 10.0
"""Length of each rotary pair of the biases; scores grow with its square."""

CONTENT = 0.1
"""What is left of the kernels of these heads, whose scores would drown the offset."""


def offset_query(frequencies: Float[np.ndarray, " half"], offset: int) -> Float[np.ndarray, " c"]:
    r"""The query whose score against the key :math:`(1, 0)` of every pair is largest at `offset` tokens before.

    A query at :math:`p` and a key at :math:`s` are turned by :math:`\theta p` and :math:`\theta s`, so their product is
    :math:`\sum_i \cos(\theta_i (p - s - \mathrm{offset}))`.

    >>> offset_query(np.array([1.0]), 0).tolist()
    [1.0, -0.0]
    """
    return np.concatenate([np.cos(frequencies * offset), -np.sin(frequencies * offset)])


def with_previous_token_heads(params: Any, config: QwenVLConfig, *, layer: int) -> Any:
    """Parameters in which the query heads of a layer's first key head look 1, 2, ... tokens back.

    Args:
        params: The whole model's, stacked.
        config: The model.
        layer: Which decoder block; not the last, since what they carry is used above it.

    Raises:
        ValueError: There is no such layer, or nothing above it.
    """
    text = config.text
    if not 0 <= layer < text.num_layers - 1:
        raise ValueError(f"layer {layer}: expected 0 to {text.num_layers - 2}, one below another")
    half = text.head_dim // 2
    frequencies = text.rope_theta ** (-np.arange(half) / half)
    queries = [offset_query(frequencies, 1 + head) for head in range(text.num_heads // text.num_kv_heads)]
    key = np.concatenate([np.ones(half), np.zeros(half)])
    blocks = dict(params["text"]["blocks"])
    for name, bias in (("q_proj", np.concatenate(queries)), ("k_proj", key)):
        old, heads = blocks[name], slice(0, len(bias))
        blocks[name] = {
            "kernel": old["kernel"].at[layer, :, heads].multiply(CONTENT),
            "bias": old["bias"].at[layer, heads].set(jnp.asarray(STRENGTH * bias, old["bias"].dtype)),
        }
    return {**params, "text": {**params["text"], "blocks": blocks}}
