"""Tries for real whether checkpoints can be kept somewhere, and leaves nothing there."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.checkpoints import Checkpoints
from pixelthink_jax.runtime.hosts import from_first, is_first
from pixelthink_jax.runtime.remote import is_remote, remote_path

_TRIED_BYTES = 64 * 2**20


def try_checkpoint(folder: str) -> str:
    """Writes a checkpoint of 64 MiB below a folder or address, reads it again, removes it, says how fast that was.

    Where several processes run, all of them call this.

    Raises:
        InputError: One of the three does not work, or what is read is not what was written.
    """
    state = {"bits": np.arange(_TRIED_BYTES // 4, dtype=np.uint32)}
    began = time.perf_counter()
    try:
        with passing_folder(f"{folder}/trial") as place:
            checkpoints = Checkpoints(place, every=1)
            checkpoints.save(1, state, {"tried": True})
            checkpoints.close()
            written = time.perf_counter()
            checkpoints = Checkpoints(place, every=1)
            _, back, extra = checkpoints.restore(state)
            checkpoints.close()
            read = time.perf_counter()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: no checkpoint can be written, read and removed there ({reason:.200}); check permissions and "
            "credentials"
        ) from error
    if extra != {"tried": True} or not np.array_equal(state["bits"], back["bits"]):
        raise InputError(
            f"{folder}: a checkpoint read there is not the one that was written; use another disk"
        )
    mib = _TRIED_BYTES / 2**20
    return f"written at {mib / (written - began):.0f} MiB/s, read at {mib / (read - written):.0f}, removed: {folder}"


@contextmanager
def passing_folder(path: str) -> Iterator[str]:
    """A name for a new folder that begins with `path`, the same in all processes.

    At the end the folder is removed, and so are those above it that were not there before and are empty.
    """
    name = from_first(lambda: f"{path}-{uuid.uuid4().hex[:8]}")
    place = _opened(name)
    absent = [parent for parent in place.parents if not parent.exists()]
    try:
        yield name
    finally:
        if is_first():
            if place.exists():
                place.rmtree()
            for parent in absent:
                with contextlib.suppress(OSError, ValueError):  # not empty: somebody else's by now
                    parent.rmdir()


def _opened(name: str) -> Any:
    from etils import epath

    return remote_path(name) if is_remote(name) else epath.Path(name).absolute()
