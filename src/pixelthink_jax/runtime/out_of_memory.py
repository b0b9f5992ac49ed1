"""Running out of device memory, in one line that says when, how much and what to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from pixelthink_jax.errors import InputError


@contextmanager
def out_of_memory(phase: str, remedies: str) -> Iterator[None]:
    """Turns the device's error about memory, raised inside, into an `InputError`; other errors pass.

    Args:
        phase: What was going on, such as `update`.
        remedies: What to change, in the order to try.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "Out of memory" not in text:
            raise
        found = re.search(r"[\d.]+ ?(?:[KMGT]i?B|bytes)", text)
        needed = f" ({found[0]} could not be had)" if found else ""
        raise InputError(f"{phase}: out of device memory{needed}; {remedies}") from error
