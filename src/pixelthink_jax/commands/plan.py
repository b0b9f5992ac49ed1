"""`pixelthink plan`: whether a run fits a machine one does not have, and how fast it could be at best."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax

from pixelthink_jax.commands import config_path
from pixelthink_jax.config import load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.plan import (
    CompiledProgram,
    Plan,
    ScalingRow,
    Topology,
    compiler_version,
    make_plan,
    parse_topology,
    scaling,
)


@dataclass(frozen=True)
class Args:
    """Flags of `pixelthink plan`."""

    config: str
    """YAML config of a GRPO run (see configs/)."""
    topology: str
    """The machine: v5e-16, v5p-8 (cores: four chips), v6e-64, v5e:4x4, v5p:2x2x2, gpu:1x141GB, gpu:8x80GB; or all that
    the config has settings for, as a table: `all`."""
    by: Literal["auto", "formula", "compiler"] = "auto"
    """Who counts memory and traffic: the TPU compiler (extra `tpu`), formulas, or the compiler where there is one."""
    completion_tokens: int | None = None
    """Tokens of each completion; the longest that the config allows by default."""
    scaling: bool = False
    """Floors on the larger slices of the kind instead, for the same step and for one that grows with the chips."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: Args) -> int:
    """Prints the plan; status 1 if the run does not fit."""
    # Shapes need no devices, and with libtpu installed JAX would look for chips.
    jax.config.update("jax_platforms", "cpu")
    path = config_path(["--config", args.config])
    config = load_config(TrainConfig, path or args.config)
    if args.completion_tokens is not None and args.completion_tokens < 1:
        raise InputError(f"completion_tokens must be at least 1, got {args.completion_tokens}")
    if args.topology == "all":
        return _table(args, config)
    topology = parse_topology(args.topology)
    if args.scaling:
        print("\n".join(scaling_lines(scaling(config, topology, completion_tokens=args.completion_tokens))))
        return 0
    plan = _planned(args, config, topology)
    print(json.dumps(plan.as_json()) if args.json else "\n".join(lines(plan)))
    return 0 if plan.fits else 1


def _planned(args: Args, config: TrainConfig, topology: Topology) -> Plan:
    there = topology.compiler_name is not None and compiler_version() is not None
    return make_plan(
        config,
        topology,
        completion_tokens=args.completion_tokens,
        compiled=args.by == "compiler" or (args.by == "auto" and there),
        on_progress=lambda line: print(f"compiling for {line}", file=sys.stderr, flush=True),
    )


_COLUMNS = (
    "machine",
    "mesh",
    "rollout_mesh",
    "micro-batches",
    "remat",
    "GB a chip by formula",
    "by the compiler",
    "there, GB",
    "floor of a step, s",
    "fits",
)


def _table(args: Args, config: TrainConfig) -> int:
    """Every machine of a config, each line printed when it is known; status 1 if the run does not fit one of them."""
    if args.scaling:
        raise InputError("topology all: --scaling goes up from one machine; name it")
    if not config.machines:
        raise InputError(f"{args.config}: it has no `machines`; name one, such as --topology v5e-16")
    if not args.json:
        print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}", flush=True)
    plans = []
    for machine in config.machines:
        plans.append(_planned(args, config, parse_topology(machine)))
        if not args.json:
            by_formula = make_plan(config, plans[-1].topology, completion_tokens=args.completion_tokens)
            print(f"| {' | '.join(_row(config.on(machine), plans[-1], by_formula))} |", flush=True)
    if args.json:
        print(json.dumps([plan.as_json() for plan in plans]))
    return 0 if all(plan.fits for plan in plans) else 1


def _row(config: TrainConfig, plan: Plan, by_formula: Plan) -> Iterator[str]:
    """The cells of a machine."""
    yield from (plan.topology.name, _axes(plan.mesh), _axes(plan.rollout_mesh))
    yield from (str(config.micro_batches), config.remat)
    yield f"{by_formula.per_chip_bytes / 1e9:.1f}"
    yield f"{plan.per_chip_bytes / 1e9:.1f}" if plan.programs else "-"
    yield f"{plan.topology.chip.memory_bytes / 1e9:.1f}"
    yield f"{plan.step_seconds_floor:.1f}"
    yield "yes" if plan.fits else "no"


def lines(plan: Plan) -> Iterator[str]:
    """The plan as a table."""
    machine = plan.topology
    yield f"{machine.name}: {machine.chips} x {machine.chip.name}, {machine.hosts} host(s)"
    yield f"mesh {_axes(plan.mesh)}; rollout_mesh {_axes(plan.rollout_mesh)}"
    yield f"memory of a chip, GB (by {plan.counted_by}; not measured)"
    for phase, kinds in plan.phase_bytes.items():
        parts = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in kinds.items() if size)
        yield f"  {phase:<16} {sum(kinds.values()) / 1e9:6.2f}   {parts}"
    yield from (_exchanges(program) for program in plan.programs)
    yield f"arithmetic of a step: {plan.flops / 1e15:.3f} PFLOP"
    sent = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in plan.network_bytes.items() if size)
    yield f"received by a chip in a step, GB: {sent or 'nothing'}"
    floors = ", ".join(f"{name} {seconds:.2f}" for name, seconds in plan.phase_seconds.items())
    yield (
        f"no step is faster than {plan.step_seconds_floor:.2f} s ({floors}), no rate above "
        f"{plan.tokens / plan.step_seconds_floor:.0f} completion tokens/s: peaks of the data sheet, not measured"
    )
    verdict = "fits" if plan.fits else "does not fit"
    yield (
        f"{verdict}: {plan.per_chip_bytes / 1e9:.2f} GB needed, {machine.chip.memory_bytes / 1e9:.2f} GB there"
    )
    yield from (f"  {remedy}" for remedy in (() if plan.fits else plan.remedies))


def scaling_lines(rows: Iterable[ScalingRow]) -> Iterator[str]:
    """A table in Markdown: floors of the update, and what bounds it."""
    yield "| chips | same step: update, s | bound by | prompts grow: prompts | update, s | bound by | step, s |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        same = ("-", "-") if row.strong is None else _update_floor(row.strong)
        grown, prompts = row.weak, row.weak.prompts
        yield (
            f"| {row.chips} | {' | '.join(same)} | {prompts} | {' | '.join(_update_floor(grown))} | "
            f"{grown.step_seconds_floor:.2f} |"
        )


def _update_floor(plan: Plan) -> tuple[str, str]:
    return f"{plan.phase_seconds['update']:.2f}", plan.update_bound


def _exchanges(program: CompiledProgram) -> str:
    """A line about what a program exchanges between chips."""
    made = f"compiled in {program.seconds:.0f} s" + (", before" if program.from_cache else "")
    if program.executable is None:
        return f"  {program.name}: the compiler refused it ({made})"
    kinds = program.executable.collectives.items()
    sent = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in kinds)
    return f"  {program.name} exchanges, GB of a chip each time: {sent or 'nothing'} ({made})"


def _axes(mesh: Mapping[str, int]) -> str:
    return " x ".join(f"{name} {size}" for name, size in mesh.items() if size > 1) or "one chip"
