"""How a run would scale on more chips of a kind: the same step cut finer, and a step that grows with the chips.

Floors from `plan.roofline`, with `fsdp` over all chips: neither arithmetic nor exchanges of a step can go below them.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.plan.plan import Plan, make_plan, settings_on
from pixelthink_jax.plan.topology import Topology, larger_slices
from pixelthink_jax.runtime.mesh import MeshConfig


@dataclass(frozen=True)
class ScalingRow:
    """One number of chips.

    Attributes:
        chips: How many.
        strong: The step as the config has it; None where its prompts and completions cannot be shared out.
        weak: A step of as many prompts a chip as on the smallest slice.
    """

    chips: int
    strong: Plan | None
    weak: Plan


def scaling(
    config: TrainConfig, topology: Topology, *, completion_tokens: int | None = None
) -> Iterator[ScalingRow]:
    """Plans for this slice and the larger ones of its kind, up to 512 chips.

    Args:
        config: The run.
        topology: The smallest slice.
        completion_tokens: See `make_plan`.
    """
    config = dataclasses.replace(settings_on(config, topology), machines={})
    tensor = config.rollout_mesh.tensor if config.rollout_mesh else 1
    first = topology.chips
    for slice_ in larger_slices(topology):
        spread = dataclasses.replace(
            config, mesh=MeshConfig(1, -1, 1), rollout_mesh=MeshConfig(tensor=tensor), micro_batches=1
        )
        grown = dataclasses.replace(spread, prompts_per_step=config.prompts_per_step * slice_.chips // first)
        try:
            strong = make_plan(spread, slice_, completion_tokens=completion_tokens)
        except InputError:
            strong = None
        yield ScalingRow(slice_.chips, strong, make_plan(grown, slice_, completion_tokens=completion_tokens))
