"""Thoughts judged after the rows are there: by the shape world's own judge, or by a model against a reference chain.

A model's replies are kept on disk in the folder of the evaluation, so a run that is repeated or was stopped pays for
none of them twice. What could not be judged is counted and is in no average.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig, RScoreConfig
from pixelthink_jax.evaluation.protocols.reading import thought
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.shapereason_judge import judge_rows
from pixelthink_jax.judge.annotate import open_backend
from pixelthink_jax.judge.asking import Usage
from pixelthink_jax.judge.cache import ReplyCache
from pixelthink_jax.judge.config import EndpointConfig, is_this_machine
from pixelthink_jax.judge.estimate import cost_of
from pixelthink_jax.judge.protocol import Backend
from pixelthink_jax.judge.rscore import ChainPair, judge_chains
from pixelthink_jax.types import Example


@dataclass(frozen=True)
class Judging:
    """What became of the judging of one chain style.

    Attributes:
        judged: Thoughts with a score.
        failed: Thoughts without one, by what was wrong with them or with the answers.
        usage: Calls, tries and tokens of this run; replies from the cache cost nothing.
        cost: By the prices of the config; None without prices.
    """

    judged: int
    failed: dict[str, int]
    usage: Usage
    cost: float | None = None

    def line(self) -> str:
        """The counts in one line.

        >>> Judging(8, {"no reference chain": 2}, Usage(calls=5, cached=3)).line()
        '8 thoughts judged (5 calls, 3 replies from the cache), 2 failed (2 no reference chain)'
        """
        failed = ", ".join(f"{count} {problem}" for problem, count in self.failed.items())
        return (
            f"{self.judged} thoughts judged ({self.usage.calls} calls, {self.usage.cached} replies from the cache), "
            f"{sum(self.failed.values())} failed{f' ({failed})' if failed else ''}"
        )

    def tree(self) -> dict[str, Any]:
        """For `summary.json`."""
        return {**dataclasses.asdict(self), "line": self.line()}


def leaves_for(config: EvalConfig) -> str | None:
    """Where images would be sent to be judged, if that is not this machine."""
    backend = None if config.rscore is None else config.rscore.backend
    if not isinstance(backend, EndpointConfig) or is_this_machine(backend.base_url):
        return None
    return backend.base_url


def check_leave(config: EvalConfig, *, confirmed: bool) -> None:
    """Refuses to send images to another machine without leave.

    Raises:
        InputError: Nobody agreed.
    """
    place = leaves_for(config)
    if place is not None and not confirmed:
        raise InputError(f"rscore: images of the examples would be sent to {place}; confirm it (--yes)")


def judged_rows(
    config: EvalConfig,
    rows: list[Row],
    source: ExampleSource,
    folder: Path,
    *,
    backend: Backend | None = None,
) -> tuple[list[Row], Judging | None]:
    """Rows with the thoughts judged as the config says, and what became of it; None where nobody is paid.

    Args:
        config: The evaluation.
        rows: Of one chain style.
        source: The examples.
        folder: Of the evaluation; replies are kept in it.
        backend: Who judges; None opens that of the config.

    Raises:
        InputError: Nothing at all can be judged: a wrong key, model or address.
    """
    plain = [dataclasses.replace(row, reasoning=None) for row in rows]
    if config.judge == "shapereason":
        return judge_rows(plain), None
    if config.rscore is None:
        return plain, None
    if backend is None:
        with contextlib.closing(open_backend(config.rscore.backend)) as opened:
            return judged_rows(config, rows, source, folder, backend=opened)
    cache = ReplyCache(config.rscore.cache or folder / "judge_cache")
    return _by_model(config.rscore, plain, source, backend, cache)


def reference_of(example: Example, kind: str) -> str | None:
    """The reference chain of an example, from its annotations, else the thought of its own completion.

    >>> import numpy as np
    >>> row = Example("a", np.zeros((1, 1, 3), np.uint8), "q", completion="<think>red</think><answer>{}</answer>")
    >>> reference_of(row, "long")
    'red'
    """
    found = example.metadata.get(f"reasoning_{kind}")
    if isinstance(found, str) and found.strip():
        return found
    return thought(parse_completion(example.completion or "")) or None


def _by_model(
    config: RScoreConfig, rows: list[Row], source: ExampleSource, backend: Backend, cache: ReplyCache
) -> tuple[list[Row], Judging]:
    problems: list[str] = []
    usage, judged = Usage(), 0
    asked: list[int] = []

    def pairs() -> Iterator[ChainPair]:
        for place, row in enumerate(rows):
            if row.skipped is not None:
                continue
            pair = _pair(row, source, config.reference)
            if isinstance(pair, str):
                problems.append(pair)
                continue
            asked.append(place)
            yield pair

    answers = judge_chains(
        backend, pairs(), cache=cache, attempts=config.attempts, max_tokens=config.max_tokens
    )
    with contextlib.closing(answers):
        for number, filled in answers:
            place = asked[number]
            usage += filled.usage
            if filled.value is None:
                problems.append(str(filled.problem))
                continue
            parts = {name: value / 10 for name, value in dataclasses.asdict(filled.value).items()}
            rows[place] = dataclasses.replace(rows[place], reasoning=parts | {"score": filled.value.value})
            judged += 1
    cost = cost_of(usage.input_tokens, usage.output_tokens, config.backend)
    return rows, Judging(judged, dict(Counter(problems)), usage, cost)


def _pair(row: Row, source: ExampleSource, kind: str) -> ChainPair | str:
    """What is asked about a row, or why nothing is."""
    try:
        example = source[row.index]
    except InputError as error:
        return f"its example is gone: {error}"
    reference = reference_of(example, kind)
    if reference is None:
        return "no reference chain"
    return ChainPair(example.image, row.query, thought(parse_completion(row.text)), reference)
