"""Metrics of a training loop, averaged between the rows of its log."""

import time
from typing import Any

import jax
import numpy as np

Metrics = dict[str, float]


class Meter:
    """Averages metrics between log rows; reads the device only then, so steps are dispatched ahead."""

    def __init__(self, every: int, *, last: int):
        """`every` is the number of steps in a row; the `last` step ends a row too."""
        self._every, self._last, self._pending, self._since = every, last, [], time.perf_counter()

    def update(self, step: int, metrics: dict[str, Any]) -> Metrics | None:
        """Adds one step; returns the averaged row when it is due."""
        self._pending.append(metrics)
        if step % self._every and step != self._last:
            return None
        rows = jax.device_get(self._pending)
        now = time.perf_counter()
        row = {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}
        row["seconds_per_step"] = (now - self._since) / len(rows)
        self._pending, self._since = [], now
        return row


class Stopwatch:
    """Seconds by phase of a step; phases that come twice are added."""

    def __init__(self) -> None:
        """Starts with nothing measured."""
        self._begun = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def start(self) -> None:
        """Begins a step."""
        self._begun = self._last = time.perf_counter()
        self._seconds = {}

    def lap(self, phase: str) -> None:
        """Books the time since the last lap to a phase."""
        now = time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def read(self) -> Metrics:
        """Seconds of each phase and of the whole step so far, as `seconds/NAME`."""
        found = {f"seconds/{phase}": seconds for phase, seconds in self._seconds.items()}
        return found | {"seconds/step": time.perf_counter() - self._begun}
