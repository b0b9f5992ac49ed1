"""Resumable training state on disk, through Orbax.

A checkpoint holds two items: `state`, any pytree of arrays, and `extra`, JSON (data position, config). Saves
are asynchronous and complete atomically, so a kill at any moment leaves the newest complete checkpoint
usable.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pixelthink_jax.errors import InputError


class Checkpoints:
    """The numbered checkpoints of one run folder."""

    def __init__(self, folder: str | Path, *, every: int, keep: int = 2):
        """Opens `folder/checkpoints`, creating it; `every` is the number of steps between saves."""
        self._every = every
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(folder).resolve() / "checkpoints", options=options)

    def latest_step(self) -> int | None:
        """The newest complete step; None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, extra: dict[str, Any], *, force: bool = False) -> None:
        """Starts saving when `step` is due (or `force`); the arrays may be donated once this returns."""
        if not force and step % self._every:
            return
        if self._manager.latest_step() == step:
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra))
        self._manager.save(step, args=items, force=True)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]]:
        """Reads the newest checkpoint into arrays shaped and sharded as `like`.

        Raises:
            InputError: The stored state belongs to another model or optimizer.
        """
        step = self._manager.latest_step()
        if step is None:
            raise ValueError(f"no checkpoint in {self._manager.directory}; ask latest_step() first")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), extra=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError) as error:
            folder = self._manager.directory
            raise InputError(
                f"checkpoint {folder}/{step}: does not fit this run's model and optimizer "
                f"({str(error).splitlines()[0]:.200}); use another --out folder or the config it was made with"
            ) from error
        return step, restored["state"], restored["extra"]

    def close(self) -> None:
        """Waits for the save under way."""
        self._manager.wait_until_finished()
        self._manager.close()
