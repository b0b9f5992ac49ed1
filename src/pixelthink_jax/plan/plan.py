"""The plan of a run: bytes by kind, arithmetic, traffic between chips, a floor for the seconds of a step, a verdict.

By formula, bytes of parameters, optimizer and caches follow from shapes and placement and are exact; activations and
traffic are formulas. By the compiler, memory and traffic are what the TPU compiler says of the very programs. Neither
has been calibrated on an accelerator.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.plan.compiled import CompiledProgram, Progress, compile_step, compiler_version
from pixelthink_jax.plan.memory import memory, placed_bytes
from pixelthink_jax.plan.roofline import phase_seconds, step_flops, traffic, update_bound
from pixelthink_jax.plan.shapes import Shapes, run_shapes
from pixelthink_jax.plan.topology import Topology, known_as
from pixelthink_jax.runtime.mesh import Axes, MeshConfig, fitted_axes, rollout_config

Bytes = Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """What a run needs of each chip.

    Attributes:
        topology: The machine.
        counted_by: `formula`, or `compiler` with its version.
        mesh: Axes of the training layout.
        rollout_mesh: Axes of the layout that decodes.
        phase_bytes: Memory by kind, phase by phase.
        flops: Matrix products of a whole step, all chips together, recomputation not counted.
        network_bytes: Received by each chip in a step, by kind.
        phase_seconds: Floors, each by the resource that bounds it.
        prompts: Questions of a step.
        tokens: Completion tokens of a step.
        update_bound: What bounds the update: `arithmetic` or `network`.
        programs: What the compiler made of each program; empty by formula.
        remedies: Settings to change, in the order to try; empty where it fits.
    """

    topology: Topology
    counted_by: str
    mesh: Mapping[str, int]
    rollout_mesh: Mapping[str, int]
    phase_bytes: Mapping[str, Bytes]
    flops: int
    network_bytes: Bytes
    phase_seconds: Mapping[str, float]
    prompts: int
    tokens: int
    update_bound: str
    programs: Sequence[CompiledProgram] = ()
    remedies: tuple[str, ...] = ()

    @property
    def per_chip_bytes(self) -> int:
        """The most that is needed at once, that of the largest phase."""
        return max(sum(kinds.values()) for kinds in self.phase_bytes.values())

    @property
    def fits(self) -> bool:
        """Whether that is no more than a chip has, and the compiler found a way to do with it."""
        refused = any(program.executable is None for program in self.programs)
        return not refused and self.per_chip_bytes <= self.topology.chip.memory_bytes

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
            "counted_by": self.counted_by,
            "phase_bytes": {phase: dict(kinds) for phase, kinds in self.phase_bytes.items()},
            "network_bytes": dict(self.network_bytes),
            "phase_seconds": dict(self.phase_seconds),
            "programs": [dataclasses.asdict(program) for program in self.programs],
            "remedies": list(self.remedies),
        }


def make_plan(
    config: TrainConfig,
    topology: Topology,
    *,
    completion_tokens: int | None = None,
    compiled: bool = False,
    on_progress: Progress | None = None,
) -> Plan:
    """Plans a run.

    Args:
        config: The run. Its settings for this machine are taken if it has some; without a `mesh` on several chips, all
            of them cut parameters (`fsdp`).
        topology: The machine.
        completion_tokens: Of each completion; None takes the longest that is allowed.
        compiled: Ask the TPU compiler for memory and traffic.
        on_progress: Called with a line about what is compiled.

    Raises:
        InputError: The mesh does not fit the chips, the prompts or the model; the compiler is not there.
    """
    config = settings_on(config, topology)
    shapes = run_shapes(config, completion_tokens)
    axes, decode_axes = planned_meshes(config, topology)
    train, rollout = _sizes(axes), _sizes(decode_axes)
    for sizes, where in ((train, "mesh"), (rollout, "rollout_mesh")):
        qwen_vl.check_mesh(shapes.model, sizes, where=where)
    phases, network = (
        memory(shapes, train, rollout, topology.chips // topology.hosts),
        traffic(shapes, train, rollout),
    )
    flops = step_flops(shapes)
    plan = Plan(
        topology=topology,
        counted_by="formula",
        mesh=train,
        rollout_mesh=rollout,
        phase_bytes=phases,
        flops=sum(of_phase for phase, of_phase in flops.items() if phase != "recomputed"),
        network_bytes=network,
        phase_seconds=phase_seconds(shapes, topology, flops, network, phases["rollout"]),
        prompts=config.prompts_per_step,
        tokens=math.prod(shapes.batch.tokens.shape),
        update_bound=update_bound(shapes, topology, flops, network),
    )
    if compiled:
        plan = _by_compiler(plan, shapes, on_progress)
    return plan if plan.fits else with_remedies(plan, config)


def settings_on(config: TrainConfig, topology: Topology) -> TrainConfig:
    """The run as the config has it for this machine, under whichever of its names; with a mesh on several chips."""
    name = known_as(topology, config.machines)
    if name is not None:
        config = config.on(name)
    if config.mesh is None and topology.chips > 1:
        config = dataclasses.replace(config, mesh=MeshConfig(data=1, fsdp=-1))
    return config


def planned_meshes(config: TrainConfig, topology: Topology) -> tuple[Axes, Axes]:
    """The axes of both layouts on a machine."""
    train = (config.mesh or MeshConfig()).resolved(topology.chips)
    rollout = rollout_config(train, config.rollout_mesh).resolved(topology.chips, where="rollout_mesh")
    prompts, group = config.prompts_per_step, config.group_size
    return (
        fitted_axes(train, prompts=prompts // config.micro_batches, group_size=group),
        fitted_axes(rollout, prompts=prompts, group_size=group, where="rollout_mesh"),
    )


def _sizes(axes: Axes) -> dict[str, int]:
    return dict(zip(axes.names, axes.sizes, strict=True))


def _by_compiler(plan: Plan, shapes: Shapes, on_progress: Progress | None) -> Plan:
    """The plan with memory and traffic as the compiler says they are."""
    version = compiler_version()
    if plan.topology.compiler_name is None or version is None:
        raise InputError(
            f"topology {plan.topology.name}: no compiler for it here; TPU slices need the extra `tpu`, GPUs are "
            "planned by formula"
        )
    programs = compile_step(shapes, plan.topology, on_progress=on_progress)
    return dataclasses.replace(
        plan,
        counted_by=f"compiler libtpu {version}",
        programs=programs,
        phase_bytes=_compiled_phases(plan, shapes, programs),
        network_bytes=_compiled_traffic(shapes, programs),
    )


def _compiled_phases(plan: Plan, shapes: Shapes, programs: Sequence[CompiledProgram]) -> dict[str, Bytes]:
    """Memory while each program runs: what it holds itself, and what waits beside it."""
    kv, dtype = shapes.model.text.num_kv_heads, shapes.config.dtype
    rollout = plan.phase_bytes["rollout"]
    state = sum(size for kind, size in rollout.items() if kind not in ("decode copy", "caches", "logits"))
    beside = {
        kind: size for kind, size in plan.phase_bytes["masks"].items() if kind not in ("segmenter", "images")
    }
    copy = rollout["decode copy"]
    vision = placed_bytes({"vision": shapes.whole["vision"]}, plan.rollout_mesh, kv, dtype)
    # A program is given the parameters that it reads: those it does not read lie there too.
    unread = {"encode": copy - vision, "prefill": vision, "decode": vision}
    found: dict[str, Bytes] = {}
    for program in programs:
        run = program.executable
        if run is None:
            found[program.name] = {"training state": state, "temporaries": program.wanted_bytes}
        elif program.name == "update":
            held = {kind: size for kind, size in plan.phase_bytes["update"].items() if kind == "segmenter"}
            own = {"arguments": run.argument_bytes, "temporaries": run.peak_bytes - run.argument_bytes}
            found["update"] = held | own
        elif program.name.startswith("masks"):
            found[program.name] = beside | {"program": run.peak_bytes}
        elif program.name.startswith("reshard"):
            found[program.name] = {
                "training state": state,
                "decode copy": copy,
                "temporaries": run.temporary_bytes,
            }
        else:
            kinds = {"training state": state, "decode copy it does not read": unread[program.name]}
            found[program.name] = kinds | {"program": run.peak_bytes}
    return found


def _compiled_traffic(shapes: Shapes, programs: Sequence[CompiledProgram]) -> dict[str, int]:
    """Bytes of exchanges in a step, by program."""
    times = {"reshard a layer": shapes.model.text.num_layers}
    return {
        program.name: times.get(program.name, 1) * sum(program.executable.collectives.values())
        for program in programs
        if program.executable is not None
    }


def with_remedies(plan: Plan, config: TrainConfig) -> Plan:
    """The plan with settings to change, those that change no number of the run first."""
    largest = max(plan.phase_bytes, key=lambda phase: sum(plan.phase_bytes[phase].values()))
    drawing = largest not in ("update", "reference")
    found = []
    if drawing:
        found.append("raise rollout_mesh.tensor, so that the decode copy is cut into more parts")
    elif config.remat != "full":
        found.append("set remat to full")
    if not drawing and config.micro_batches < config.prompts_per_step:
        found.append(f"raise micro_batches to {min(config.prompts_per_step, 2 * config.micro_batches)}")
    whole = config.lora is None and not config.freeze_vision
    if whole and config.reference_memory == "device" and config.loss.kl_coef > 0:
        found.append("set reference_memory to host")
    if config.micro_batches > 1 and config.gradient_dtype == "float32" and config.lora is None:
        found.append("set gradient_dtype to bfloat16")
    if config.optim.first_moment_dtype == "float32" and config.lora is None:
        found.append("set optim.first_moment_dtype to bfloat16")
    if config.dtype == "float32":
        found.append("set dtype to bfloat16, which keeps float32 masters in halves")
    found.append("use more chips, or lower sampling.max_new_tokens")
    if config.lora is None:
        found.append("train an adapter: lora: {rank: 64, alpha: 128}")
    return dataclasses.replace(plan, remedies=tuple(found))
