"""Names of machines, as users write them: `v5e-16`, `v5p-8`, `v6e:4x4`, `gpu:8x80GB`.

A TPU slice is named by chips (v5e, v6e) or by cores, two a chip (v5p); the second form names the shape of its network.

Sources: the vendors' published sheets for rates; the capacities of TPUs are those their compiler enforces
(libtpu 0.0.42.1), a little below the sheets.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pixelthink_jax.errors import InputError

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        name: What it is called.
        memory_bytes: Usable memory.
        flops_per_second: Peak of bfloat16 matrix products.
        bytes_per_second: Peak of its memory.
        network_bytes_per_second: Between chips of a slice or GPUs of a host, all links together, one way.
    """

    name: str
    memory_bytes: int
    flops_per_second: float
    bytes_per_second: float
    network_bytes_per_second: float


@dataclass(frozen=True)
class Topology:
    """Chips and how they hang together.

    Attributes:
        name: As it was written.
        chip: One of them.
        chips: How many.
        hosts: Machines they are in.
        compiler_name: What the TPU compiler calls it; None for GPUs.
    """

    name: str
    chip: Chip
    chips: int
    hosts: int
    compiler_name: str | None = None

    def same_machine(self, other: "Topology") -> bool:
        """Whether both names mean the same."""
        return dataclasses.replace(self, name=other.name) == other


_TPUS = {
    "v5e": Chip("TPU v5e", int(15.75 * _GIB), 197e12, 819e9, 100e9),
    "v5p": Chip("TPU v5p", int(95.74 * _GIB), 459e12, 2765e9, 300e9),
    "v6e": Chip("TPU v6e", int(31.25 * _GIB), 918e12, 1638e9, 224e9),
}
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
}
_GPUS = {
    24: Chip("GPU 24 GB (RTX 4090 class)", int(24e9 * 0.93), 165e12, 1008e9, 16e9),
    48: Chip("GPU 48 GB (L40S class)", int(48e9 * 0.93), 362e12, 864e9, 16e9),
    80: Chip("GPU 80 GB (H100 class)", int(80e9 * 0.93), 989e12, 3350e9, 450e9),
    141: Chip("GPU 141 GB (H200 class)", int(149.4e9 * 0.93), 989e12, 4800e9, 450e9),
}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v6": "v6e", "trillium": "v6e"}


def parse_topology(name: str) -> Topology:
    """The machine of that name.

    Raises:
        InputError: There is none.

    >>> found = parse_topology("v5p-8")
    >>> found.chips, found.hosts, found.compiler_name
    (4, 1, 'v5p:2x2x1')
    >>> parse_topology("v5litepod-16") == parse_topology("v5e-16")
    False
    >>> parse_topology("v5litepod-16").compiler_name, parse_topology("gpu:8x80GB").chips
    ('v5e:4x4', 8)
    >>> parse_topology("v5r-16")
    Traceback (most recent call last):
    ...
    pixelthink_jax.errors.InputError: topology v5r-16: no machine of that name; did you mean v5p-16?
    """
    text = name.strip().lower()
    if gpu := re.fullmatch(r"gpu:(\d+)x(\d+)(?:gb)?", text):
        return _gpus(name, int(gpu[1]), int(gpu[2]))
    if slice_ := re.fullmatch(r"([a-z0-9]+)-(\d+)", text):
        kind, count = _ALIASES.get(slice_[1], slice_[1]), int(slice_[2])
        if kind in _TPUS:
            return _slice(name, kind, count)
    if shape := re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)+)", text):
        kind = _ALIASES.get(shape[1], shape[1])
        if kind in _TPUS:
            sizes = [int(size) for size in shape[2].split("x")]
            if len(sizes) != (3 if kind == "v5p" else 2):
                axes = "three" if kind == "v5p" else "two"
                raise InputError(f"topology {name}: a {kind} slice has {axes} sides, as in {_example(kind)}")
            return _shaped(name, kind, sizes)
    raise InputError(f"topology {name}: no machine of that name; {_nearest(text)}")


def _shaped(name: str, kind: str, sizes: list[int]) -> Topology:
    """A slice by the shape of its network: the shapes that are sold, and for v5p every multiple of a host's."""
    shape = "x".join(map(str, sizes))
    if kind == "v5p":
        known = all(size in (1, 2) or (size and size % 4 == 0) for size in sizes) and math.prod(sizes) >= 4
        expected = "sides of 1, 2 or a multiple of 4, four chips at least"
    else:
        known, expected = shape in _FLAT.values(), f"one of {', '.join(_FLAT.values())}"
    if not known:
        raise InputError(f"topology {name}: no slice of that shape; expected {expected}")
    return _tpu(name, kind, math.prod(sizes), shape)


def _slice(name: str, kind: str, count: int) -> Topology:
    """A slice by its number of chips, or of cores."""
    cores = 2 if kind == "v5p" else 1
    shapes = _CUBES if kind == "v5p" else _FLAT
    if count % cores or count // cores not in shapes:
        sizes = ", ".join(f"{kind}-{chips * cores}" for chips in shapes)
        raise InputError(f"topology {name}: no slice of that size; expected one of {sizes}")
    return _tpu(name, kind, count // cores, shapes[count // cores])


def _tpu(name: str, kind: str, chips: int, shape: str) -> Topology:
    return Topology(name, _TPUS[kind], chips, max(1, chips // 4), f"{kind}:{shape}")


def known_as(machine: Topology, names: Iterable[str]) -> str | None:
    """The one of these names that means the machine, whichever way it is written; None if there is none.

    >>> known_as(parse_topology("v5litepod-16"), ["v5p-8", "v5e-16"])
    'v5e-16'
    """
    return next((name for name in names if parse_topology(name).same_machine(machine)), None)


def larger_slices(topology: Topology) -> list[Topology]:
    """The slice itself and the larger ones of its kind, to 512 chips.

    Raises:
        InputError: It is not a slice of TPUs.

    >>> [slice_.chips for slice_ in larger_slices(parse_topology("v6e-64"))]
    [64, 128, 256]
    """
    kind = (topology.compiler_name or "").partition(":")[0]
    if kind not in _TPUS:
        raise InputError(f"topology {topology.name}: expected a slice of TPUs, such as v5p-64")
    shapes = _CUBES if kind == "v5p" else _FLAT
    names = [f"{kind}:{shape}" for chips, shape in shapes.items() if chips > topology.chips]
    return [topology, *map(parse_topology, names)]


def _gpus(name: str, count: int, gigabytes: int) -> Topology:
    if gigabytes not in _GPUS or count < 1:
        raise InputError(
            f"topology {name}: expected gpu:COUNTxSIZEGB with a size of {', '.join(map(str, _GPUS))} GB"
        )
    return Topology(name, _GPUS[gigabytes], count, -(-count // 8))


def _example(kind: str) -> str:
    return "v5p:2x2x2" if kind == "v5p" else f"{kind}:4x4"


def _nearest(text: str) -> str:
    flat = [f"{kind}-{chips}" for kind in ("v5e", "v6e") for chips in _FLAT]
    names = [*flat, *(f"v5p-{2 * chips}" for chips in _CUBES), "v5p:2x2x2", "v5e:4x4", "v6e:4x4"]
    close = difflib.get_close_matches(text, [*names, *(f"gpu:8x{size}gb" for size in _GPUS)], n=1)
    return f"did you mean {close[0]}?" if close else "expected such as v5e-16, v5p-8, v6e:4x4 or gpu:8x80GB"
