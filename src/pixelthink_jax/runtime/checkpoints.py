"""Resumable training state on disk, through Orbax.

A checkpoint holds two items: `state`, any pytree of arrays, and `extra`, JSON (data position, config). Saves
are asynchronous and complete atomically, so a kill at any moment leaves the newest complete checkpoint
usable.
"""

import json
import platform
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.array_folders import open_arrays, save_args
from pixelthink_jax.runtime.hosts import from_first, is_first, together
from pixelthink_jax.runtime.remote import EXPORTS, is_remote, local_copy, remote_path
from pixelthink_jax.runtime.stored_arrays import StoredArray

_FOLDER = "checkpoints"
_SEEN_WITHIN_SECONDS = 60.0

_UNWRITABLE = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|Read-only file system|Permission denied|"
    r"Input/output error"
)


class Checkpoints:
    """The numbered checkpoints of one run folder."""

    def __init__(self, folder: str | Path, *, every: int, keep: int = 2):
        """Opens `folder/checkpoints`, creating it; `every` is the number of steps between saves.

        The folder may be an address on an object store. Where several processes run, all of them call this.

        Raises:
            InputError: The folder's name reads as a pattern, or it is not the same folder in all processes.
        """
        if found := set("*?[]") & set(str(folder)):
            raise InputError(
                f"run folder {folder}: holds {' '.join(sorted(found))}, which checkpoints read as a pattern of names; "
                "choose an out without"
            )
        self._every = every
        # What its threads log is raised as well, at the next call.
        absl.logging.set_verbosity(absl.logging.FATAL)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        place = remote_path(str(folder)) if is_remote(folder) else Path(folder).resolve()
        _check_seen_by_all(place)
        self._manager = ocp.CheckpointManager(place / _FOLDER, options=options)

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
        chunks = jax.tree.map(save_args, state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state, save_args=chunks), extra=ocp.args.JsonSave(extra)
        )
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


def _check_seen_by_all(place: Any) -> None:
    """Each process writes its part of a checkpoint, so all must see one folder."""
    if jax.process_count() == 1:
        return
    mark = place / from_first(lambda: _marked(place))

    def look() -> None:
        end = time.monotonic() + _SEEN_WITHIN_SECONDS  # a network file system may be late
        while not mark.exists():
            if time.monotonic() > end:
                raise InputError(
                    f"run folder {place}: process {jax.process_index()} on {platform.node()} does not see what "
                    "process 0 writes there; choose an out that all machines share, such as gs://bucket/run"
                )
            time.sleep(0.1)

    try:
        together(look)
    finally:
        if is_first():
            mark.unlink(missing_ok=True)


def _marked(place: Any) -> str:
    """Writes a file with a name that nobody has looked for, and returns the name."""
    name = f".seen-{uuid.uuid4().hex}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
    except OSError as error:
        raise InputError(f"run folder {place}: cannot be written ({error}); choose another out") from error
    return name


def has_checkpoints(folder: str | Path) -> bool:
    """Whether this is the folder of a run that has saved something."""
    return bool(_steps(Path(folder)))


def local_run(url: str, step: int | None = None) -> Path:
    """A run of an object store on this machine, with one of its checkpoints and without exports.

    Args:
        url: Its address; one of something else is copied whole.
        step: Of which checkpoint; None takes the newest.

    Raises:
        InputError: Nothing is there, or the store cannot be reached.
    """
    steps = _steps(remote_path(url))
    wanted = steps[-1] if steps and step is None else step
    others = [f"{_FOLDER}/{n}" for n in steps if n != wanted]
    return local_copy(url, leave_out=(*EXPORTS, *others) if steps else ())


def open_checkpoint(
    folder: str | Path, step: int | None = None
) -> tuple[int, dict[str, StoredArray], dict[str, Any]]:
    """A checkpoint of a run, to be read part by part: its step, its arrays by path, its `extra`.

    Args:
        folder: The run.
        step: Which; None takes the newest.

    Raises:
        InputError: There is none, or it is damaged.
    """
    folder = Path(folder)
    steps = _steps(folder)
    if not steps or (step is not None and step not in steps):
        there = f"there are {', '.join(map(str, steps))}" if steps else "there are none"
        raise InputError(f"{folder}: no checkpoint of step {'any' if step is None else step}; {there}")
    step = steps[-1] if step is None else step
    place = folder / _FOLDER / str(step)
    try:
        extra = json.loads((place / "extra" / "metadata").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: damaged ({error}); use an earlier checkpoint") from error
    return step, open_arrays(place / "state"), extra


def _steps(folder: Any) -> list[int]:
    names = (folder / _FOLDER).iterdir() if (folder / _FOLDER).is_dir() else ()
    return sorted(int(place.name) for place in names if place.name.isdigit())
