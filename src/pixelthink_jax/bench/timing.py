"""Timing of several ways to do the same thing, in turns, so that whatever slows the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One contestant at one task.

    Attributes:
        task: What was done.
        contestant: Who did it.
        seconds: Median of the warm rounds.
        fastest: Least of them.
        slowest: Most of them.
        per_second: How much of `unit` was done in a second of the median.
        unit: What is counted.
    """

    task: str
    contestant: str
    seconds: float
    fastest: float
    slowest: float
    per_second: float
    unit: str


def in_turns(contestants: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Runs each once to warm up, then all in turn, `rounds` times: A B A B.

    Args:
        contestants: Calls that return only when their work is done.
        rounds: Timed calls of each.

    Returns:
        Seconds of each timed call, by contestant.

    >>> seconds = in_turns({"a": lambda: None, "b": lambda: None}, rounds=3)
    >>> {name: len(times) for name, times in seconds.items()}
    {'a': 3, 'b': 3}
    """
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measurements(
    task: str, contestants: Mapping[str, Callable[[], object]], *, rounds: int, count: float, unit: str
) -> list[Measurement]:
    """Times the contestants in turns; each call does `count` of `unit`."""
    rows = []
    for name, times in in_turns(contestants, rounds=rounds).items():
        median = statistics.median(times)
        rows.append(Measurement(task, name, median, min(times), max(times), count / median, unit))
    return rows
