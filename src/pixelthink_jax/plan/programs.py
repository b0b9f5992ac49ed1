"""The programs of a step compiled ahead of time for a TPU slice that is not there: the compiler's own verdict.

`libtpu` holds the compiler of TPUs and runs on any machine (extra `tpu`). Nothing is executed: a program is lowered from
shapes and placements, and what it says of memory and of traffic between chips is read from the executable.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.plan.shapes import Shapes
from pixelthink_jax.rl import rollout
from pixelthink_jax.rl.placement import DecodeLayout, planned_batch, planned_prompts
from pixelthink_jax.rl.step import make_step
from pixelthink_jax.rl.token_rules import CLOSE, OPEN, TokenRules
from pixelthink_jax.runtime.mesh import Meshes, in_use
from pixelthink_jax.runtime.optim import make_optimizer


def _on(tree: Any, mesh: Mesh, model: Any, dtype: Any = None) -> Any:
    """Parameters, or what mirrors them, as shapes with the places of the table."""
    place = lambda x, where: jax.ShapeDtypeStruct(  # noqa: E731
        x.shape, dtype or x.dtype, sharding=where
    )
    return jax.tree.map(place, tree, qwen_vl.tree_shardings(tree, mesh, model))


def _everywhere(tree: Any, mesh: Mesh) -> Any:
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)


def _rules(vocab: int) -> Any:
    states = len(OPEN) + len(CLOSE) + 1
    shape = jax.ShapeDtypeStruct
    return TokenRules(
        eos=shape((vocab,), jnp.bool_),
        banned=shape((vocab,), jnp.bool_),
        tags=shape((states, vocab), jnp.int32),
        close_ids=shape((3,), jnp.int32),
        pad_id=shape((), jnp.int32),
    )


def lowered_programs(shapes: Shapes, meshes: Meshes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and lowering of each program of a step, in the order they run."""
    config, model = shapes.config, shapes.model
    train, decode = meshes.train, meshes.rollout
    dtype = jnp.dtype(config.dtype)
    params = _on(shapes.whole, train, model)
    layout = DecodeLayout(model, dtype=config.dtype, train=train, rollout=decode)
    layer, others = layout.programs(params)
    blocks, index = params["text"]["blocks"], jax.ShapeDtypeStruct((), jnp.int32)
    yield "reshard a layer", lambda: layer.lower(blocks, index)
    yield "reshard the rest", lambda: others.lower(qwen_vl.without_blocks(params))
    per_layer = _on(jax.eval_shape(layout, shapes.whole), decode, model)
    prompts = planned_prompts(shapes.batch.prompts, decode)
    b, g, r = shapes.batch.tokens.shape
    rules = _everywhere(_rules(model.text.vocab_size), decode)

    def encode():
        with in_use(decode):
            return rollout.encode_for_rollout.lower(per_layer, prompts, model, shapes.image_config)

    yield "encode", encode
    keys = _everywhere(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (b, g))), decode)

    def prefill_args():
        with in_use(decode):
            images = jax.eval_shape(
                partial(rollout.encode_prompt_images, config=model, image_config=shapes.image_config),
                per_layer,
                prompts,
            )
        return per_layer, _everywhere(images, decode), prompts, keys, rules, model

    def prefill():
        args = prefill_args()
        with in_use(decode):
            return rollout.prefill_prompts.lower(*args, room=r)

    yield "prefill", prefill

    def decode_program():
        args = prefill_args()
        with in_use(decode):
            compiled = prefill().compile()
            begun = jax.eval_shape(partial(rollout.prefill_prompts, config=model, room=r), *args[:-1])
            begun = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                begun,
                compiled.output_shardings,
            )
            return rollout._run.lower(
                per_layer,
                begun.prefix,
                begun.state,
                begun.keys,
                begun.forced,
                begun.next_position,
                rules,
                jax.ShapeDtypeStruct((), jnp.float32),
                None,
                jax.ShapeDtypeStruct((), jnp.int32),
                model,
                greedy=False,
                top_k=config.sampling.top_k,
                tokens_per_check=16,
            )

    yield "decode", decode_program

    def update():
        step = make_step(
            config.step_config,
            model,
            shapes.image_config,
            make_optimizer(config.optim, config.steps),
            dtype=dtype,
        )
        state = _on(shapes.state, train, model)
        frozen = _on(shapes.frozen, train, model)
        reference = None if shapes.reference is None else _on(shapes.reference, train, model)
        batch = planned_batch(shapes.batch, train)
        with in_use(train):
            return step.lower(state, frozen, reference, batch)

    yield "update", update
