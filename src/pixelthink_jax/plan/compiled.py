"""The programs of a step through the TPU compiler, with what it found kept on disk.

A result belongs to a program to the letter: the key is a hash of its lowered text, the slice, and the versions of jax
and of the compiler. A program that does not fit is a result too.
"""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import jax

from pixelthink_jax.plan.executable import Executable, read_executable
from pixelthink_jax.plan.programs import TOKENS_PER_CHECK, run_meshes, slice_devices, step_programs
from pixelthink_jax.plan.shapes import Shapes
from pixelthink_jax.plan.topology import Topology

Progress = Callable[[str], None]
"""Called with a line about what is under way."""


@dataclass(frozen=True)
class CompiledProgram:
    """One program on one slice.

    Attributes:
        name: Of the program.
        executable: What the compiler made of it; None where memory did not suffice.
        wanted_bytes: Where it did not, what the compiler asked for, of each chip.
        seconds: Of the compilation, whenever it was made.
        from_cache: It was made before.
    """

    name: str
    executable: Executable | None
    wanted_bytes: int = 0
    seconds: float = 0.0
    from_cache: bool = False


def compiler_version() -> str | None:
    """The version of the TPU compiler; None where it is not installed (extra `tpu`)."""
    if util.find_spec("libtpu") is None:
        return None
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return "unknown"


def cache_folder() -> Path:
    """Where results are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pixelthink_jax" / "plans"


def compile_step(
    shapes: Shapes, topology: Topology, *, on_progress: Progress | None = None
) -> list[CompiledProgram]:
    """Compiles every program of a step for a slice of TPUs.

    Args:
        shapes: The run, with a mesh.
        topology: The slice.
        on_progress: See `Progress`.

    Raises:
        InputError: The mesh does not fit the slice, or the compiler does not know the slice.
    """
    say = on_progress or (lambda line: None)
    devices = slice_devices(topology)
    programs = step_programs(shapes, run_meshes(shapes, devices), devices)
    found = []
    for number, (name, lower) in enumerate(programs.items(), start=1):
        say(f"{topology.name}: {name}, program {number} of {len(programs)}")
        turns = -(-shapes.completion_tokens // TOKENS_PER_CHECK) if name == "decode" else 1
        found.append(_compiled(name, lower(), topology, turns))
    return found


def _compiled(name: str, lowered: jax.stages.Lowered, topology: Topology, open_turns: int) -> CompiledProgram:
    """Compiles, or remembers."""
    about = [lowered.as_text(), topology.compiler_name, jax.__version__, compiler_version(), open_turns]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    file = cache_folder() / f"{key}.json"
    if file.is_file():
        return _remembered(name, json.loads(file.read_text(encoding="utf-8")))
    start = time.perf_counter()
    wanted, executable = 0, None
    try:
        executable = read_executable(lowered.compile(), open_turns=open_turns)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        wanted = _wanted(str(error))
    made = CompiledProgram(name, executable, wanted, time.perf_counter() - start)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(dataclasses.asdict(made)), encoding="utf-8")
    partial.replace(file)
    return made


def _remembered(name: str, tree: Mapping[str, Any]) -> CompiledProgram:
    executable = None if tree["executable"] is None else Executable(**tree["executable"])
    return CompiledProgram(name, executable, tree["wanted_bytes"], tree["seconds"], from_cache=True)


def _wanted(message: str) -> int:
    """The memory that a refusal of the compiler names.

    >>> _wanted("the total memory required for HLO temporaries (16.50G) exceeds available HBM (15.75G).")
    17716740096
    """
    found = re.search(r"\(([\d.]+)([KMG])\) exceeds", message) or re.search(
        r"Used ([\d.]+)([KMG]) of", message
    )
    return int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]]) if found else 0
