"""The programs of a step, lowered from shapes and placements for machines that are not there.

The slice is described by libtpu, which holds the compiler of TPUs and runs on any machine (extra `tpu`). Nothing is
executed and no array is made.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.plan.drawing import host_mesh, lower_decoder, lower_encoder
from pixelthink_jax.plan.shapes import Shapes
from pixelthink_jax.plan.topology import Topology
from pixelthink_jax.rl import rollout
from pixelthink_jax.rl.placement import DecodeLayout, planned_batch, planned_prompts
from pixelthink_jax.rl.step import make_step
from pixelthink_jax.rl.token_rules import CLOSE, OPEN, TokenRules
from pixelthink_jax.runtime.mesh import Meshes, in_use, make_meshes
from pixelthink_jax.runtime.optim import make_optimizer

TOKENS_PER_CHECK = 16
"""Tokens between two looks at whether all rows are done, as on accelerators."""

Lowering = Callable[[], Any]
"""Gives a `jax.stages.Lowered`; lowering large programs takes seconds, so it waits until it is asked for."""


def slice_devices(topology: Topology) -> Sequence[Any]:
    """The chips of a slice as the compiler describes them.

    Raises:
        InputError: The compiler does not know the shape.
    """
    # Read by libtpu when it is loaded: it would ask for the machine it runs on and wait for an answer, and refuse to be
    # loaded by two processes, which matters only where there are chips to share.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    assert topology.compiler_name is not None
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.compiler_name).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"topology {topology.name}: the compiler does not know it: {reason}") from error


def run_meshes(shapes: Shapes, devices: Sequence[Any]) -> Meshes:
    """The two layouts of a run on the chips of a slice."""
    config = shapes.config
    return make_meshes(
        config.mesh,
        config.rollout_mesh,
        prompts=config.prompts_per_step,
        group_size=config.group_size,
        micro_batches=config.micro_batches,
        devices=devices,
    )


def step_programs(shapes: Shapes, meshes: Meshes, devices: Sequence[Any]) -> dict[str, Lowering]:
    """The lowering of each program of a step, by name, in the order they run, and of those that draw masks."""
    assert meshes.train is not None and meshes.rollout is not None
    return reshard_programs(shapes, meshes) | {
        "encode": partial(_lower_encode, shapes, meshes),
        "prefill": partial(_lower_prefill, shapes, meshes),
        "decode": partial(_lower_decode, shapes, meshes),
        "update": partial(_lower_update, shapes, meshes.train),
        **drawing_programs(shapes, meshes.train, devices),
    }


def drawing_programs(shapes: Shapes, mesh: Mesh, devices: Sequence[Any]) -> dict[str, Lowering]:
    """The two programs that draw masks, on the chips of a host."""
    own = host_mesh(devices, mesh)
    return {
        "masks: encoder": partial(lower_encoder, shapes.segmenter, own),
        "masks: decoder": partial(lower_decoder, shapes.segmenter, own),
    }


def reshard_programs(shapes: Shapes, meshes: Meshes) -> dict[str, Lowering]:
    """The two programs that make the parameters of the decode loop: one a layer, and one for the rest."""
    assert meshes.train is not None
    params = _placed(shapes.whole, meshes.train, shapes.model)
    layer, others = _decode_layout(shapes, meshes).programs(params)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    return {
        "reshard a layer": lambda: layer.lower(params["text"]["blocks"], index),
        "reshard the rest": lambda: others.lower(qwen_vl.without_blocks(params)),
    }


def _decode_layout(shapes: Shapes, meshes: Meshes) -> DecodeLayout:
    return DecodeLayout(shapes.model, dtype=shapes.config.dtype, train=meshes.train, rollout=meshes.rollout)


def _lower_encode(shapes: Shapes, meshes: Meshes) -> Any:
    params, prompts, _, _ = _rollout_arguments(shapes, meshes)
    with in_use(meshes.rollout):
        return rollout.encode_for_rollout.lower(params, prompts, shapes.model, shapes.image_config)


def _lower_prefill(shapes: Shapes, meshes: Meshes) -> Any:
    params, prompts, keys, rules = _rollout_arguments(shapes, meshes)
    images = _replicated(_image_tokens(shapes, params, prompts, meshes), meshes.rollout)
    room = shapes.completion_tokens
    with in_use(meshes.rollout):
        return rollout.prefill_prompts.lower(params, images, prompts, keys, rules, shapes.model, room=room)


def _lower_decode(shapes: Shapes, meshes: Meshes) -> Any:
    """The loop over the largest room, on the caches as the prefill leaves them."""
    params, prompts, keys, rules = _rollout_arguments(shapes, meshes)
    images, model = _image_tokens(shapes, params, prompts, meshes), shapes.model
    with in_use(meshes.rollout):
        prefill = partial(rollout.prefill_prompts, config=model, room=shapes.completion_tokens)
        begun = jax.eval_shape(prefill, params, images, prompts, keys, rules)
        placed = _lower_prefill(shapes, meshes).compile().output_shardings
        begun = jax.tree.map(_struct, begun, placed)
        return rollout.lower_decode(
            params, begun, rules, shapes.config.sampling, model, tokens_per_check=TOKENS_PER_CHECK
        )


def _lower_update(shapes: Shapes, mesh: Mesh) -> Any:
    config, model = shapes.config, shapes.model
    optimizer = make_optimizer(config.optim, config.steps)
    step = make_step(config.step_config, model, shapes.image_config, optimizer, dtype=jnp.dtype(config.dtype))
    reference = None if shapes.reference is None else _placed(shapes.reference, mesh, model)
    with in_use(mesh):
        return step.lower(
            _placed(shapes.state, mesh, model),
            _placed(shapes.frozen, mesh, model),
            reference,
            planned_batch(shapes.batch, mesh),
        )


def _rollout_arguments(shapes: Shapes, meshes: Meshes) -> tuple[Any, Any, Any, TokenRules]:
    """Parameters, prompts, keys and vocabulary of a rollout."""
    decode = meshes.rollout
    assert decode is not None
    layout = _decode_layout(shapes, meshes)
    params = _placed(jax.eval_shape(layout, shapes.whole), decode, shapes.model)
    b, g = shapes.batch.lengths.shape
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (b, g)))
    rules = _rules(shapes.model)
    return params, planned_prompts(shapes.batch.prompts, decode), *_replicated((keys, rules), decode)


def _rules(model: QwenVLConfig) -> TokenRules:
    def rules() -> TokenRules:
        v = model.text.vocab_size
        return TokenRules(
            eos=jnp.zeros(v, bool),
            banned=jnp.zeros(v, bool),
            tags=jnp.zeros((len(OPEN) + len(CLOSE) + 1, v), jnp.int32),
            close_ids=jnp.zeros(3, jnp.int32),
            pad_id=jnp.int32(0),
        )

    return jax.eval_shape(rules)


def _image_tokens(shapes: Shapes, params: Any, prompts: Any, meshes: Meshes) -> Any:
    encode = partial(rollout.encode_prompt_images, config=shapes.model, image_config=shapes.image_config)
    with in_use(meshes.rollout):
        return jax.eval_shape(encode, params, prompts)


def _placed(tree: Any, mesh: Mesh, model: QwenVLConfig) -> Any:
    """Parameters, or what mirrors them, as shapes with the places of the table."""
    return jax.tree.map(_struct, tree, qwen_vl.tree_shardings(tree, mesh, model))


def _replicated(tree: Any, mesh: Mesh | None) -> Any:
    assert mesh is not None
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: _struct(x, whole), tree)


def _struct(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
