"""The quality of reasoning against a reference: the paper's RScore, through the same protocol.

Source: method section 12. The paper's judge and its sub-scores are not published; the form is ours
(`prompts.RScore`), and completeness and brevity are kept apart so that a short chain is not praised or
punished unseen.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from jaxtyping import UInt8
from numpy import ndarray

from pixelthink_jax.judge.asking import Filled, fill_all
from pixelthink_jax.judge.cache import ReplyCache
from pixelthink_jax.judge.prompts import RSCORE, fill_in, rscore_form
from pixelthink_jax.judge.protocol import Backend, Request


@dataclass(frozen=True)
class ChainPair:
    """A chain of thought to judge.

    Attributes:
        image: The image it is about.
        query: The question in words.
        chain: The thought; an empty one is judged as such.
        reference: A reference thought.
    """

    image: UInt8[ndarray, "H W 3"]
    query: str
    chain: str
    reference: str


def judge_chains(
    backend: Backend,
    pairs: Iterable[ChainPair],
    *,
    cache: ReplyCache | None = None,
    attempts: int = 3,
    max_tokens: int = 1024,
) -> Generator[tuple[int, Filled], None, None]:
    """Judges chains in parallel; yields (place of the pair, form) as they are done, in any order.

    A form's `value` is an `RScore`, whose own `value` is from 0 to 1; or it is None, and `problem` says why: a
    chain that could not be judged is counted by the caller, never scored 0.

    Args:
        backend: Who judges; an `Endpoint` or a `LocalBackend`.
        pairs: Taken as they are needed, so that images need not all be in memory.
        cache: Replies of earlier runs.
        attempts: Times that a form is asked for until its answer can be used.
        max_tokens: Longest answer.

    Raises:
        InputError: Nothing at all can be judged: a wrong key, model or address.
    """
    jobs = ((place, [rscore_request(pair, max_tokens)]) for place, pair in enumerate(pairs))
    for place, (filled,) in fill_all(backend, jobs, cache=cache, attempts=attempts):
        yield place, filled


def rscore_request(pair: ChainPair, max_tokens: int) -> Request:
    """What is asked about one chain."""
    chain = pair.chain.strip() or "(none)"
    prompt = fill_in(RSCORE, query=pair.query, reference=pair.reference, chain=chain)
    return Request(rscore_form(max_tokens), prompt, pair.image)
