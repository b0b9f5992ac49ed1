"""Bytes of each chip by kind, from shapes and the tables of placement."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.qwen_vl.sharding import partition_spec
from pixelthink_jax.plan.shapes import Shapes

_LOGITS_AT_ONCE = 2**26 * 4 * 2  # bytes of a chunk and its gradient, see `rl.logprobs`


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
    shapes: Shapes, train: Mapping[str, int], rollout: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of each chip by kind, while completions are drawn and during the update."""
    config, model, kv = shapes.config, shapes.model, shapes.model.text.num_kv_heads
    state, width = shapes.state, jnp.dtype(config.dtype).itemsize
    resident = {
        "parameters": placed_bytes(state.params, train, kv) + placed_bytes(shapes.frozen, train, kv),
        "low halves": placed_bytes(state.low, train, kv) if state.low is not None else 0,
        "moments": placed_bytes(state.opt_state, train, kv),
        # Parameters that are not trained are shared with the reference.
        "reference": placed_bytes(shapes.reference or {}, train, kv) - placed_bytes(_base(shapes), train, kv)
        if shapes.reference
        else 0,
    }
    b, g, r = shapes.batch.tokens.shape
    t = shapes.batch.prompts.input_ids.shape[1]
    text = model.text
    cache = 2 * text.num_layers * width
    prefix = activation_bytes("b k t c", (b, kv, t, text.head_dim), rollout, cache)
    suffix = activation_bytes("b g k r c", (b, g, kv, r, text.head_dim), rollout, cache)
    drawing = {
        "decode copy": placed_bytes(shapes.whole, rollout, kv, config.dtype),
        "caches": prefix + suffix,
        "logits": 4 * activation_bytes("b g v", (b, g, text.vocab_size), rollout, 4),
    }
    gradient = "float32" if config.micro_batches > 1 else config.dtype
    updating = {
        "gradients": placed_bytes(state.params, train, kv, gradient),
        "activations": activations(shapes, train),
    }
    return resident | drawing, resident | updating


def _base(shapes: Shapes) -> Any:
    """What the reference shares: parameters that are not trained."""
    return qwen_vl.without_lora(shapes.frozen) if shapes.config.lora else shapes.frozen


def activations(shapes: Shapes, mesh: Mapping[str, int]) -> int:
    """Bytes of each chip that a micro-batch needs: what is kept for the way back, and one layer at work."""
    config, text, vision = shapes.config, shapes.model.text, shapes.model.vision
    width = jnp.dtype(config.dtype).itemsize
    b, g, r = shapes.batch.tokens.shape
    b //= config.micro_batches
    t = shapes.batch.prompts.input_ids.shape[1]
    d, h = text.hidden_size, text.num_heads
    stream = activation_bytes("b t d", (b, t, d), mesh, width)
    stream += activation_bytes("b g r d", (b, g, r, d), mesh, width)
    # Float32 scores, their weights and gradients, of prompts, and of completions over prompts and themselves.
    scores = activation_bytes("b h t s", (b, h, t, t), mesh, 4)
    scores = max(scores, activation_bytes("b g h r s", (b, g, h, r, r + t), mesh, 4))
    wide = activation_bytes("b g r h", (b, g, r, text.intermediate_size), mesh, width)
    layer = 3 * scores + 6 * wide + 8 * stream
    kept = stream if config.remat == "full" else layer
    frames, patches = shapes.batch.layout.positions.shape[:2]
    seen = activation_bytes("n p d", (frames, patches, vision.hidden_size), mesh, width)
    tower = vision.depth * seen if config.trains_vision else seen
    full = 3 * activation_bytes("n h p q", (frames, vision.num_heads, patches, patches), mesh, 4)
    return text.num_layers * kept + max(layer, full) + tower + min(_LOGITS_AT_ONCE, 8 * b * g * r * 4096)
