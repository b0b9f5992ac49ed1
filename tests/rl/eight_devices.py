"""The tiny policy on one device and on meshes of eight: run by `test_meshes.py` in a process with eight CPU devices.

Prints one JSON object for each mesh: the largest differences, then what the compiled programs of others look like.
All meshes and everything that can be compared, with eight devices in XLA_FLAGS:

    python -m tests.rl.eight_devices '[[[8,1,1],8,1,["segmentation","evaluation"]], ...]' '[[1,8,1],[1,4,2]]'

There must be a case of 8 prompts and 1 micro-batch.
"""

import json
import re
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.sam2.sharding import sharding_for
from pixelthink_jax.policy import Policy
from pixelthink_jax.rl import logprobs
from pixelthink_jax.rl.accuracy import answer_arrays, solution_arrays
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.placement import DecodeLayout, place_batch, place_prompts
from pixelthink_jax.rl.rewards import RewardInputs
from pixelthink_jax.rl.rollout import sample_completions
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.step import StepBatch, StepConfig, make_step
from pixelthink_jax.runtime.mesh import MeshConfig, Meshes, in_use, make_meshes
from pixelthink_jax.runtime.train_state import begin
from pixelthink_jax.segmenter import Segmenter
from tests.evaluation import tiny
from tests.models.qwen_small import gradient_difference, named_params
from tests.rl.compiled_programs import programs
from tests.rl.tiny_policy import pictures, tiny_config, tiny_processor

GROUP, TOKENS = 4, 10
PROMPTS = 8
SOLUTION = "<box>(1,2),(9,9)</box><points>(3,3),(5,5)</points>"
CONFIG = tiny_config(tiny_processor(), hidden=64)
DESCENT = optax.chain(optax.trace(0.9), optax.sgd(1.0))


def policy():
    return Policy(CONFIG, jax.tree.map(jnp.asarray, named_params(CONFIG)), loaded_processor=tiny_processor())


def questions(count):
    words = ["red", "blue", "green", "cup"]
    return [
        tiny_processor().prompt(image, " ".join(words[: 1 + i % 4]))
        for i, image in enumerate(pictures(((28, 42),) * count))
    ]


def rolled_out(owner, meshes, prompts):
    arrays = owner.prompt_arrays(prompts)
    keys = row_keys(0, 0, jnp.arange(len(prompts)), GROUP)
    layout = DecodeLayout(CONFIG, dtype=None, train=meshes.train, rollout=meshes.rollout)
    params = owner.params
    if meshes.train is not None:
        params = jax.device_put(params, qwen_vl.tree_shardings(params, meshes.train, CONFIG))
    decode = layout(params)
    with in_use(meshes.rollout):
        return jax.device_get(
            sample_completions(
                decode,
                place_prompts(arrays, meshes.rollout),
                keys,
                owner.rules,
                SamplingConfig(TOKENS),
                CONFIG,
                owner.processor.image_config,
                tokens_per_check=1,
            )
        )


def batch_of(owner, prompts, rollout, micro_batches):
    count = len(prompts)
    rng = np.random.default_rng(0)
    answers = answer_arrays([parse_completion("nothing")] * (count * GROUP))
    inputs = RewardInputs(
        answers=jax.tree.map(lambda x: x.reshape(count, GROUP, *x.shape[1:]), answers),
        truths=solution_arrays([SOLUTION] * count),
        difficulty=np.full(count, 2.0, np.float32),
        uncertainty=np.asarray(rollout.uncertainty),
        length_used=rng.integers(50, 300, (count, GROUP)).astype(np.float32),
        custom=rng.normal(3, 1, (count, GROUP)).astype(np.float32),
    )
    return StepBatch(
        prompts=owner.prompt_arrays(prompts),
        layout=owner.prompt_arrays(prompts[: count // micro_batches]).layout,
        tokens=rollout.tokens,
        lengths=rng.integers(1, TOKENS + 1, (count, GROUP)).astype(np.int32),
        sampler_logprobs=rollout.logprobs,
        rewards=inputs,
        banned=owner.rules.banned,
    )


def update(owner, meshes, batch, micro_batches):
    """The step that plain descent takes, which is the gradient, the metrics, and the compiled program."""
    config = StepConfig(
        loss=LossConfig(kl_coef=0.3, entropy_coef=0.1), micro_batches=micro_batches, remat="full"
    )
    step = make_step(config, CONFIG, owner.processor.image_config, DESCENT)
    reference = jax.tree.map(lambda x: x * 0.97, owner.params)
    place = None
    if meshes.train is not None:
        place = lambda tree: qwen_vl.tree_shardings(tree, meshes.train, CONFIG)  # noqa: E731
        reference = jax.device_put(reference, place(reference))
    state = begin(jax.tree.map(jnp.copy, owner.params), DESCENT, shardings=place)
    with in_use(meshes.train):
        placed = place_batch(batch, meshes.train)
        compiled = step.lower(state, {}, reference, placed).compile()
        after, metrics = compiled(state, {}, reference, placed)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), owner.params, after.params)
    return gradient, jax.device_get(metrics), after, compiled


def whole_leaves(state, mesh):
    """Leaves that the table cuts and the program left whole."""
    wanted = qwen_vl.tree_shardings(state, mesh, CONFIG)
    flat = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(wanted), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, leaf), place in flat
        if not leaf.sharding.is_equivalent_to(place, leaf.ndim)
    ]


def metric_difference(name, found, expected):
    """Relative to the metric, or to what it is a difference of: the drift is one of log-probabilities."""
    scale = expected["entropy"] if name == "sampler_drift" else max(abs(expected[name]), 1e-2)
    return float(abs(found - expected[name]) / scale)


@cache
def drawn(mesh):
    """Logits of the masks of eight prompts, and the masks."""
    plain = tiny.tiny_segmenter()
    places = sharding_for(mesh) if mesh is not None else None
    params = read_params_of(plain, places)
    found = Segmenter(params, plain.config).predict_batch(
        pictures(((70, 90), (64, 64), (90, 50), (64, 64)) * 2, seed=3),
        [(5.0, 6.0, 40.0, 44.0)] * 8,
        [((10.0 + i, 20.0),) for i in range(8)],
    )
    return np.stack([masks.logits for masks in found]), [masks.masks for masks in found]


def read_params_of(segmenter, places):
    if places is None:
        return segmenter.params

    def place(path, leaf):
        return jax.device_put(leaf, places("/".join(str(key.key) for key in path), leaf.shape))

    return jax.tree_util.tree_map_with_path(place, segmenter.params)


def segmentation_difference(mesh):
    """Of the logits, relative; and pixels that differ."""
    (logits, masks), (expected, truth) = drawn(mesh), drawn(None)
    pixels = sum(int((a != b).sum()) for a, b in zip(masks, truth, strict=True))
    return [float(np.abs(logits - expected).max() / np.abs(expected).max()), pixels]


@cache
def evaluated(mesh):
    """Completions and masks of an evaluation."""
    owner = tiny.tiny_policy()
    if mesh is not None:
        owner = owner.with_params(
            jax.device_put(owner.params, qwen_vl.tree_shardings(owner.params, mesh, owner.config))
        )
    rows = evaluate_policy(
        owner, [ShapeReason("tuning")[i] for i in range(5)], generation=Generation(12, batch_size=4)
    )
    return [(row.id, row.text) for row in rows], [row.uncertainty for row in rows]


def evaluation_difference(mesh):
    (texts, found), (expected, uncertainty) = evaluated(mesh), evaluated(None)
    return [
        sum(a != b for a, b in zip(texts, expected, strict=True)),
        float(np.abs(np.subtract(found, uncertainty)).max()),
    ]


PARTS = {"segmentation": segmentation_difference, "evaluation": evaluation_difference}


def compare(shape, prompts_per_step, micro_batches, parts, plain):
    owner, prompts = policy(), questions(prompts_per_step)
    meshes = make_meshes(
        MeshConfig(*shape), None, prompts=prompts_per_step, group_size=GROUP, micro_batches=micro_batches
    )
    rollout, (gradient, metrics) = plain
    other = rolled_out(owner, meshes, prompts)
    batch = batch_of(owner, prompts, rollout, micro_batches)
    moved, measured, after, compiled = update(owner, meshes, batch, micro_batches)
    text = compiled.as_text()
    return {
        "shape": list(shape),
        "axes": list(meshes.train.axis_names),
        "tokens_differ": int((other.tokens != rollout.tokens).sum()),
        "logprobs": float(np.abs(other.logprobs - rollout.logprobs).max()),
        "smallest_gap": float(rollout.gaps[rollout.mask].min()),
        "gradient": float(gradient_difference(moved, gradient)),
        "metrics": max((metric_difference(name, measured[name], metrics), name) for name in metrics),
        **{part: PARTS[part](meshes.train) for part in parts},
        "whole": whole_leaves(after, meshes.train),
        "collectives": sorted(set(re.findall(r" (all-[a-z]+|reduce-scatter|collective-permute)", text))),
    }


def main():
    # A few positions a chip at once, so that the vocabulary projection goes through several chunks of them.
    logprobs.LOGITS_AT_ONCE = 7 * CONFIG.text.vocab_size
    cases = json.loads(sys.argv[1])
    plain = {}
    for shape, count, micro, parts in cases:
        if (count, micro) not in plain:
            owner = policy()
            rollout = rolled_out(owner, Meshes(None, None), questions(count))
            batch = batch_of(owner, questions(count), rollout, micro)
            plain[count, micro] = rollout, update(owner, Meshes(None, None), batch, micro)[:2]
        print(json.dumps(compare(shape, count, micro, parts, plain[count, micro])), flush=True)
    owner = policy()
    arrays, batch = (
        owner.prompt_arrays(questions(PROMPTS)),
        batch_of(owner, questions(PROMPTS), plain[PROMPTS, 1][0], 1),
    )
    for shape in json.loads(sys.argv[2]):
        place = owner.processor.image_config
        found = programs(CONFIG, MeshConfig(*shape), arrays, batch, GROUP, owner.rules, place)
        print(json.dumps(found | {"program": shape}), flush=True)


if __name__ == "__main__":
    main()
