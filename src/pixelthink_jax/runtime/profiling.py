"""A trace of a few steps, for TensorBoard's profile tab or Perfetto."""

from pathlib import Path

import jax


class Profiler:
    """Traces from the first to the last of two steps into `folder/profile`; does nothing without them."""

    def __init__(self, folder: str | Path, steps: tuple[int, int] | None):
        """Nothing is traced yet."""
        self._folder, self._steps, self._tracing = Path(folder) / "profile", steps, False

    def before(self, step: int) -> None:
        """Begins where `step` is the first."""
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int) -> None:
        """Ends where `step` is the last."""
        if self._tracing and self._steps is not None and step >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Ends a trace under way and writes it."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
