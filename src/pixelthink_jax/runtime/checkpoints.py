"""Resumable training state on disk, through Orbax.

A checkpoint holds two items: `state`, any pytree of arrays, and `extra`, JSON (data position, config). Saves
are asynchronous and complete atomically, so a kill at any moment leaves the newest complete checkpoint
usable.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp

from pixelthink_jax.errors import InputError

_UNWRITABLE = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|Read-only file system|Permission denied|"
    r"Input/output error"
)


class Checkpoints:
    """The numbered checkpoints of one run folder."""

    def __init__(self, folder: str | Path, *, every: int, keep: int = 2):
        """Opens `folder/checkpoints`, creating it; `every` is the number of steps between saves."""
        self._every = every
        # What its threads log is raised as well, at the next call.
        absl.logging.set_verbosity(absl.logging.FATAL)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(folder).resolve() / "checkpoints", options=options)

    def latest_step(self) -> int | None:
        """The newest complete step; None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, extra: dict[str, Any], *, force: bool = False) -> None:
        """Starts saving when `step` is due (or `force`); the arrays may be donated once this returns.

        Raises:
            InputError: This or the last checkpoint cannot be written; those before it are whole.
        """
        if not force and step % self._every:
            return
        if self._manager.latest_step() == step:
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra))
        with self._writing():
            self._manager.save(step, args=items, force=True)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]]:
        """Reads the newest checkpoint into arrays shaped and sharded as `like`.

        Raises:
            InputError: The stored state belongs to another model or optimizer, or is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            raise ValueError(f"no checkpoint in {self._manager.directory}; ask latest_step() first")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), extra=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError) as error:
            folder, said = self._manager.directory, str(error).splitlines()[0]
            lost = "not found in the checkpoint" in said or "TensorStore" in said
            if lost or isinstance(error, json.JSONDecodeError):
                raise self._damaged(step, said) from error
            raise InputError(
                f"checkpoint {folder}/{step}: does not fit this run's model and optimizer ({said:.200}); use another "
                "--out folder or the config it was made with"
            ) from error
        except Exception as error:  # noqa: BLE001 - what Orbax raises for arrays that cannot be read is no other
            if type(error) is not Exception:
                raise
            raise self._damaged(step, "an array cannot be read") from error
        return step, restored["state"], restored["extra"]

    def close(self) -> None:
        """Waits for the save under way.

        Raises:
            InputError: It could not be written.
        """
        try:
            with self._writing():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()

    def _damaged(self, step: int, said: str) -> InputError:
        folder, others = self._manager.directory, [n for n in self._manager.all_steps() if n != step]
        remedy = f"to continue from step {max(others)}" if others else "to begin anew"
        return InputError(
            f"checkpoint {folder}/{step}: damaged or incomplete ({said:.120}); remove that folder {remedy}"
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line that a disk is full or a folder cannot be written; other errors pass."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            found = _UNWRITABLE.search(str(error))
            if not found:
                raise
            steps = self._manager.all_steps()
            kept = f"step {max(steps)} is the newest that is complete" if steps else "none is complete"
            raise InputError(
                f"checkpoints {self._manager.directory}: cannot be written ({found[0]}); {kept}: make room there, and "
                "the same command continues"
            ) from error
