"""The conversion: one source, read part by part, into a folder that appears when it is whole.

What is written lies in a hidden folder beside the destination until then. A conversion that was killed continues with
the weight files it had finished; one of something else begins anew.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from pixelthink_jax.convert.checksums import write_checksums
from pixelthink_jax.convert.source import Kind, open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl.table import tensor_table
from pixelthink_jax.models.writing import DEFAULT_SHARD_BYTES, write_params
from pixelthink_jax.runtime.remote import check_out_dir

_ABOUT = "conversion.json"


@dataclass(frozen=True)
class Conversion:
    """What was made.

    Attributes:
        kind: `huggingface`, `orbax` or `adapter`.
        source: Folder it was read from, and of a run the step.
        parameters: How many numbers.
        bytes: Of the parameters.
    """

    kind: str
    source: dict[str, Any]
    parameters: int
    bytes: int


def convert(
    place: str | Path,
    out: str | Path,
    *,
    to: Kind | None = None,
    step: int | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Conversion:
    """Writes a policy as a folder of the other kind; the host holds a layer or some rows of it at a time.

    Args:
        place: A run folder (its checkpoint), or a policy folder of either kind.
        out: The new folder.
        to: `huggingface` or `orbax`; None takes the kind that `place` is not.
        step: Of a run, which checkpoint; None takes the newest.
        dtype: Of the stored parameters; None keeps that of a folder, and of a run that of its export.
        max_shard_bytes: Size above which safetensors are split into several files.

    Raises:
        InputError: The source cannot be used, the destination is taken, or the disk too small.
    """
    source = open_source(place, step=step, dtype=dtype)
    kind = to or ("huggingface" if source.kind == "orbax" else "orbax")
    stored = next(iter(source.leaves.values())).dtype
    size = sum(leaf.nbytes for leaf in source.leaves.values())
    about = {**source.about, "to": kind, "dtype": stored.name, "max_shard_bytes": max_shard_bytes}
    with _continued_folder(out, about, size) as fresh:
        tree = unflatten_dict(source.leaves, sep="/")
        config = dataclasses.replace(source.config, dtype=jnp.dtype(stored).name)
        qwen_vl.write_config(fresh, config)
        source.save_processor(fresh)
        if kind == "orbax":
            from pixelthink_jax.runtime.array_folders import write_arrays

            write_arrays(fresh / qwen_vl.PARAMS_FOLDER, tree)
        else:
            write_params(fresh, tree, tensor_table(config), max_shard_bytes=max_shard_bytes)
    numbers = sum(leaf.size for leaf in source.leaves.values())
    return Conversion(kind, source.about, numbers, size)


def convert_adapter(place: str | Path, out: str | Path, *, step: int | None = None) -> Conversion:
    """Writes the adapter of a run alone, float32, as a folder that PEFT loads.

    Raises:
        InputError: As of `convert`; or the run trained no adapter.
    """
    source = open_source(place, step=step)
    if source.adapter is None:
        raise InputError(f"{place}: not a run that trained an adapter; leave out --adapter")
    adapter = source.adapter
    params = unflatten_dict({path: jnp.asarray(leaf[()]) for path, leaf in adapter.leaves.items()}, sep="/")
    size = sum(leaf.nbytes for leaf in adapter.leaves.values())
    with _continued_folder(out, {**source.about, "to": "adapter"}, size) as fresh:
        qwen_vl.write_adapter(fresh, params, adapter.lora, base=str(adapter.base))
    numbers = sum(leaf.size for leaf in adapter.leaves.values())
    return Conversion("adapter", source.about, numbers, size)


@contextmanager
def _continued_folder(place: str | Path, about: dict[str, Any], size: int) -> Iterator[Path]:
    """The folder to write in; at the end its files are hashed and it becomes `place`, else it stays where it is."""
    out = check_out_dir(place).absolute()
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out}: there is something already; give the name of a new folder")
    work = out.with_name(f".{out.name}.partial")
    if work.exists() and _recorded(work) != about:
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    done = sum(path.stat().st_size for path in work.glob("*.safetensors"))
    free = shutil.disk_usage(work).free
    if size - done > free:
        raise InputError(
            f"{out}: {(size - done) / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; make room and run the same "
            "command, which continues, or choose another --out"
        )
    for path in work.iterdir():
        if path.suffix != ".safetensors":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    yield work
    (work / _ABOUT).unlink()
    write_checksums(work)
    if out.exists():
        out.rmdir()
    work.rename(out)


def _recorded(work: Path) -> dict[str, Any] | None:
    path = work / _ABOUT
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        return None
