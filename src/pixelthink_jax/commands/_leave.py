"""Leave to send images away, asked for before any is sent."""

import sys

from pixelthink_jax.errors import InputError


def agrees(command: str, rows: int, place: str, estimate: str) -> bool:
    """Asks whether images may leave this machine; without somebody to ask, it takes `--yes`.

    Args:
        command: Who wants to send them.
        rows: How many.
        place: Where to.
        estimate: What it would take, for whoever decides.

    Raises:
        InputError: There is nobody to ask, or the answer was not yes.
    """
    plainly = " (not encrypted)" if place.startswith("http:") else ""
    if not sys.stdin.isatty():
        raise InputError(
            f"{command}: the images of {rows} rows would leave this machine for {place}{plainly}; add --yes to agree"
        )
    print(estimate, file=sys.stderr)
    print(
        f"The images of {rows} rows leave this machine for {place}{plainly}. Go on? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError(f"{command}: not agreed, nothing was sent; add --yes to agree")
    return True
