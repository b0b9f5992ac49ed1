"""Floors of a step: its arithmetic, its traffic between chips, and the seconds that neither can go below."""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from pixelthink_jax.plan.memory import activation_bytes, placed_bytes
from pixelthink_jax.plan.shapes import Shapes
from pixelthink_jax.plan.topology import Topology
from pixelthink_jax.rl.flops import (
    GroupShape,
    forward_flops,
    recomputed_flops,
    text_attention_flops,
    text_linear_flops,
    update_flops,
    vision_flops,
)


def step_flops(shapes: Shapes) -> dict[str, int]:
    """Matrix products of a step by phase, all chips together; what is computed twice counts once, and once apart."""
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
        "recomputed": recomputed_flops(model, groups, config.remat, freeze_vision=not config.trains_vision),
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
    passes = 2 + (config.remat != "none") + (shapes.reference is not None)
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
    r = shapes.batch.tokens.shape[-1]
    # Half of the completions' cache is read at a token on average; the rest of it is read whole.
    read = rollout_bytes["decode copy"] + rollout_bytes["caches"]
    return {
        "prefill": flops["prefill"] / chips / chip.flops_per_second,
        "decode": max(flops["decode"] / chips / chip.flops_per_second, r * read / chip.bytes_per_second),
        "reshard": network["reshard"] / chip.network_bytes_per_second,
        "update": max(_update_seconds(shapes, topology, flops, network).values()),
    }


def update_bound(
    shapes: Shapes, topology: Topology, flops: Mapping[str, int], network: Mapping[str, int]
) -> str:
    """What bounds the update: `arithmetic` or `network`."""
    seconds = _update_seconds(shapes, topology, flops, network)
    return max(seconds, key=lambda name: seconds[name])


def _update_seconds(
    shapes: Shapes, topology: Topology, flops: Mapping[str, int], network: Mapping[str, int]
) -> dict[str, float]:
    """Floors of the update by resource; exchanges and arithmetic go on side by side."""
    executed = flops["update"] + flops["recomputed"]
    sent = network["weights"] + network["gradients"] + network["tensor"]
    return {
        "arithmetic": executed / topology.chips / topology.chip.flops_per_second,
        "network": sent / topology.chip.network_bytes_per_second,
    }
