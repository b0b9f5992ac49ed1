"""What a run will need on machines one does not have: memory, arithmetic and time for each chip, in advance."""

from pixelthink_jax.plan.compiled import CompiledProgram, compiler_version
from pixelthink_jax.plan.plan import Plan, make_plan
from pixelthink_jax.plan.scaling import ScalingRow, scaling
from pixelthink_jax.plan.topology import Topology, known_as, parse_topology

__all__ = [
    "CompiledProgram",
    "Plan",
    "ScalingRow",
    "Topology",
    "compiler_version",
    "known_as",
    "make_plan",
    "parse_topology",
    "scaling",
]
