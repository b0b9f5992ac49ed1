"""What the compiled programs of a model with large tensors look like on a mesh; nothing of it is computed.

Shapes alone go in, so a tensor may be as large as the question needs. Run by `eight_devices.py`.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.plan.executable import KINDS, exchanges
from pixelthink_jax.rl.logprobs import token_logprobs
from pixelthink_jax.rl.placement import place_batch, place_prompts
from pixelthink_jax.rl.rollout import decode_to_room, prefill_prompts
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.step import StepConfig, make_step
from pixelthink_jax.runtime.mesh import in_use, make_meshes
from pixelthink_jax.runtime.optim import OptimConfig, make_optimizer
from pixelthink_jax.runtime.train_state import planned

MIB = 2**20


def large(config):
    """The same architecture with matrices of 1 to 4 MiB, and fewer values in a step's logits than in any of them."""
    text = replace(
        config.text,
        vocab_size=2048,
        hidden_size=512,
        intermediate_size=1024,
        num_heads=8,
        num_kv_heads=4,
        mrope_section=(8, 8, 16),
    )
    vision = replace(config.vision, out_hidden_size=512)
    return replace(config, text=text, vision=vision)


def shapes_of(config):
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda k: qwen_vl.init_params(config, k, jnp.float32), key)


def placed(shapes, places):
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def largest_in_loops(text, *kinds):
    """Bytes of the largest exchange of these kinds that a loop holds."""
    assert " while(" in text, "the program has no loop"
    return max((each.size for each in exchanges(text) if each.in_loop and each.kind in kinds), default=0)


def decode_loop(config, mesh, prompts, group, rules):
    """Bytes of the largest array that the decode loop gathers, and of the smallest matrix of a layer."""
    layers = jax.eval_shape(qwen_vl.unstack_layers, shapes_of(config))
    params = placed(layers, qwen_vl.tree_shardings(layers, mesh, config))
    count = (
        int(math.prod(prompts.images[0].shape[:3])) // config.vision.patch_size**2 // config.vision.merge_unit
    )
    images = jax.ShapeDtypeStruct((count, config.text.hidden_size), jnp.float32)
    images = placed(images, NamedSharding(mesh, activation_spec("m d", images.shape, mesh.shape)))
    keys = row_keys(0, 0, jnp.arange(prompts.input_ids.shape[0]), group)
    sampling = SamplingConfig(64)

    def loop(params, decoding):
        return decode_to_room(params, decoding, 64, rules, sampling, config, tokens_per_check=1)

    with in_use(mesh):
        begun = prefill_prompts.lower(
            params, images, place_prompts(prompts, mesh), keys, rules, config, room=64
        )
        decoding = placed(begun.out_info, begun.compile().output_shardings)
        text = jax.jit(loop).lower(params, decoding).compile().as_text()
    matrices = [4 * x.size for x in jax.tree.leaves(layers["text"]["blocks"][0]) if x.ndim == 2]
    return largest_in_loops(text, "all-gather"), min(matrices)


def head_gradient(config, mesh):
    """Bytes of the largest exchange between two chunks of positions in the head's gradient, and of the head."""
    params = shapes_of(config)
    params = placed(params, qwen_vl.tree_shardings(params, mesh, config))
    place = NamedSharding(mesh, activation_spec("m d", (4096, config.text.hidden_size), mesh.shape))
    hidden = jax.ShapeDtypeStruct((4096, config.text.hidden_size), jnp.float32, sharding=place)

    def total(params, hidden):
        return token_logprobs(params, hidden, jnp.zeros(4096, jnp.int32), config).logprobs.sum()

    with in_use(mesh):
        text = jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, hidden).compile().as_text()
    assert "all-reduce" in text or "reduce-scatter" in text
    head = qwen_vl.output_head(params, config)
    return largest_in_loops(text, *KINDS), 4 * head.size


def update_places(config, mesh, batch, image_config):
    """Leaves above 1 MiB that the table cuts, and those of them that the compiled update has whole on every chip."""
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3), 10)
    params = shapes_of(config)
    state = planned(params, optimizer)
    wanted = qwen_vl.tree_shardings(state, mesh, config)
    reference = placed(params, qwen_vl.tree_shardings(params, mesh, config))
    step = make_step(StepConfig(remat="full"), config, image_config, optimizer)
    with in_use(mesh):
        compiled = step.lower(placed(state, wanted), {}, reference, place_batch(batch, mesh)).compile()
    found = [compiled.input_shardings[0][0], compiled.output_shardings[0]]
    large_and_cut, whole = 0, []
    paths = jax.tree_util.tree_leaves_with_path(state)
    for places in found:
        for (path, leaf), want, place in zip(
            paths, jax.tree.leaves(wanted), jax.tree.leaves(places), strict=True
        ):
            if leaf.size * leaf.dtype.itemsize > MIB and not want.is_fully_replicated:
                large_and_cut += 1
                if not place.is_equivalent_to(want, leaf.ndim):
                    whole.append(jax.tree_util.keystr(path))
    return large_and_cut, whole


def blank_batch(batch, config):
    """A batch for the larger vocabulary."""
    return replace(batch, banned=np.zeros(config.text.vocab_size, bool))


def blank_rules(rules, config):
    """Rules of the larger vocabulary, all alike."""
    more = config.text.vocab_size - rules.eos.shape[0]
    return replace(
        rules,
        eos=jnp.pad(rules.eos, (0, more)),
        banned=jnp.pad(rules.banned, (0, more)),
        tags=jnp.pad(rules.tags, ((0, 0), (0, more))),
    )


def programs(config, shape, prompts, batch, group, rules, image_config):
    """What `test_meshes.py` asserts about one mesh: of its decode loop and of its update."""
    config = large(config)
    meshes = make_meshes(shape, None, prompts=prompts.input_ids.shape[0], group_size=group)
    gathered, smallest = decode_loop(config, meshes.rollout, prompts, group, blank_rules(rules, config))
    found = {"gathered": gathered, "smallest": smallest, "seen": gathers_of_a_loop_that_has_one(meshes.train)}
    between, head = head_gradient(config, meshes.train)
    found |= {"between_chunks": between, "head": head}
    count, whole = update_places(config, meshes.train, blank_batch(batch, config), image_config)
    found |= {"cut": count, "not_as_said": whole}
    return found


def gathers_of_a_loop_that_has_one(mesh):
    """A loop in which a matrix of 64 x 64 that changes is made whole: what the search above has to see."""
    cut, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))

    def body(_, carry):
        matrix, x = carry
        seen = jax.lax.with_sharding_constraint(matrix, whole)
        return jax.lax.with_sharding_constraint(matrix * jnp.cos(x[0]), cut), jnp.sin(seen @ x)

    matrix = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=cut)
    x = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=whole)
    loop = jax.jit(lambda matrix, x: jax.lax.fori_loop(0, 9, body, (matrix, x)))
    return largest_in_loops(loop.lower(matrix, x).compile().as_text(), "all-gather")
