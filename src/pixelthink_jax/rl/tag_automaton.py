r"""Recognising tags in sampled text, whatever tokens they are cut into.

`</think>` may arrive as `</` `think` `>` or with its first or last bytes inside a neighbour's token (`.</`,
`>\n`); `<think></think>` even arrives with the end of one tag and the start of the next in one token (`><`).
So the decode loop follows bytes, not token ids: a string-matching automaton is precomputed over the
vocabulary, one transition per (state, token), and the loop does one table look-up per token.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def tag_transitions(tags: Sequence[bytes], token_bytes: Sequence[bytes]) -> Int[np.ndarray, "states v"]:
    """Transition table of the matcher of `tags`, one after another, with any text around them.

    The state is how many bytes of the tags have matched: from `len(tags[0])` on the first has been seen, and
        so
    forth; the last state absorbs.

    Args:
        tags: What to look for, in order.
        token_bytes: The bytes of every token, by id; special tokens are empty.

    Returns:
        int32 `[total bytes of the tags + 1, v]`: the state after reading a token in a state.

    >>> table = tag_transitions([b"<t>", b"</t>"], [b"<", b"t", b"><", b"/t>"])
    >>> state = 0
    >>> for token in (0, 1, 2, 3):
    ...     state = int(table[state, token])
    >>> state == len(b"<t></t>")
    True
    """
    step = _byte_transitions(tags)
    states = np.arange(len(step))
    table = np.empty((len(step), len(token_bytes)), np.int32)
    for token, text in enumerate(token_bytes):
        after = states
        for byte in text:
            after = step[after, byte]
        table[:, token] = after
    return table


def _byte_transitions(tags: Sequence[bytes]) -> Int[np.ndarray, "states 256"]:
    """Knuth-Morris-Pratt automata over single bytes, the last state of one being the first of the next."""
    final = sum(len(tag) for tag in tags)
    step = np.full((final + 1, 256), final, np.int32)
    first = 0
    for tag in tags:
        for state in range(len(tag)):
            for byte in range(256):
                seen = tag[:state] + bytes([byte])
                matched = next(n for n in range(len(seen), -1, -1) if seen.endswith(tag[:n]))
                step[first + state, byte] = first + matched
        first += len(tag)
    return step
