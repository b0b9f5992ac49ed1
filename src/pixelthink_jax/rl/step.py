"""One GRPO update as one jitted function: rewards, advantages, log-probabilities, loss, gradient, update.

    rollout arrays + parsed answers -> rewards -> advantages -.
    prompts, completions -> log-probabilities (policy, reference) -> loss -> gradient -> clip -> update

Each prompt and its image are computed once for its whole group. Gradients are summed over micro-batches of whole
groups, weighed so that the sum is the gradient of the whole batch whatever the number of micro-batches.

One update follows each rollout, so the policy that is trained is the policy that sampled: the old log-probabilities
are its own, held constant, and no pass is made for them. The distance of the sampler's from them is a metric.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import on_axes
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl import QwenVLConfig, VisionLayout
from pixelthink_jax.models.remat import Remat
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.rl.advantages import group_advantages
from pixelthink_jax.rl.group_logprobs import group_logprobs
from pixelthink_jax.rl.logprobs import TokenScores
from pixelthink_jax.rl.losses import token_weights
from pixelthink_jax.rl.objective import LossConfig, objective
from pixelthink_jax.rl.rewards import RewardConfig, RewardInputs, group_rewards
from pixelthink_jax.rl.rollout import PromptArrays, encode_prompt_images
from pixelthink_jax.runtime.train_state import TrainState, updated

Metrics = dict[str, Array]
Step = jax.stages.Wrapped
"""A jitted `(state, frozen, reference, batch) -> (state, metrics)`."""


@dataclass(frozen=True)
class StepConfig:
    """How a batch of groups becomes an update.

    Attributes:
        reward: What a completion is paid for.
        loss: What is minimised.
        micro_batches: Parts the prompts of a step are cut into, one after another, to save memory.
        temperature: Of the sampling.
        freeze_vision: The vision tower is not among what is trained: images are encoded once for policy and reference.
        remat: What blocks keep for the backward pass; the rest is computed once more, which saves memory.
        unroll: Unroll the layer scan: faster for tiny models on CPU, slower to compile.
        gradient_dtype: What the gradients of micro-batches are added up in. bfloat16 saves two bytes a parameter; each
            of the `micro_batches` additions then rounds to 2^-9 of the sum.
    """

    reward: RewardConfig = field(default_factory=RewardConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    micro_batches: int = 1
    temperature: float = 1.0
    freeze_vision: bool = False
    remat: Remat = "none"
    unroll: bool = False
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.micro_batches < 1:
            raise InputError(f"micro_batches must be at least 1, got {self.micro_batches}")
        if not self.temperature > 0:
            raise InputError(f"temperature must be positive in training, got {self.temperature}")


@struct.dataclass
class StepBatch:
    """A rollout and what the host read in it.

    Attributes:
        prompts: The prompts, as they were sampled from.
        layout: Where the patches of one micro-batch go; `prompts.layout` where there is one micro-batch only.
        tokens: Completions.
        lengths: Their tokens, the end token included.
        sampler_logprobs: Log-probabilities as sampled.
        rewards: What the rewards are computed from.
        banned: Tokens the sampler never draws.
        reference_logprobs: Log-probabilities under the reference where `make_reference_pass` made them; None where the
            step is to make them.
    """

    prompts: PromptArrays
    layout: VisionLayout
    tokens: Int[AnyArray, "b g r"]
    lengths: Int[AnyArray, "b g"]
    sampler_logprobs: Float[AnyArray, "b g r"]
    rewards: RewardInputs
    banned: Bool[AnyArray, " v"]
    reference_logprobs: Float[AnyArray, "b g r"] | None = None


@struct.dataclass
class _Part:
    """What the loss of some of the groups needs; leaves begin with the prompts, or with micro-batches of them."""

    input_ids: Int[Array, "*m b t"]
    prompt_mask: Bool[Array, "*m b t"]
    positions: Int[Array, "*m b 3 t"]
    images: tuple[Array, ...]
    tokens: Int[Array, "*m b g r"]
    mask: Bool[Array, "*m b g r"]
    weights: Float[Array, "*m b g r"]
    advantages: Float[Array, "*m b g"]
    sampler_logprobs: Float[Array, "*m b g r"]
    reference_logprobs: Float[Array, "*m b g r"] | None = None


def make_step(
    config: StepConfig,
    model: QwenVLConfig,
    image_config: ImageConfig,
    optimizer: optax.GradientTransformation,
    *,
    dtype: Any = None,
) -> Step:
    """Builds `step(state, frozen, reference, batch) -> (state, metrics)`, jitted with the state donated.

    Args:
        config: The update.
        model: The policy's architecture.
        image_config: How pixels become patches.
        optimizer: Gradient transformation, clipping included.
        dtype: Dtype to compute in; None takes that of the parameters.

    Returns:
        The step. `frozen` holds the parameters that are not trained (`qwen_vl.trained`), `reference` all those of the
        reference policy, which may share leaves with `frozen`; it is None where `loss.kl_coef` is 0, or where the batch
        brings what the reference says.
    """
    loss_of = partial(_loss, config=config, model=model, image_config=image_config, dtype=dtype)

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, frozen: Any, reference: Any, batch: StepBatch) -> tuple[TrainState, Metrics]:
        rewards = group_rewards(batch.rewards, config.reward)
        advantages = group_advantages(rewards["reward"], standardised=config.loss.shape.standardised)
        parts = _parts(batch, advantages, config)
        fixed = partial(loss_of, frozen, reference)
        grads, sums = _summed_gradients(fixed, state.params, parts, batch, model, config.gradient_dtype)
        metrics = {**sums, **_reward_metrics(rewards, advantages, batch)}
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return qwen_vl.on_rules(updated(state, grads, optimizer), model), metrics

    return step


def make_reference_pass(
    config: StepConfig, model: QwenVLConfig, image_config: ImageConfig, *, dtype: Any = None
) -> Callable[[Any, StepBatch], Float[Array, "b g r"]]:
    """Builds `score(reference, batch) -> log-probabilities`, jitted: the reference's part of the step by itself.

    With it the reference need not be in memory during the update, at the price of encoding images once more where the
    vision tower is not trained. Arguments as `make_step`.
    """
    scores = partial(_scores, config=config, model=model, image_config=image_config, dtype=dtype)

    @jax.jit
    def score(reference: Any, batch: StepBatch) -> Float[Array, "b g r"]:
        parts = _parts(batch, jnp.zeros(batch.lengths.shape), config)
        banned = jnp.asarray(batch.banned)
        found = jax.lax.map(lambda part: scores(reference, part, batch.layout, banned).logprobs, parts)
        return found.reshape(batch.tokens.shape)

    return score


def _scores(
    params: Any,
    part: _Part,
    layout: VisionLayout,
    banned: Bool[Array, " v"],
    images: Array | None = None,
    *,
    config: StepConfig,
    model: QwenVLConfig,
    image_config: ImageConfig,
    dtype: Any,
) -> TokenScores:
    """Scores `[b, g, r]` of the completions of some groups; `images` are encoded here where they are not given."""
    run = {"dtype": dtype, "remat": config.remat, "unroll": config.unroll}
    prompts = _prompts(part, layout)
    if images is None:
        images = encode_prompt_images(params, prompts, model, image_config, **run)
    return group_logprobs(
        params,
        prompts,
        images,
        part.tokens,
        part.mask,
        model,
        temperature=config.temperature,
        banned=banned,
        **run,
    )


def _prompts(part: _Part, layout: VisionLayout) -> PromptArrays:
    return PromptArrays(
        input_ids=part.input_ids,
        mask=part.prompt_mask,
        positions=part.positions.swapaxes(0, 1),
        images=part.images,
        layout=layout,
        forced=jnp.zeros((part.input_ids.shape[0], 0), jnp.int32),
    )


def _loss(
    frozen: Any,
    reference: Any,
    trained: Any,
    part: _Part,
    layout: VisionLayout,
    banned: Bool[Array, " v"],
    *,
    config: StepConfig,
    model: QwenVLConfig,
    image_config: ImageConfig,
    dtype: Any,
) -> tuple[Float[Array, ""], Metrics]:
    """The share of some groups in the loss of the batch, and in its metrics."""
    params = qwen_vl.whole_params(trained, frozen)
    scores = partial(_scores, config=config, model=model, image_config=image_config, dtype=dtype)
    images = encode_prompt_images(
        params,
        _prompts(part, layout),
        model,
        image_config,
        dtype=dtype,
        remat=config.remat,
        unroll=config.unroll,
    )
    reference_logprobs = part.reference_logprobs
    if config.loss.kl_coef > 0 and reference_logprobs is None:
        seen = images if config.freeze_vision else None
        reference_logprobs = scores(reference, part, layout, banned, seen).logprobs
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    own = jax.tree.map(flat, scores(params, part, layout, banned, images))
    mask, weights = flat(part.mask), flat(part.weights)
    loss, metrics = objective(
        config.loss,
        logprobs=own.logprobs,
        entropies=own.entropies,
        old_logprobs=jax.lax.stop_gradient(own.logprobs),
        reference_logprobs=None
        if reference_logprobs is None
        else jax.lax.stop_gradient(flat(reference_logprobs)),
        advantages=part.advantages.reshape(-1),
        mask=mask,
        weights=weights,
    )
    drift = jnp.where(mask, jnp.abs(own.logprobs - flat(part.sampler_logprobs)), 0.0)
    metrics["sampler_drift"] = jnp.sum(weights * jax.lax.stop_gradient(drift))
    return loss, metrics


def _parts(batch: StepBatch, advantages: Float[Array, "b g"], config: StepConfig) -> _Part:
    """The batch cut into micro-batches: leaves `[micro, b / micro, ...]`, weights those of the whole batch."""
    b, _, r = batch.tokens.shape
    mask = jnp.arange(r)[None, None] < jnp.asarray(batch.lengths)[..., None]
    weights = token_weights(mask.reshape(-1, r), config.loss.shape.aggregation, longest=r)
    whole = _Part(
        input_ids=jnp.asarray(batch.prompts.input_ids),
        prompt_mask=jnp.asarray(batch.prompts.mask),
        positions=jnp.asarray(batch.prompts.positions).swapaxes(0, 1),
        images=tuple(map(jnp.asarray, batch.prompts.images)),
        tokens=jnp.asarray(batch.tokens),
        mask=mask,
        weights=weights.reshape(mask.shape),
        advantages=advantages,
        sampler_logprobs=jnp.asarray(batch.sampler_logprobs),
        reference_logprobs=None
        if batch.reference_logprobs is None
        else jnp.asarray(batch.reference_logprobs),
    )
    if config.micro_batches == 1:
        return _spread(jax.tree.map(lambda x: x[None], whole))
    if b % config.micro_batches or any(len(stack) != b for stack in batch.prompts.images):
        raise InputError(
            f"micro_batches {config.micro_batches}: {b} prompts with images in stacks of "
            f"{[len(stack) for stack in batch.prompts.images]} cannot be cut evenly; use a divisor of the number of "
            "prompts, and images of one size"
        )
    return _spread(jax.tree.map(lambda x: x.reshape(config.micro_batches, -1, *x.shape[1:]), whole))


def _spread(parts: _Part) -> _Part:
    """Micro-batches follow one another, so it is within them that prompts and completions are shared out."""

    def place(x: Array, group: str) -> Array:
        rest = [group, *"........"][: x.ndim - 2]
        return on_axes(x, " ".join(["micro", "b", *rest]))

    of_groups = ["tokens", "mask", "weights", "advantages", "sampler_logprobs"]
    if parts.reference_logprobs is not None:
        of_groups.append("reference_logprobs")
    placed = {name: place(getattr(parts, name), "g") for name in of_groups}
    of_prompts = ("input_ids", "prompt_mask", "positions")
    placed |= {name: place(getattr(parts, name), ".") for name in of_prompts}
    return dataclasses.replace(parts, **placed, images=tuple(place(stack, ".") for stack in parts.images))


def _summed_gradients(
    loss_of: Any, trained: Any, parts: _Part, batch: StepBatch, model: QwenVLConfig, dtype: str
) -> tuple[Any, Metrics]:
    """Gradient, in `dtype`, and metrics summed over the micro-batches, one at a time."""

    def grad(trained: Any, part: _Part) -> tuple[Any, Metrics]:
        of_part = jax.grad(lambda trained: loss_of(trained, part, batch.layout, batch.banned), has_aux=True)
        grads, metrics = of_part(trained)
        return qwen_vl.on_rules(grads, model), metrics

    first = jax.tree.map(lambda x: x[0], parts)
    if parts.tokens.shape[0] == 1:
        return grad(trained, first)

    def add(total: Any, part: _Part) -> tuple[Any, None]:
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, grad(trained, part)), None

    grads, metrics = jax.eval_shape(grad, trained, first)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), grads)
    nothing = nothing, jax.tree.map(lambda x: jnp.zeros(x.shape), metrics)
    return jax.lax.scan(add, nothing, parts)[0]


def _reward_metrics(
    rewards: dict[str, Float[Array, "b g"]], advantages: Float[Array, "b g"], batch: StepBatch
) -> Metrics:
    """Means over completions of everything that was paid for, and how advantage goes with length."""
    used = jnp.asarray(batch.rewards.length_used)
    budget = rewards["length_budget"]
    metrics = {name: values.mean() for name, values in rewards.items() if name != "length_budget"}
    return metrics | {
        "length_used": used.mean(),
        "over_budget": (used > budget).mean(),
        "completion_tokens": batch.lengths.mean(),
        "uncertainty": jnp.asarray(batch.rewards.uncertainty).mean(),
        "advantage_length_correlation": _correlation(advantages.reshape(-1), used.reshape(-1)),
        "groups_without_signal": jnp.all(advantages == 0, axis=1).mean(),
    }


def _correlation(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """Pearson's; 0 where either does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2))
    return jnp.where(scale > 0, jnp.sum(x * y) / jnp.where(scale > 0, scale, 1.0), 0.0)
