"""The devices of a run as a mesh with axes `data`, `fsdp` and `tensor`, from one config key.

    mesh:          {data: -1, fsdp: 8, tensor: 1}     training: parameters and optimizer cut over fsdp and tensor
    rollout_mesh:  {data: -1, tensor: 4}              decoding: parameters cut over tensor alone, prompts over data

`data` and `fsdp` divide the prompts of a step. Where there are more chips than prompts, the completions of a group are
divided as well: the axis that is too long is cut into itself and `data_group` or `fsdp_group`.

On one device there is no mesh: everything runs as if this module did not exist.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class MeshConfig:
    """Chips along each axis; -1, at one place at most, takes what is left.

    Attributes:
        data: Copies of the model, each with prompts of its own.
        fsdp: Parts that parameters are cut into, gathered layer by layer; each part has prompts of its own.
        tensor: Parts that matrices and attention heads are cut into; all of them work on the same prompts.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise InputError(
                f"mesh: data {self.data}, fsdp {self.fsdp}, tensor {self.tensor}; expected numbers of chips, and -1 "
                "at one place at most"
            )

    def resolved(self, chips: int, *, where: str = "mesh") -> "MeshConfig":
        """The same with -1 replaced.

        Args:
            chips: Devices of all processes.
            where: The config key, for errors.

        Raises:
            InputError: The axes do not multiply to `chips`.

        >>> MeshConfig(fsdp=4).resolved(8)
        MeshConfig(data=2, fsdp=4, tensor=1)
        >>> MeshConfig(data=2, fsdp=8).resolved(8)
        Traceback (most recent call last):
        ...
        pixelthink_jax.errors.InputError: mesh: data 2 x fsdp 8 x tensor 1 is 16 chips, there are 8; set one axis to -1
        """
        axes = {name: getattr(self, name) for name in ("data", "fsdp", "tensor")}
        fixed = math.prod(size for size in axes.values() if size != -1)
        if -1 in axes.values() and chips % fixed == 0:
            return replace(self, **{n: chips // fixed if size == -1 else size for n, size in axes.items()})
        if fixed == chips and -1 not in axes.values():
            return self
        said = " x ".join(f"{name} {size}" for name, size in axes.items() if size != -1)
        remedy = "use a divisor of that" if -1 in axes.values() else "set one axis to -1"
        raise InputError(f"{where}: {said} is {fixed} chips, there are {chips}; {remedy}")


@dataclass(frozen=True)
class Axes:
    """The axes of a mesh that is fitted to a batch, by name in order, and the chips of each."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]


def fitted_axes(config: MeshConfig, *, prompts: int, group_size: int, where: str = "mesh") -> Axes:
    """Divides prompts over `data` and `fsdp`, and completions where there are more chips than prompts.

    Args:
        config: Resolved.
        prompts: Of a rollout, or of a micro-batch of the update.
        group_size: Completions of each.
        where: The config key, for errors.

    Raises:
        InputError: Neither the prompts nor the completions can be divided.

    >>> fitted_axes(MeshConfig(1, 16, 2), prompts=16, group_size=8)
    Axes(names=('data', 'fsdp', 'tensor'), sizes=(1, 16, 2))
    >>> fitted_axes(MeshConfig(1, 64, 1), prompts=16, group_size=8)
    Axes(names=('data', 'fsdp', 'fsdp_group', 'tensor'), sizes=(1, 16, 4, 1))
    >>> fitted_axes(MeshConfig(64, 1, 1), prompts=4, group_size=8)
    Traceback (most recent call last):
    ...
    pixelthink_jax.errors.InputError: mesh: data x fsdp is 64 chips for 4 prompts of 8 completions, at most 32 can be \
    used; raise prompts_per_step to 8, lower micro_batches, or give chips to tensor
    """
    chips = config.data * config.fsdp
    shared = math.gcd(chips, prompts)
    parts = chips // shared
    if group_size % parts:
        useful = math.gcd(parts, group_size)
        needed = -(-prompts // (chips // useful)) * (chips // useful)
        raise InputError(
            f"{where}: data x fsdp is {chips} chips for {prompts} prompts of {group_size} completions, at most "
            f"{shared * useful} can be used; raise prompts_per_step to {needed}, lower micro_batches, or give chips to "
            "tensor"
        )
    if parts == 1:
        return Axes(("data", "fsdp", "tensor"), (config.data, config.fsdp, config.tensor))
    # The group is taken from fsdp first, and from both where neither is long enough alone.
    of_fsdp = math.gcd(config.fsdp, parts)
    of_data = parts // of_fsdp
    named = [
        ("data", config.data // of_data),
        ("data_group", of_data),
        ("fsdp", config.fsdp // of_fsdp),
        ("fsdp_group", of_fsdp),
        ("tensor", config.tensor),
    ]
    kept = [(name, size) for name, size in named if size > 1 or not name.endswith("_group")]
    return Axes(tuple(name for name, _ in kept), tuple(size for _, size in kept))


@dataclass(frozen=True)
class Meshes:
    """The two layouts of a run: where it trains and where it decodes; both None on one device."""

    train: Mesh | None
    rollout: Mesh | None


def rollout_config(train: MeshConfig, rollout: MeshConfig | None) -> MeshConfig:
    """How a run decodes: as it says, else with the `tensor` of the training and every other chip on `data`.

    Raises:
        InputError: `fsdp` of the rollout is not 1.

    >>> rollout_config(MeshConfig(1, 8, 2), None)
    MeshConfig(data=-1, fsdp=1, tensor=2)
    """
    if rollout is None:
        return MeshConfig(tensor=train.tensor)
    if rollout.fsdp != 1:
        raise InputError(
            f"rollout_mesh: fsdp {rollout.fsdp} would gather every weight at every token; use data and tensor"
        )
    return rollout


def make_meshes(
    train: MeshConfig | None,
    rollout: MeshConfig | None,
    *,
    prompts: int,
    group_size: int,
    micro_batches: int = 1,
    devices: Sequence[Any] | None = None,
) -> Meshes:
    """The meshes of a run, over the same devices in the same order.

    Args:
        train: The config key `mesh`; None runs on one device, and several processes on all of theirs along `data`.
        rollout: The config key `rollout_mesh`.
        prompts: Prompts of a step.
        group_size: Completions of each.
        micro_batches: Parts of the update.
        devices: In the order of the mesh; None takes all there are, in the order that suits their network.

    Raises:
        InputError: The axes do not fit the devices, the prompts or each other.
    """
    if train is None:
        if rollout is not None:
            raise InputError("rollout_mesh: there is no mesh beside it; give both, or neither")
        if jax.process_count() == 1:
            return Meshes(None, None)
        train = MeshConfig()
    count = len(devices) if devices is not None else jax.device_count()
    resolved = train.resolved(count)
    decode = rollout_config(resolved, rollout).resolved(count, where="rollout_mesh")
    if count == 1:
        return Meshes(None, None)
    axes = fitted_axes(resolved, prompts=prompts // micro_batches, group_size=group_size)
    first = _make_mesh(axes, devices)
    other = fitted_axes(decode, prompts=prompts, group_size=group_size, where="rollout_mesh")
    # The same order of devices, or the reshard between the two would not be one program.
    return Meshes(first, _mesh(other, first.devices.reshape(other.sizes)))


def one_mesh(config: MeshConfig | None) -> Mesh | None:
    """The mesh of a command that has one layout: all but GRPO; None on one device.

    Args:
        config: The config key `mesh`; None is one device, and several processes use all of theirs along `data`.

    Raises:
        InputError: The axes do not fit the devices.
    """
    if config is None and jax.process_count() == 1:
        return None
    sizes = (config or MeshConfig()).resolved(jax.device_count())
    if jax.device_count() == 1:
        return None
    return _make_mesh(Axes(("data", "fsdp", "tensor"), (sizes.data, sizes.fsdp, sizes.tensor)), None)


def own_mesh(mesh: Mesh | None) -> Mesh | None:
    """A mesh for what each process computes by itself: `mesh`, or of several processes this one's devices in a row."""
    if mesh is None or not mesh.is_multi_process:
        return mesh
    own = jax.local_devices()
    return None if len(own) == 1 else row_mesh(own)


def row_mesh(devices: Sequence[Any]) -> Mesh:
    """Devices in a row along `data`."""
    return _make_mesh(Axes(("data", "fsdp", "tensor"), (len(devices), 1, 1)), devices)


def _make_mesh(axes: Axes, devices: Sequence[Any] | None) -> Mesh:
    if devices is None:
        return jax.make_mesh(axes.sizes, axes.names, axis_types=(AxisType.Auto,) * len(axes.names))
    return _mesh(axes, np.array(devices).reshape(axes.sizes))


def _mesh(axes: Axes, devices: np.ndarray) -> Mesh:
    return Mesh(devices, axes.names, axis_types=(AxisType.Auto,) * len(axes.names))


def in_use(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """What compiled functions called inside are placed by; without a mesh, nothing."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def mesh_of(leaf: Any) -> Mesh | None:
    """The mesh that an array is spread over; None where it is on one device or on the host."""
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
        return sharding.mesh
    return None


def decode_mesh(mesh: Mesh) -> Mesh:
    """The layout to decode in where none is configured: the same `tensor`, every other chip on `data`."""
    tensor = mesh.shape["tensor"]
    axes = Axes(("data", "fsdp", "tensor"), (mesh.size // tensor, 1, tensor))
    return _mesh(axes, mesh.devices.reshape(axes.sizes))
