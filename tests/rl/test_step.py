"""The update against one that repeats every prompt, and what must not change it."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.processing.patches import patchify
from pixelthink_jax.rl.accuracy import answer_arrays, solution_arrays
from pixelthink_jax.rl.advantages import group_advantages
from pixelthink_jax.rl.losses import clipped_policy_loss, entropy, kl_estimate
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.rewards import RewardInputs
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.step import StepBatch, StepConfig, make_reference_pass, make_step
from pixelthink_jax.runtime.train_state import begin
from tests.models.qwen_small import gradient_difference
from tests.rl.tiny_policy import QUERIES, SIZES, pictures, tiny_policy

GROUP, TOKENS = 3, 8
SOLUTION = "<box>(1,2),(9,9)</box><points>(3,3),(5,5)</points>"
LOSS = LossConfig(kl_coef=0.3, entropy_coef=0.1)
ALONE = LossConfig(kl_coef=0.0, entropy_coef=0.0)
ONE_SIZE = ((28, 42),) * 2


def rolled_out(sizes, micro_batches=1):
    """A rollout of the tiny policy with rewards that differ, and completions of different lengths."""
    policy = tiny_policy()
    prompts = [
        policy.processor.prompt(image, query) for image, query in zip(pictures(sizes), QUERIES, strict=False)
    ]
    arrays = policy.prompt_arrays(prompts)
    count = len(prompts)
    keys = row_keys(0, 0, jnp.arange(count), GROUP)
    rollout = policy.rollout(arrays, keys, SamplingConfig(TOKENS))
    rng = np.random.default_rng(0)
    lengths = jnp.minimum(rollout.lengths, rng.integers(1, TOKENS + 1, (count, GROUP)).astype(np.int32))
    answers = answer_arrays([parse_completion("nothing")] * (count * GROUP))
    inputs = RewardInputs(
        answers=jax.tree.map(lambda x: x.reshape(count, GROUP, *x.shape[1:]), answers),
        truths=solution_arrays([SOLUTION] * count),
        difficulty=np.full(count, 2.0, np.float32),
        uncertainty=np.asarray(rollout.uncertainty),
        length_used=rng.integers(50, 300, (count, GROUP)).astype(np.float32),
        custom=rng.normal(3, 1, (count, GROUP)).astype(np.float32),
    )
    part = policy.prompt_arrays(prompts[: count // micro_batches])
    batch = StepBatch(
        prompts=arrays,
        layout=part.layout,
        tokens=rollout.tokens,
        lengths=lengths,
        sampler_logprobs=rollout.logprobs,
        rewards=inputs,
        banned=policy.rules.banned,
    )
    return batch, policy.processor.batch(prompts).image_grid_thw


def reference_params():
    return jax.tree.map(lambda x: x * 0.97, tiny_policy().params)


DESCENT = optax.sgd(1.0)


@cache
def compiled_step(config):
    policy = tiny_policy()
    return make_step(config, policy.config, policy.processor.image_config, DESCENT)


def update(config, batch):
    """The gradient, as one step of plain descent takes it, and the metrics."""
    policy = tiny_policy()
    trained, frozen = qwen_vl.split_params(policy.params, "text/" if config.freeze_vision else "")
    params = jax.tree.map(jnp.copy, trained)
    reference = reference_params() if config.loss.kl_coef else None
    after, metrics = compiled_step(config)(begin(params, DESCENT), frozen, reference, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    gradient = jax.tree.map(lambda a, b: np.asarray(a - b), trained, after.params)
    return gradient, jax.device_get(metrics)


def unshared_scores(params, batch, grids):
    """Logits of all completions when each carries a prompt and an image of its own, and the mask."""
    policy, prompts = tiny_policy(), batch.prompts
    b, g, r = batch.tokens.shape
    repeat = lambda x: jnp.repeat(x, g, axis=0)  # noqa: E731
    pixels = [patchify(repeat(s), image_config=policy.processor.image_config) for s in prompts.images]
    layout = qwen_vl.vision_layout(np.repeat(grids, g, axis=0), policy.config.vision)
    images = qwen_vl.encode_images(params, jnp.concatenate(pixels), layout, policy.config)
    ids = jnp.concatenate([repeat(prompts.input_ids), batch.tokens.reshape(b * g, r)], axis=1)
    mask = jnp.arange(r)[None] < batch.lengths.reshape(-1, 1)
    start = jnp.max(jnp.where(prompts.mask, prompts.positions, -1), axis=(0, 2)) + 1
    own = jnp.broadcast_to(repeat(start)[:, None] + jnp.arange(r)[None], (3, b * g, r))
    positions = jnp.concatenate([jnp.repeat(prompts.positions, g, axis=1), own], axis=2)
    embeds = qwen_vl.embed_prompt(params, ids, images, policy.config)
    real = jnp.concatenate([repeat(prompts.mask), mask], axis=1)
    hidden = qwen_vl.forward(params, embeds, positions, real, policy.config)
    logits = qwen_vl.logits(params, hidden[:, -r - 1 : -1], policy.config)
    return jnp.where(batch.banned[None, None], -1e9, logits), mask


def plain_loss(params, batch, grids):
    """The released loss from whole rows, through the functions that equal the reference implementation."""

    def chosen(logits):
        logp = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(logp, batch.tokens.reshape(-1, TOKENS, 1), axis=-1)[..., 0]

    logits, mask = unshared_scores(params, batch, grids)
    reference, _ = unshared_scores(reference_params(), batch, grids)
    # No answer is readable: the reward is the custom one times the released length score at a budget of 96.
    score = jnp.clip(1 - 0.002 * (batch.rewards.length_used - 96), 0, 1)
    advantages = group_advantages(batch.rewards.custom * score).reshape(-1)
    logprobs = chosen(logits)
    policy, _ = clipped_policy_loss(logprobs, jax.lax.stop_gradient(logprobs), advantages, mask)
    kl = kl_estimate(logprobs, chosen(reference), mask)
    return jnp.mean(policy - LOSS.entropy_coef * entropy(logits, mask) + LOSS.kl_coef * kl)


def test_value_and_gradient_equal_repeated_prompts_of_several_sizes():
    batch, grids = rolled_out(SIZES)
    gradient, metrics = update(StepConfig(loss=LOSS), batch)
    loss, plain = jax.jit(jax.value_and_grad(lambda p: plain_loss(p, batch, grids)))(tiny_policy().params)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert gradient_difference(gradient, plain) < 1e-5


def test_sampler_and_trainer_agree_so_the_ratio_is_one():
    batch, _ = rolled_out(SIZES)
    _, metrics = update(StepConfig(loss=LOSS), batch)
    assert np.expm1(metrics["sampler_drift"]) < 1e-5
    assert metrics["clip_fraction"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"remat": "dots"},
        {"remat": "dots_except_mlp"},
        {"remat": "full"},
        {"unroll": True},
        {"micro_batches": 2},
    ],
)
def test_how_it_is_computed_changes_nothing(options):
    micro_batches = options.get("micro_batches", 1)
    batch, _ = rolled_out(ONE_SIZE, micro_batches)
    whole, _ = rolled_out(ONE_SIZE)
    gradient, metrics = update(StepConfig(loss=LOSS), whole)
    other, other_metrics = update(StepConfig(loss=LOSS, **options), batch)
    assert gradient_difference(other, gradient) < 1e-5
    for name, value in metrics.items():
        assert other_metrics[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_a_reference_scored_by_itself_and_gradients_summed_in_bfloat16():
    policy, config = tiny_policy(), StepConfig(loss=LOSS, micro_batches=2)
    batch, _ = rolled_out(ONE_SIZE, 2)
    gradient, metrics = update(config, batch)
    score = make_reference_pass(config, policy.config, policy.processor.image_config)
    scored = batch.replace(reference_logprobs=score(reference_params(), batch))
    coarse = dataclasses.replace(config, gradient_dtype="bfloat16")
    # The tree has no reference to read: what the batch brings is all there is.
    trained = jax.tree.map(jnp.copy, policy.params)
    after, found = make_step(coarse, policy.config, policy.processor.image_config, DESCENT)(
        begin(trained, DESCENT), {}, None, scored
    )
    for name, value in metrics.items():
        assert float(found[name]) == pytest.approx(
            float(value), rel=1e-2 if name == "gradient_norm" else 1e-5, abs=1e-6
        )
    difference = gradient_difference(
        jax.tree.map(lambda a, b: np.asarray(a - b), policy.params, after.params), gradient
    )
    assert 1e-4 < difference < config.micro_batches * 2**-8


def test_a_frozen_tower_stays_as_it_is_and_the_rest_learns_the_same():
    batch, _ = rolled_out(ONE_SIZE)
    # With a reference the two would differ: it then sees the image as the policy does.
    free, _ = update(StepConfig(loss=ALONE), batch)
    still, _ = update(StepConfig(loss=ALONE, freeze_vision=True), batch)
    assert set(still) == {"text"}
    assert gradient_difference(still["text"], free["text"]) < 1e-5


def test_equal_rewards_teach_nothing():
    batch, _ = rolled_out(ONE_SIZE)
    equal = batch.rewards.replace(custom=None, length_used=np.full((2, GROUP), 900.0, np.float32))
    gradient, metrics = update(StepConfig(loss=ALONE), batch.replace(rewards=equal))
    assert metrics["groups_without_signal"] == 1
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_micro_batches_that_do_not_divide_are_refused():
    batch, _ = rolled_out(ONE_SIZE)
    with pytest.raises(InputError, match="micro_batches 3: 2 prompts"):
        update(StepConfig(loss=LOSS, micro_batches=3), batch)
