"""Compiled programs kept on disk, so that the second start of a program is not its first."""

import os
from pathlib import Path
from typing import Any


def compiled_folder() -> Path:
    """Where they are kept if nothing else is said: below `XDG_CACHE_HOME`, or `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pixelthink" / "compiled"


def keep_compiled_programs() -> str | None:
    """Turns on JAX's persistent compilation cache for all programs from now on; returns its folder, None without one.

    `JAX_COMPILATION_CACHE_DIR` names another folder, which may be a `gs://` path, and `JAX_ENABLE_COMPILATION_CACHE=0`
    keeps nothing. On CPUs nothing is kept unless a folder is named: XLA loads machine code that was made for other
    processors and only logs that it may crash, and a home is often shared by machines of several kinds.

    The backend is started by this, so call it after `jax.distributed` has been.
    """
    import jax

    settings: Any = jax.config  # its attributes are made while jax is imported
    if not settings.jax_enable_compilation_cache:
        return None
    folder = settings.jax_compilation_cache_dir
    if folder is None:
        if jax.default_backend() == "cpu":
            return None
        folder = str(compiled_folder())
        # What is in it is run, so nobody else may write there.
        compiled_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.update("jax_compilation_cache_dir", folder)
    # JAX leaves out what compiles within a second; a start compiles hundreds of those.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        settings.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder
