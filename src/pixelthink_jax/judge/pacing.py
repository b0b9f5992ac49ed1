"""When to ask: a common pace for all workers, and waits that grow."""

import email.utils
import threading
import time
from collections.abc import Callable, Mapping


class Pace:
    """Spaces the starts of requests, and holds all workers back when the server says that it is busy."""

    def __init__(
        self,
        per_minute: float | None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts at once; None sets no pace of requests, or of their tokens."""
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._token_gap = 0.0 if tokens_per_minute is None else 60.0 / tokens_per_minute
        self._clock, self._lock = clock, threading.Lock()
        self._next = clock()

    def reserve(self, tokens: int = 0) -> float:
        """Takes the next place and returns the seconds until it; many tokens keep the place after it waiting longer."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + max(self._gap, tokens * self._token_gap)
            return start - now

    def hold(self, seconds: float) -> None:
        """Nobody who comes from now on starts earlier than that."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def backoff(attempt: int, *, first: float, longest: float, chance: float) -> float:
    """Seconds to wait after failed try number `attempt`, from 0.

    Args:
        attempt: Failed tries before this one.
        first: Wait after the first, in seconds.
        longest: Longest wait, in seconds.
        chance: Random number in [0, 1); up to half of the wait is left to it, so that workers do not all come back
            at the same moment.

    >>> [backoff(n, first=1.0, longest=5.0, chance=0.0) for n in range(4)]
    [1.0, 2.0, 4.0, 5.0]
    >>> backoff(0, first=1.0, longest=5.0, chance=0.5)
    0.75
    """
    return min(first * 2.0**attempt, longest) * (1 - chance / 2)


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` as a number or a date (RFC 9110), or none.

    >>> retry_after({"retry-after": "1.5"}, now=0.0)
    1.5
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=10.0)
    50.0
    >>> retry_after({"retry-after": "soon"}, now=0.0)
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None
