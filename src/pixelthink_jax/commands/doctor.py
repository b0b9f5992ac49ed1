"""`pixelthink doctor`: what this machine has for the package, line by line, and what to do about the rest."""

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pixelthink_jax import __version__
from pixelthink_jax.commands import config_path
from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.compiled_programs import compiled_folder

State = Literal["ok", "warn", "fail"]

# Module, distribution and what cannot be done without it; an empty purpose means that nothing works.
_LIBRARIES = (
    ("jax", "jax", ""),
    ("flax", "flax", ""),
    ("numpy", "numpy", ""),
    ("safetensors", "safetensors", ""),
    ("transformers", "transformers", "tokenizers and chat templates"),
    ("optax", "optax", "training"),
    ("orbax.checkpoint", "orbax-checkpoint", "training"),
    ("tensorflow_datasets", "tensorflow-datasets", "preparing datasets"),
    ("array_record", "array_record", "reading prepared datasets"),
    ("grain", "grain", "reading prepared datasets"),
)
_TINY_MODELS = ("pixelthink-tiny", "sam2-tiny-shapes")
_CACHES = (
    ("HF_HOME", "~/.cache/huggingface", "downloaded models"),
    ("JAX_COMPILATION_CACHE_DIR", str(compiled_folder()), "compiled programs (of CPUs only if it is set)"),
)


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink doctor`."""

    checkpoint: str | None = None
    """Write a checkpoint of 64 MiB below this folder or address, read and remove it: where runs will save."""
    config: Path | None = None
    """Read a row of the data of this run config."""
    json: bool = False
    """Print the findings as one JSON list instead of lines."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        state: `fail` if the package cannot work, `warn` if a part of it cannot.
        what: The thing.
        says: What was found, and the remedy where there is one.
    """

    state: State
    what: str
    says: str


def main(args: Args) -> int:
    """Prints the findings; status 1 if one of them is a failure."""
    findings = [*examine(), *_tried(args)]
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:<5} {finding.what:<26} {finding.says}")
    return int(any(finding.state == "fail" for finding in findings))


def examine() -> Iterator[Finding]:
    """Looks at the interpreter, the libraries, the devices, memory, the tiny models and the caches."""
    yield Finding("ok", "pixelthink", __version__)
    yield Finding("ok", "python", f"{platform.python_version()}, {platform.platform()}, on {platform.node()}")
    libraries = [_library(*row) for row in _LIBRARIES]
    yield from libraries
    yield _torch()
    if libraries[0].state == "ok":
        yield from _devices()
    yield _host_memory()
    yield from (_tiny_model(name) for name in _TINY_MODELS)
    yield from (_cache(*row) for row in _CACHES)


def _tried(args: Args) -> Iterator[Finding]:
    """What was asked to be tried for real."""
    from pixelthink_jax.commands._first_row import try_row
    from pixelthink_jax.runtime.checkpoint_trial import try_checkpoint

    asked = {
        "checkpoint": (args.checkpoint, try_checkpoint),
        "row of data": (
            args.config and (config_path(["--config", str(args.config)]) or args.config),
            try_row,
        ),
    }
    for what, (path, attempt) in asked.items():
        if path is not None:
            try:
                yield Finding("ok", what, attempt(path))
            except InputError as error:
                yield Finding("fail", what, str(error))


def _library(module: str, distribution: str, purpose: str) -> Finding:
    """Imports one library; a pair of versions that do not fit shows as AttributeError."""
    try:
        importlib.import_module(module)
        version = importlib.metadata.version(distribution)
    except (ImportError, AttributeError) as error:
        loss = f"{purpose} will not work" if purpose else "nothing will work"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"pip install -c requirements/constraints.txt {distribution}"
        return Finding("warn" if purpose else "fail", distribution, f"{loss} ({reason}); {remedy}")
    return Finding("ok", distribution, version)


def _torch() -> Finding:
    """Torch is told, not wanted: it serves only the comparisons with transformers."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding("ok", "torch", "not installed; only comparisons --against transformers need it")
    return Finding("ok", "torch", f"{version}, for comparisons --against transformers only")


def _devices() -> Iterator[Finding]:
    """The devices JAX sees, each with its memory, and one small computation on the first."""
    import jax
    import jax.numpy as jnp

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield Finding(
            "fail", "devices", f"{' '.join(str(error).split())}; JAX_PLATFORMS=cpu works everywhere"
        )
        return
    process, count = jax.process_index(), jax.process_count()
    yield Finding(
        "ok", "process", f"{process} of {count}, with {len(jax.local_devices())} of {len(devices)} devices"
    )
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        memory = f", {_gib(stats['bytes_limit'])} of memory for JAX" if "bytes_limit" in stats else ""
        yield Finding("ok", f"device {device.id}", f"{device.platform} {device.device_kind}{memory}")
    total = float(jnp.ones((64, 64)).sum())
    yield Finding("ok" if total == 64 * 64 else "fail", "computation", f"sum of 64 x 64 ones is {total:g}")
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
        yield Finding(
            "warn", "gpu", "there is an NVIDIA driver, but JAX runs on the CPU; pip install 'jax[cuda12]'"
        )


def _host_memory() -> Finding:
    """Memory of the host and the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return Finding("ok", "host", f"{cores} cores, memory unknown on {sys.platform}")
    return Finding("ok", "host", f"{cores} cores, {_gib(total)} of memory")


def _tiny_model(name: str) -> Finding:
    """Whether one of the models that travel with the package is there."""
    folder = resources.files("pixelthink_jax") / "assets" / name
    missing = [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]
    if missing:
        return Finding(
            "warn", name, f"no {missing[0]} in {folder}; reinstall, or give --policy and --segmenter"
        )
    return Finding("ok", name, str(folder))


def _cache(variable: str, default: str, holds: str) -> Finding:
    """Where a cache lies and how much room its disk has left."""
    place = os.environ.get(variable) or default
    if "://" in place:
        return Finding("ok", variable, f"{place} for {holds}, an object store")
    path = Path(place).expanduser()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    room = f"{_gib(shutil.disk_usage(existing).free)} free"
    if not os.access(existing, os.W_OK):
        return Finding("warn", variable, f"{path} cannot be written; set {variable} to a folder that can")
    return Finding("ok", variable, f"{path} for {holds}, {room}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
