"""Trees of arrays as Orbax checkpoints, read and written block by block.

What Orbax writes of an array in memory, it writes here of one that is somewhere else; the result is an ordinary
checkpoint, which `orbax.checkpoint.StandardCheckpointer` restores.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.stored_arrays import BLOCK_BYTES, Index, StoredArray

_METADATA = "_METADATA"
_DAMAGED = "copy the checkpoint again, or use an earlier one"


def open_arrays(folder: str | Path) -> dict[str, StoredArray]:
    """The arrays of an Orbax checkpoint of a tree, by their keys joined with "/".

    Raises:
        InputError: No such checkpoint, or its files cannot be read.
    """
    import tensorstore as ts

    folder = Path(folder).absolute()
    try:
        stored = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        entries = stored["tree_metadata"].values()
        names = [[key["key"] for key in entry["key_metadata"]] for entry in entries]
        kinds = [entry["value_metadata"]["value_type"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: not a whole Orbax checkpoint ({type(error).__name__}: {error}); {_DAMAGED}"
        ) from error
    driver = "zarr3" if stored.get("use_zarr3") else "zarr"
    arrays = {}
    for keys, kind in zip(names, kinds, strict=True):
        if kind not in ("jax.Array", "np.ndarray"):
            continue
        store = {"driver": "ocdbt", "base": f"file://{folder}/", "path": f"{'.'.join(keys)}/"}
        spec = {"driver": driver, "kvstore": store}
        array = _told(folder, "/".join(keys), lambda spec=spec: ts.open(spec, open=True, read=True).result())
        arrays["/".join(keys)] = StoredArray(
            tuple(array.shape), array.dtype.numpy_dtype, partial(_read, array, folder, "/".join(keys))
        )
    return arrays


def _read(array: Any, folder: Path, name: str, index: Index) -> np.ndarray:
    return _told(folder, name, lambda: array[index].read().result())


def _told(folder: Path, name: str, read: Callable[[], Any]) -> Any:
    """What `read` returns; a damaged file becomes one line."""
    try:
        return read()
    except (ValueError, OSError) as error:
        raise InputError(
            f"{folder}: {name} cannot be read ({str(error).splitlines()[0]:.160}); {_DAMAGED}"
        ) from error


def write_arrays(folder: str | Path, tree: Mapping[str, Any]) -> None:
    """Writes nested dictionaries of `StoredArray` as an Orbax checkpoint, one block of one array at a time.

    Args:
        folder: New; it appears when it is complete.
        tree: The arrays. Those of three axes and more are stacks, which are stored a layer a chunk.
    """
    handlers = ocp.type_handlers.create_type_handler_registry(
        (StoredArray, _BlockwiseHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)
    with ocp.Checkpointer(handler) as checkpointer:
        args = ocp.args.PyTreeSave(tree, save_args=jax.tree.map(save_args, tree))
        checkpointer.save(Path(folder).absolute(), args=args)


def save_args(array: Any) -> ocp.SaveArgs:
    """How an array is cut into chunks, so that a layer or some rows can be read without the rest."""
    stacked = len(array.shape) > 2
    return ocp.SaveArgs(chunk_byte_size=BLOCK_BYTES, shard_axes=(0,) if stacked else ())


class _BlockwiseHandler(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of arrays in memory, with a write that reads the next block when the last one is on disk."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._turn = asyncio.Lock()

    async def _open_and_write(self, value: Any, tspec: dict[str, Any], ts_context: Any) -> None:
        import tensorstore as ts

        async with self._turn:
            target = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
            if not value.shape:
                await target.write(value[()])
                return
            (rows, *_) = target.chunk_layout.write_chunk.shape or value.shape
            for start in range(0, value.shape[0], rows or 1):
                block = slice(start, min(start + (rows or 1), value.shape[0]))
                await target[block].write(np.ascontiguousarray(value[block]))
