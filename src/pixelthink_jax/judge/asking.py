"""From requests to usable answers: the cache first, then the back end, again where an answer is of no use."""

import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from pixelthink_jax.judge.cache import ReplyCache
from pixelthink_jax.judge.prompts import read_object
from pixelthink_jax.judge.protocol import Backend, BadAnswer, Failure, Reply, Request

K = TypeVar("K")


@dataclass(frozen=True)
class Usage:
    """What asking took: calls with a reply, tries without one, replies of no use, replies from the cache, tokens."""

    calls: int = 0
    retries: int = 0
    bad_answers: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Usage(*(mine + its for mine, its in pairs))


@dataclass(frozen=True)
class Filled:
    """A form as it came back: a value, or else a problem."""

    value: Any
    problem: str | None
    usage: Usage


def fill(
    backend: Backend, requests: Sequence[Request], *, cache: ReplyCache | None = None, attempts: int = 3
) -> list[Filled]:
    """Has forms filled in.

    A bad answer is asked for again with the reason added, since a greedy model would repeat itself. Replies
    are kept in the cache once they have been read, never before.

    Raises:
        InputError: No request at all can be answered, or the cache cannot be written.
    """
    filled = {i: _from_cache(backend, request, cache) for i, request in enumerate(requests)}
    usage = {i: Usage() for i, result in filled.items() if result is None}
    complaints: dict[int, str] = {}
    for attempt in range(attempts):
        open_ = [i for i, result in filled.items() if result is None]
        # No more than a batch at a time: what one brought is in the cache before another can end the run.
        for start in range(0, len(open_), backend.batch_size):
            batch = open_[start : start + backend.batch_size]
            replies = backend.replies([_again(requests[i], complaints.get(i)) for i in batch])
            for i, reply in zip(batch, replies, strict=True):
                result, complaint = _read(requests[i], reply)
                usage[i] += _used(reply, bad=complaint is not None)
                if complaint is not None:
                    complaints[i] = complaint
                    if attempt + 1 == attempts:
                        result = Filled(
                            None, f"no usable answer in {attempts} attempts: {complaint}", Usage()
                        )
                elif isinstance(reply, Reply) and cache is not None:
                    cache.put(backend.name, requests[i], reply)
                filled[i] = None if result is None else dataclasses.replace(result, usage=usage[i])
    return [result for result in filled.values() if result is not None]


def fill_all(
    backend: Backend,
    jobs: Iterable[tuple[K, Sequence[Request]]],
    *,
    cache: ReplyCache | None = None,
    attempts: int = 3,
) -> Generator[tuple[K, list[Filled]], None, None]:
    """Has the forms of many jobs filled in, in parallel; yields jobs as they are done, in any order.

    Jobs are taken from `jobs` in the calling thread, and only twice as many as can be under way. When the
    caller leaves or a job raises, waits are ended and what is under way is given up.

    Raises:
        InputError: See `fill`.
    """
    waiting: dict[Future[list[list[Filled]]], list[K]] = {}
    pool = ThreadPoolExecutor(backend.workers, thread_name_prefix="judge")

    def work(groups: list[Sequence[Request]]) -> list[list[Filled]]:
        flat = fill(backend, [r for group in groups for r in group], cache=cache, attempts=attempts)
        results = iter(flat)
        return [list(itertools.islice(results, len(group))) for group in groups]

    try:
        for chunk in _chunks(jobs, backend.batch_size):
            while len(waiting) >= 2 * backend.workers:
                yield from _finished(waiting)
            future = pool.submit(work, [requests for _, requests in chunk])
            waiting[future] = [key for key, _ in chunk]
        while waiting:
            yield from _finished(waiting)
    finally:
        if waiting:
            backend.stop()
        pool.shutdown(cancel_futures=True)


def _finished(waiting: dict[Future[list[list[Filled]]], list[K]]) -> Iterator[tuple[K, list[Filled]]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    # What succeeded is handed over before an error ends everything.
    for future in sorted(done, key=lambda future: future.exception() is not None):
        results = future.result()
        yield from zip(waiting.pop(future), results, strict=True)


def _chunks(
    jobs: Iterable[tuple[K, Sequence[Request]]], size: int
) -> Iterator[list[tuple[K, Sequence[Request]]]]:
    """Jobs until their requests make a batch."""
    chunk: list[tuple[K, Sequence[Request]]] = []
    for job in jobs:
        chunk.append(job)
        if sum(len(requests) for _, requests in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _from_cache(backend: Backend, request: Request, cache: ReplyCache | None) -> Filled | None:
    reply = None if cache is None else cache.get(backend.name, request)
    result = None if reply is None else _read(request, reply)[0]
    return None if result is None else dataclasses.replace(result, usage=Usage(cached=1))


def _read(request: Request, reply: Reply | Failure) -> tuple[Filled | None, str | None]:
    """The filled form, or what is wrong with the answer."""
    if isinstance(reply, Failure):
        return Filled(None, reply.problem, Usage()), None
    try:
        return Filled(request.form.read(read_object(reply.text)), None, Usage()), None
    except BadAnswer as error:
        cut = f"; it was cut off after {reply.output_tokens} tokens" if reply.truncated else ""
        return None, f"{error}{cut}"


def _used(reply: Reply | Failure, *, bad: bool) -> Usage:
    if isinstance(reply, Failure):
        return Usage(retries=reply.retries)
    return Usage(1, reply.retries, int(bad), 0, reply.input_tokens, reply.output_tokens)


def _again(request: Request, complaint: str | None) -> Request:
    if complaint is None:
        return request
    prompt = f"{request.prompt}\n\nYour last answer could not be used: {complaint}. Answer with the JSON object only."
    return dataclasses.replace(request, prompt=prompt)
