import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pixelthink_jax.rl.tag_automaton import tag_transitions

OPEN, CLOSE = b"<think>", b"</think>"
PIECES = [
    b"<",
    b">",
    b"/",
    b"<think>",
    b"</think>",
    b"</",
    b"think",
    b"thi",
    b"nk",
    b"><",
    b"></",
    b">\n",
    b"a",
    b"<<",
    b"",
]


def walk(tags: tuple[bytes, ...], tokens: list[bytes]) -> list[int]:
    """The state after each token."""
    vocabulary = sorted(set(tokens))
    table = tag_transitions(tags, vocabulary)
    state, states = 0, []
    for token in tokens:
        state = int(table[state, vocabulary.index(token)])
        states.append(state)
    return states


def plain_state(tags: tuple[bytes, ...], text: bytes) -> int:
    """The same by `find`: whole tags seen, plus the longest end of the text that begins the next tag."""
    start, done = 0, 0
    for tag in tags:
        found = text.find(tag, start)
        if found < 0:
            rest = text[start:]
            return done + max(n for n in range(len(tag)) if rest.endswith(tag[:n]))
        start, done = found + len(tag), done + len(tag)
    return done


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_pieces_in_any_order(tokens: list[bytes]) -> None:
    states = walk((OPEN, CLOSE), tokens)
    assert states == [plain_state((OPEN, CLOSE), b"".join(tokens[: i + 1])) for i in range(len(tokens))]


@given(
    st.text("<>/think \n", max_size=6),
    st.text("<>/think \n", max_size=6),
    st.text("<>/think \n", max_size=6),
    st.sets(st.integers(1, 40)),
)
def test_random_cuts(before: str, thought: str, after: str, cuts: set[int]) -> None:
    text = (before + "<think>" + thought + "</think>" + after).encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    tokens = [text[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    states = walk((OPEN, CLOSE), tokens)
    assert states[-1] == len(OPEN + CLOSE)
    assert states == [plain_state((OPEN, CLOSE), text[:end]) for end in edges[1:]]


@given(st.text("ab", min_size=1, max_size=6), st.text("ab", max_size=20))
def test_tags_that_overlap_themselves(tag: str, text: str) -> None:
    tokens = [bytes([byte]) for byte in text.encode()]
    assert walk((tag.encode(),), tokens)[-1:] == [plain_state((tag.encode(),), text.encode())][: len(tokens)]


def test_table_is_int32_and_absorbs() -> None:
    table = tag_transitions((b"ab",), [b"a", b"b", b""])
    assert table.dtype == np.int32
    assert table.tolist() == [[1, 0, 0], [1, 2, 1], [2, 2, 2]]
