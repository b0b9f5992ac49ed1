"""The plan of a run: bytes by kind, arithmetic, traffic between chips, a floor for the seconds of a step, a verdict.

Bytes of parameters, optimizer and caches follow from shapes and placement and are exact; activations and traffic are
formulas that have not been calibrated on an accelerator.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.plan.memory import activation_bytes, memory, placed_bytes
from pixelthink_jax.plan.shapes import Shapes, run_shapes
from pixelthink_jax.plan.topology import Topology
from pixelthink_jax.rl.flops import (
    GroupShape,
    forward_flops,
    text_attention_flops,
    text_linear_flops,
    update_flops,
    vision_flops,
)
from pixelthink_jax.runtime.mesh import Axes, MeshConfig, fitted_axes, rollout_config


@dataclass(frozen=True)
class Plan:
    """What a run needs of each chip.

    Attributes:
        topology: The machine.
        mesh: Axes of the training layout.
        rollout_mesh: Axes of the layout that decodes.
        rollout_bytes: Memory while completions are drawn, by kind.
        update_bytes: Memory during the update, by kind.
        flops: Matrix products of a whole step, all chips together, recomputation not counted.
        network_bytes: Sent and received by each chip in a step, by kind.
        phase_seconds: Floors, each by the resource that bounds it.
        tokens: Completion tokens of a step.
        remedies: Settings to change, in the order to try; empty where it fits.
    """

    topology: Topology
    mesh: Mapping[str, int]
    rollout_mesh: Mapping[str, int]
    rollout_bytes: Mapping[str, int]
    update_bytes: Mapping[str, int]
    flops: int
    network_bytes: Mapping[str, int]
    phase_seconds: Mapping[str, float]
    tokens: int
    remedies: tuple[str, ...] = ()

    @property
    def per_chip_bytes(self) -> int:
        """The most that is needed at once, the larger of the two phases."""
        return max(sum(self.rollout_bytes.values()), sum(self.update_bytes.values()))

    @property
    def fits(self) -> bool:
        """Whether that is no more than a chip has."""
        return self.per_chip_bytes <= self.topology.chip.memory_bytes

    @property
    def step_seconds_floor(self) -> float:
        """No step is faster: every phase at the peak of what bounds it."""
        return sum(self.phase_seconds.values())

    def as_json(self) -> dict[str, Any]:
        """One object of plain values."""
        return {
            "fits": self.fits,
            "per_chip_bytes": self.per_chip_bytes,
            "capacity_bytes": self.topology.chip.memory_bytes,
            "flops": self.flops,
            "step_seconds_floor": self.step_seconds_floor,
            "tokens_per_second_ceiling": self.tokens / self.step_seconds_floor,
            "topology": self.topology.name,
            "chip": self.topology.chip.name,
            "chips": self.topology.chips,
            "hosts": self.topology.hosts,
            "mesh": dict(self.mesh),
            "rollout_mesh": dict(self.rollout_mesh),
            "counted_by": "formula",
            "rollout_bytes": dict(self.rollout_bytes),
            "update_bytes": dict(self.update_bytes),
            "network_bytes": dict(self.network_bytes),
            "phase_seconds": dict(self.phase_seconds),
            "remedies": list(self.remedies),
        }


def make_plan(config: TrainConfig, topology: Topology, *, completion_tokens: int | None = None) -> Plan:
    """Plans a run by formula.

    Args:
        config: The run; without a `mesh` on several chips, all of them cut parameters (`fsdp`).
        topology: The machine.
        completion_tokens: Of each completion; None takes the longest that is allowed.

    Raises:
        InputError: The mesh does not fit the chips, the prompts or the model.
    """
    shapes = run_shapes(config, completion_tokens)
    train, rollout = planned_meshes(config, topology)
    for axes, where in ((train, "mesh"), (rollout, "rollout_mesh")):
        qwen_vl.check_mesh(shapes.model, _sizes(axes), where=where)
    rollout_bytes, update_bytes = memory(shapes, _sizes(train), _sizes(rollout))
    flops = step_flops(shapes)
    network = traffic(shapes, _sizes(train), _sizes(rollout))
    plan = Plan(
        topology=topology,
        mesh=_sizes(train),
        rollout_mesh=_sizes(rollout),
        rollout_bytes=rollout_bytes,
        update_bytes=update_bytes,
        flops=sum(flops.values()),
        network_bytes=network,
        phase_seconds=phase_seconds(shapes, topology, flops, network, rollout_bytes),
        tokens=math.prod(shapes.batch.tokens.shape),
    )
    return plan if plan.fits else with_remedies(plan, config)


def planned_meshes(config: TrainConfig, topology: Topology) -> tuple[Axes, Axes]:
    """The axes of both layouts on a machine."""
    wanted = config.mesh or MeshConfig(data=1, fsdp=-1)
    train = wanted.resolved(topology.chips)
    rollout = rollout_config(train, config.rollout_mesh).resolved(topology.chips, where="rollout_mesh")
    prompts, group = config.prompts_per_step, config.group_size
    return (
        fitted_axes(train, prompts=prompts // config.micro_batches, group_size=group),
        fitted_axes(rollout, prompts=prompts, group_size=group, where="rollout_mesh"),
    )


def _sizes(axes: Axes) -> dict[str, int]:
    return dict(zip(axes.names, axes.sizes, strict=True))


def step_flops(shapes: Shapes) -> dict[str, int]:
    """Matrix products of a step by phase, all chips together."""
    config, model = shapes.config, shapes.model
    b, g, r = shapes.batch.tokens.shape
    t = shapes.batch.prompts.input_ids.shape[1]
    side = math.isqrt(shapes.batch.layout.positions.shape[1])
    groups = [GroupShape(t, (r,) * g, ((1, side, side),))] * b
    prefill = b * (t * text_linear_flops(model) + text_attention_flops(model, t * (t + 1) // 2))
    prefill += b * vision_flops(model, (1, side, side))
    return {
        "prefill": prefill,
        "decode": forward_flops(model, groups) - prefill,
        "update": update_flops(
            model, groups, reference=config.loss.kl_coef > 0, freeze_vision=not config.trains_vision
        ),
    }


def traffic(shapes: Shapes, train: Mapping[str, int], rollout: Mapping[str, int]) -> dict[str, int]:
    """Bytes that each chip receives in a step: weights gathered, gradients summed, partial products, the reshard."""
    config, kv = shapes.config, shapes.model.text.num_kv_heads
    width = jnp.dtype(config.dtype).itemsize
    text, alone = shapes.model.text, {"tensor": train["tensor"]}
    gathered = placed_bytes(shapes.whole, alone, kv, config.dtype) - placed_bytes(
        shapes.whole, train, kv, config.dtype
    )
    summed = placed_bytes(shapes.state.params, alone, kv, config.dtype) - placed_bytes(
        shapes.state.params, train, kv, config.dtype
    )
    passes = 2 + (config.remat == "full") + (shapes.reference is not None)
    b, g, r = shapes.batch.tokens.shape
    t = shapes.batch.prompts.input_ids.shape[1]

    def partial_sums(mesh: Mapping[str, int]) -> int:
        if mesh["tensor"] == 1:
            return 0
        tokens = activation_bytes("b t d", (b, t, text.hidden_size), mesh, width)
        tokens += activation_bytes("b g r d", (b, g, r, text.hidden_size), mesh, width)
        return 2 * 2 * text.num_layers * tokens

    return {
        "weights": passes * config.micro_batches * gathered,
        "gradients": config.micro_batches * summed,
        "tensor": (passes + 1) * partial_sums(train) + partial_sums(rollout),
        "reshard": placed_bytes(shapes.whole, rollout, kv, config.dtype)
        if math.prod(train.values()) > 1
        else 0,
    }


def phase_seconds(
    shapes: Shapes,
    topology: Topology,
    flops: Mapping[str, int],
    network: Mapping[str, int],
    rollout_bytes: Mapping[str, int],
) -> dict[str, float]:
    """Floors by phase, one after another: arithmetic, memory or network at its peak, whichever takes longest."""
    chip, chips = topology.chip, topology.chips
    recomputed = 4 / 3 if shapes.config.remat == "full" else 1.0
    r = shapes.batch.tokens.shape[-1]
    # Half of the completions' cache is read at a token on average; the rest of it is read whole.
    read = rollout_bytes["decode copy"] + rollout_bytes["caches"]
    sent = (network["weights"] + network["gradients"] + network["tensor"]) / chip.network_bytes_per_second
    return {
        "prefill": flops["prefill"] / chips / chip.flops_per_second,
        "decode": max(flops["decode"] / chips / chip.flops_per_second, r * read / chip.bytes_per_second),
        "reshard": network["reshard"] / chip.network_bytes_per_second,
        "update": max(flops["update"] * recomputed / chips / chip.flops_per_second, sent),
    }


def with_remedies(plan: Plan, config: TrainConfig) -> Plan:
    """The plan with settings to change, those that change no number of the run first."""
    drawing = sum(plan.rollout_bytes.values()) > sum(plan.update_bytes.values())
    found = []
    if drawing:
        found.append("raise rollout_mesh.tensor, so that the decode copy is cut into more parts")
    elif config.remat == "none":
        found.append("set remat to full")
    if not drawing and config.micro_batches < config.prompts_per_step:
        found.append(f"raise micro_batches to {min(config.prompts_per_step, 2 * config.micro_batches)}")
    if config.optim.first_moment_dtype == "float32" and plan.update_bytes["moments"]:
        found.append("set optim.first_moment_dtype to bfloat16")
    if config.dtype == "float32":
        found.append("set dtype to bfloat16, which keeps float32 masters in halves")
    found.append("use more chips, or lower sampling.max_new_tokens")
    if config.lora is None:
        found.append("train an adapter: lora: {rank: 64, alpha: 128}")
    return dataclasses.replace(plan, remedies=tuple(found))
