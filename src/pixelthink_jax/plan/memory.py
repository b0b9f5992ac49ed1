"""Bytes of each chip by kind, from shapes and the tables of placement."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.attention import SCORES_AT_ONCE
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.qwen_vl.sharding import partition_spec
from pixelthink_jax.plan.drawing import drawing_bytes, segmenter_bytes
from pixelthink_jax.plan.shapes import Shapes
from pixelthink_jax.rl.logprobs import LOGITS_AT_ONCE


def placed_bytes(tree: Any, mesh: Mapping[str, int], kv_heads: int, dtype: Any = None) -> int:
    """Bytes of each chip of a tree of parameters, or of what mirrors it, under the table of `qwen_vl.sharding`."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        spec = partition_spec(name, leaf.shape, mesh, kv_heads=kv_heads)
        cut = _parts(spec, mesh)
        total += math.prod(leaf.shape) * jnp.dtype(dtype or leaf.dtype).itemsize // cut
    return total


def _parts(spec: Any, mesh: Mapping[str, int]) -> int:
    axes = [axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    return math.prod(mesh[axis] for axis in axes)


def activation_bytes(axes: str, shape: tuple[int, ...], mesh: Mapping[str, int], itemsize: int) -> int:
    """Bytes of each chip of an activation, under the table of `models.axes`."""
    return math.prod(shape) * itemsize // _parts(activation_spec(axes, shape, mesh), mesh)


def memory(
    shapes: Shapes, train: Mapping[str, int], rollout: Mapping[str, int], host_chips: int
) -> dict[str, dict[str, int]]:
    """Bytes of each chip by kind, phase by phase: completions are drawn, scored by the reference, learned from; masks.

    The second phase is there where the reference waits on the host. A run that draws no masks does not hold a
    segmenter: the last phase is then that of an evaluation by itself.
    """
    config, model, kv = shapes.config, shapes.model, shapes.model.text.num_kv_heads
    state, width = shapes.state, jnp.dtype(config.dtype).itemsize
    resident = {
        "parameters": placed_bytes(state.params, train, kv) + placed_bytes(shapes.frozen, train, kv),
        "low halves": placed_bytes(state.low, train, kv) if state.low is not None else 0,
        "moments": placed_bytes(state.opt_state, train, kv),
    }
    reference = {"reference": _reference_bytes(shapes, train)}
    waits = config.reference_memory == "host"
    segmenter = {"segmenter": segmenter_bytes(shapes.segmenter)}
    if config.draws_masks:
        resident |= segmenter
    always = resident if waits else resident | reference
    b, g, r = shapes.batch.tokens.shape
    t = shapes.batch.prompts.input_ids.shape[1]
    text = model.text
    cache = 2 * text.num_layers * width
    prefix = activation_bytes("b k t c", (b, kv, t, text.head_dim), rollout, cache)
    suffix = activation_bytes("b g k r c", (b, g, kv, r, text.head_dim), rollout, cache)
    copy = {"decode copy": placed_bytes(shapes.whole, rollout, kv, config.dtype)}
    phases = {
        "rollout": always
        | copy
        | {
            "caches": prefix + suffix,
            "logits": 4 * activation_bytes("b g v", (b, g, text.vocab_size), rollout, 4),
        }
    }
    if waits and shapes.reference is not None:
        phases["reference"] = resident | reference | {"activations": activations(shapes, train)}
    gradients = placed_bytes(state.params, train, kv, config.dtype)
    if config.micro_batches > 1:  # those of one micro-batch, and their sum
        gradients += placed_bytes(state.params, train, kv, config.gradient_dtype)
    phases["update"] = always | {"gradients": gradients, "activations": activations(shapes, train)}
    drawing = {"images": drawing_bytes(shapes.segmenter, host_chips)}
    phases["masks"] = (always if config.draws_masks else segmenter) | copy | drawing
    return phases


def _reference_bytes(shapes: Shapes, train: Mapping[str, int]) -> int:
    """What the reference takes beside the policy, with which it shares what is not trained."""
    if not shapes.reference:
        return 0
    kv = shapes.model.text.num_kv_heads
    shared = qwen_vl.without_lora(shapes.frozen) if shapes.config.lora else shapes.frozen
    return placed_bytes(shapes.reference, train, kv) - placed_bytes(shared, train, kv)


def activations(shapes: Shapes, mesh: Mapping[str, int]) -> int:
    """Bytes of each chip that a micro-batch needs: what is kept for the way back, and the largest piece of work."""
    config, text, vision = shapes.config, shapes.model.text, shapes.model.vision
    width = jnp.dtype(config.dtype).itemsize
    b, g, r = shapes.batch.tokens.shape
    b //= config.micro_batches
    t = shapes.batch.prompts.input_ids.shape[1]
    d, h, c = text.hidden_size, text.num_heads, text.head_dim

    def of_tokens(letter: str, size: int, each: int = 1) -> int:
        prompts = activation_bytes(f"b t {letter} .", (b, t, size, each), mesh, width)
        return prompts + activation_bytes(f"b g r {letter} .", (b, g, r, size, each), mesh, width)

    stream, projected = of_tokens("d", d), of_tokens("h", h, c) + 2 * of_tokens("k", text.num_kv_heads, c)
    scores = activation_bytes("b h t s", (b, h, t, t), mesh, 4)
    scores = max(scores, activation_bytes("b g h r s", (b, g, h, r, r + t), mesh, 4))
    # Both sides of the MLP and their product lie beside one another, and once more on the way back.
    wide = activation_bytes("b g r h", (b, g, r, text.intermediate_size), mesh, width)
    layer = 3 * min(scores, 4 * SCORES_AT_ONCE) + 6 * wide + 8 * stream
    layer += 2 * _whole_layer(shapes, mesh)
    block = {
        "full": stream,
        "dots_except_mlp": 2 * stream + projected + of_tokens("h", h, c),
        "dots": 2 * stream + projected + 2 * of_tokens("h", text.intermediate_size),
    }
    kept = text.num_layers * block.get(config.remat, layer)
    frames, patches = shapes.batch.layout.positions.shape[:2]
    seen = activation_bytes("n p d", (frames, patches, vision.hidden_size), mesh, width)
    full = activation_bytes("n h p q", (frames, vision.num_heads, patches, patches), mesh, 4)
    mlp = 2 * seen * vision.intermediate_size // vision.hidden_size
    tower = {"full": seen, "dots_except_mlp": 6 * seen, "dots": 5 * seen + mlp}
    kept += vision.depth * tower.get(config.remat, 8 * seen + 2 * mlp) if config.trains_vision else seen
    # The head: some logits with their gradient, its matrix as a chip sees it, and the gradient of that in float32.
    matrix = text.vocab_size * d // mesh["tensor"]
    head = 2 * 4 * LOGITS_AT_ONCE + matrix * (width + 4)
    return kept + max(layer, 3 * min(full, 4 * SCORES_AT_ONCE), head)


def _whole_layer(shapes: Shapes, mesh: Mapping[str, int]) -> int:
    """A layer of the policy as a chip gathers it: cut over `tensor` alone; nothing where it is not cut otherwise."""
    blocks, kv = shapes.whole["text"]["blocks"], shapes.model.text.num_kv_heads
    gathered = placed_bytes(blocks, {"tensor": mesh["tensor"]}, kv, shapes.config.dtype)
    lying = placed_bytes(blocks, mesh, kv, shapes.config.dtype)
    return 0 if gathered == lying else gathered // shapes.model.text.num_layers
