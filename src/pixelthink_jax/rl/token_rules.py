"""What a vocabulary means to the decode loop, as tables: ends, bans, and the tags of a thought."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from pixelthink_jax.errors import InputError
from pixelthink_jax.rl.tag_automaton import tag_transitions

OPEN, CLOSE = b"<think>", b"</think>"
"""The thought: what opens it and what closes it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenRules:
    """What the vocabulary means to the decode loop.

    Attributes:
        eos: True at ids that end a completion.
        banned: True at ids that must not be sampled: the vision ids, and ids beyond the tokenizer.
        tags: Transition table of `<think>` and then `</think>`, see `tag_automaton`.
        close_ids: Tokens that close a thought whose budget is spent.
        pad_id: Written after the end.
    """

    eos: Bool[Array, " v"]
    banned: Bool[Array, " v"]
    tags: Int[Array, "states v"]
    close_ids: Int[Array, " m"]
    pad_id: Int[Array, ""]


def token_rules(
    token_bytes: list[bytes],
    *,
    vocab_size: int,
    eos: tuple[int, ...],
    banned: tuple[int, ...],
    close_ids: Any,
    pad: int,
) -> TokenRules:
    """Builds the tables of a vocabulary; `vocab_size` is the model's, which may exceed the tokenizer's.

    Raises:
        InputError: The tokenizer has more ids than the model.
    """
    if len(token_bytes) > vocab_size:
        raise InputError(
            f"tokenizer: {len(token_bytes)} ids for a model of {vocab_size}; take the model's own tokenizer"
        )
    texts = token_bytes + [b""] * (vocab_size - len(token_bytes))
    ids = np.arange(vocab_size)
    return TokenRules(
        eos=jnp.asarray(np.isin(ids, eos)),
        banned=jnp.asarray(np.isin(ids, banned) | (ids >= len(token_bytes))),
        tags=jnp.asarray(tag_transitions((OPEN, CLOSE), texts)),
        close_ids=jnp.asarray(close_ids, jnp.int32),
        pad_id=jnp.int32(pad),
    )
