"""The named losses against their papers' formulas, on arrays alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.rl.advantages import group_advantages
from pixelthink_jax.rl.losses import token_weights
from pixelthink_jax.rl.objective import LossConfig, objective

ROWS, TOKENS = 6, 9
RNG = np.random.default_rng(0)
LOGPROBS = RNG.normal(-1, 0.4, (ROWS, TOKENS))
OLD = LOGPROBS + RNG.normal(0, 0.3, (ROWS, TOKENS))
LENGTHS = np.array([9, 1, 4, 0, 7, 2])
MASK = np.arange(TOKENS)[None] < LENGTHS[:, None]
REWARDS = RNG.normal(2, 1, (2, 3)).astype(np.float32)


def loss_of(config, logprobs, advantages, rows=slice(None)):
    mask = jnp.asarray(MASK)
    weights = token_weights(mask, config.shape.aggregation, longest=TOKENS)
    return objective(
        config,
        logprobs=logprobs[rows],
        entropies=jnp.ones((ROWS, TOKENS))[rows],
        old_logprobs=jnp.asarray(OLD, jnp.float32)[rows],
        reference_logprobs=jnp.asarray(OLD, jnp.float32)[rows],
        advantages=advantages[rows],
        mask=mask[rows],
        weights=weights[rows],
    )


def plain(variant):
    """The variant in float64, token by token."""
    centred = REWARDS.astype(np.float64) - REWARDS.astype(np.float64).mean(axis=1, keepdims=True)
    scale = 1.0 if variant == "dr_grpo" else centred.std(axis=1, ddof=1, keepdims=True) + 1e-6
    advantages = (centred / scale).reshape(-1)
    low, high = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}[
        variant
    ]
    sequences = []
    for row in range(ROWS):
        drift = (LOGPROBS - OLD)[row, : LENGTHS[row]]
        if variant == "gspo" and LENGTHS[row]:
            drift = np.full(LENGTHS[row], drift.mean())
        a = advantages[row]
        sequences.append(np.maximum(-a * np.exp(drift), -a * np.clip(np.exp(drift), 1 - low, 1 + high)))
    if variant == "dapo":
        return np.concatenate(sequences).mean()
    if variant == "dr_grpo":
        return sum(s.sum() for s in sequences) / (ROWS * TOKENS)
    return np.mean([s.mean() if len(s) else 0.0 for s in sequences])


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_each_variant_is_its_papers_formula(variant):
    config = LossConfig(variant, kl_coef=0.0, entropy_coef=0.0)
    advantages = group_advantages(REWARDS, standardised=config.shape.standardised).reshape(-1)
    loss, _ = loss_of(config, jnp.asarray(LOGPROBS, jnp.float32), advantages)
    assert float(loss) == pytest.approx(plain(variant), rel=1e-5)


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_parts_of_a_batch_add_up_and_what_is_masked_has_no_gradient(variant):
    config = LossConfig(variant, kl_coef=0.5, entropy_coef=0.1)
    advantages = group_advantages(REWARDS, standardised=config.shape.standardised).reshape(-1)
    logprobs = jnp.where(jnp.asarray(MASK), jnp.asarray(LOGPROBS, jnp.float32), jnp.nan)
    whole, metrics = loss_of(config, logprobs, advantages)
    halves = [loss_of(config, logprobs, advantages, slice(start, start + 3)) for start in (0, 3)]
    assert float(whole) == pytest.approx(float(halves[0][0] + halves[1][0]), rel=1e-5)
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(halves[0][1][name] + halves[1][1][name]), rel=1e-4), name
    gradient = np.asarray(jax.grad(lambda x: loss_of(config, x, advantages)[0])(logprobs))
    assert np.isfinite(gradient).all() and (gradient[~MASK] == 0).all() and (gradient[MASK] != 0).any()


def test_nothing_but_masked_tokens_is_a_loss_of_zero():
    nothing, arrays = jnp.zeros((2, 4), bool), jnp.full((2, 4), jnp.nan)
    for config in (LossConfig(), LossConfig("dapo"), LossConfig("dr_grpo"), LossConfig("gspo")):
        weights = token_weights(nothing, config.shape.aggregation, longest=4)

        def run(x, config=config, weights=weights):
            rest = {"old_logprobs": arrays, "reference_logprobs": arrays, "mask": nothing, "weights": weights}
            return objective(config, logprobs=x, entropies=x, advantages=jnp.ones(2), **rest)[0]

        loss, gradient = jax.value_and_grad(run)(arrays)
        assert float(loss) == 0 and (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize("name", ["clip_eps", "clip_eps_high", "kl_coef", "entropy_coef"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_settings_that_mean_nothing(name, value):
    with pytest.raises(InputError, match=f"{name} must be finite and not negative"):
        LossConfig(**{name: value})
