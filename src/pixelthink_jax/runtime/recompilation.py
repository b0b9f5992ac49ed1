"""One warning for each time that a loop compiles a function again, with the shapes that made it."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
_SHOWN = 4
_log = logging.getLogger(__name__)


class CompileWatch:
    """Watches the phases of a loop; the first time of each is its warm-up.

    What is compiled is what JAX says it compiles, so a change of dtype, sharding or branch is seen too, and a program
    that comes from the cache on disk counts.
    """

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._shapes: dict[str, dict[str, set[str]]] = {}

    @contextmanager
    def __call__(self, phase: str, step: int, arrays: Any) -> Iterator[None]:
        """Warns where the block compiles a function that has been compiled before.

        Args:
            phase: What the block does, such as `update`.
            step: Its number in the loop.
            arrays: What it is done to: the tree whose shapes are named.
        """
        compiled = _compiled_functions()
        before, known = len(compiled), set(compiled)
        yield
        again = [name for name in dict.fromkeys(compiled[before:]) if name in known]
        shapes = self._shapes.get(phase)
        new = self._new_shapes(phase, arrays)
        if shapes is not None and again:
            named = f"with {_some(new)}" if new else "though the shapes of its arrays have been there before"
            _log.warning("step %d: %s compiled again (%s) %s", step, phase, _some(again), named)

    def _new_shapes(self, phase: str, arrays: Any) -> list[str]:
        """Notes the shapes of a phase and returns those of leaves that had others before."""
        seen, new = self._shapes.setdefault(phase, {}), []
        for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            shape = f"{jax.dtypes.result_type(leaf)}{list(jax.numpy.shape(leaf))}"
            if shape not in seen.setdefault(name, set()):
                new.append(f"{name} {shape}")
                seen[name].add(shape)
        return new


@functools.cache
def _compiled_functions() -> list[str]:
    """Names of the functions compiled since this was first called, in order; JAX appends to it."""
    names: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == _COMPILED:
            names.append(str(kwargs.get("fun_name", "a function")).removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(note)
    return names


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
