"""Recognising a tag in sampled text, whatever tokens it is cut into.

`</think>` may arrive as `</` `think` `>` or with its first or last bytes inside a neighbour's token (`.</`, `>\\n`).
So the decode loop follows bytes, not token ids: a string-matching automaton is precomputed over the vocabulary,
one transition per (state, token), and the loop does one table look-up per token.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def tag_transitions(tag: bytes, token_bytes: Sequence[bytes]) -> Int[np.ndarray, "states v"]:
    """Transition table of the matcher of `tag`: state is how many bytes have matched; the last state absorbs.

    Args:
        tag: What to look for.
        token_bytes: The bytes of every token, by id; special tokens are empty.

    Returns:
        int32 `[len(tag) + 1, v]`: the state after reading a token in a state.

    >>> table = tag_transitions(b"</t>", [b"<", b"a</", b"t>", b"x"])
    >>> state = 0
    >>> for token in (0, 1, 2, 3):
    ...     state = int(table[state, token])
    >>> state == len(b"</t>")
    True
    """
    step = _byte_transitions(tag)
    states = np.arange(len(tag) + 1)
    table = np.empty((len(tag) + 1, len(token_bytes)), np.int32)
    for token, text in enumerate(token_bytes):
        after = states
        for byte in text:
            after = step[after, byte]
        table[:, token] = after
    return table


def _byte_transitions(tag: bytes) -> Int[np.ndarray, "states 256"]:
    """Knuth-Morris-Pratt automaton over single bytes."""
    final = len(tag)
    step = np.zeros((final + 1, 256), np.int32)
    step[final] = final
    for state in range(final):
        for byte in range(256):
            seen = tag[:state] + bytes([byte])
            step[state, byte] = next(n for n in range(len(seen), -1, -1) if seen.endswith(tag[:n]))
    return step
