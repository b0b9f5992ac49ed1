"""Embeddings of number tokens that begin as smooth functions of the number.

Where a coordinate is one token, predicting it is a choice among a hundred unrelated ids: what is learned of 340 says
nothing of 350. Fourier features of the value (Tancik et al. 2020, arXiv:2006.10739) make near numbers near from the
first step; training then moves each embedding as it likes.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pixelthink_jax.processing.tokenizer import Tokenizer

WAVELENGTHS = (1680.0, 840.0, 420.0, 210.0, 105.0, 52.5)
"""In units of the number; the longest tells the ends of the 840 frame apart, the shortest a few units."""


def numerals(tokenizer: Tokenizer) -> dict[int, int]:
    """Token id -> value, of every token that is a whole number, with or without a space before it."""
    texts = {i: tokenizer.decode([i]).strip() for i in range(tokenizer.vocab_size)}
    return {i: int(text) for i, text in texts.items() if text.isascii() and text.isdecimal()}


def fourier_features(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n f"]:
    """Sine and cosine of each value at `WAVELENGTHS`; every row has the same length.

    >>> fourier_features(np.array([0.0])).tolist()
    [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    angles = 2 * math.pi * values[:, None] / np.array(WAVELENGTHS)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def smooth_numerals(
    embed: Float[Array, "v d"], values: dict[int, int], *, std: float, seed: int
) -> Float[Array, "v d"]:
    """The embedding matrix with the rows of number tokens replaced by smooth codes of their values.

    Args:
        embed: Embeddings, one row a token.
        values: Token id -> number.
        std: Standard deviation of an entry, so that the codes are as large as other rows.
        seed: Of the random directions that the features are written in.
    """
    ids = np.array(sorted(values))
    features = fourier_features(np.array([values[i] for i in ids.tolist()], float))
    directions = np.random.default_rng(seed).normal(size=(features.shape[1], embed.shape[1]))
    codes = std * features @ directions / math.sqrt(len(WAVELENGTHS))
    return embed.at[ids].set(jnp.asarray(codes, embed.dtype))
