"""Advantages and losses: the reference implementation's values, and inputs that break careless arithmetic."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pixelthink_jax.rl.advantages import group_advantages
from pixelthink_jax.rl.losses import clipped_policy_loss, entropy, kl_estimate, masked_mean

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "grpo.json"


@pytest.fixture(scope="module")
def cases():
    if not VECTORS.is_file():
        pytest.skip("the reference values are not beside the project")
    return json.loads(VECTORS.read_text())


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)


def test_every_case_of_the_reference_implementation(cases):
    for case in cases:
        rewards = np.array(case["rewards"], np.float32).reshape(case["prompts"], case["group_size"])
        advantages = group_advantages(rewards)
        close(advantages.reshape(-1), np.ravel(case["expect"]["advantages"]))
        arrays = {
            name: np.array(case[name], np.float32)
            for name in ("logprobs", "old_logprobs", "reference_logprobs", "logits")
        }
        mask, settings = np.array(case["completion_mask"]), case["settings"]
        policy, clipped = clipped_policy_loss(
            arrays["logprobs"],
            arrays["old_logprobs"],
            advantages.reshape(-1),
            mask,
            clip_eps=settings["clip_eps"],
        )
        kl = kl_estimate(arrays["logprobs"], arrays["reference_logprobs"], mask)
        spread = entropy(arrays["logits"], mask)
        found = {"policy_loss": policy, "clip_fraction": clipped, "entropy": spread, "kl": kl}
        for name, values in found.items():
            close(values, [row[name] for row in case["expect"]["per_sequence"]])
        loss = jnp.mean(policy - settings["entropy_coef"] * spread + settings["kl_coef"] * kl)
        close(loss, case["expect"]["loss"])


@given(hnp.arrays(np.float32, (3, 8), elements=st.floats(-5, 5, width=32)))
def test_advantages_are_centred_and_of_unit_deviation_or_exactly_zero(rewards):
    rewards[0] = rewards[0, 0]
    found = np.asarray(group_advantages(rewards), np.float64)
    assert (found[0] == 0).all()
    deviation = rewards.astype(np.float64).std(axis=1, ddof=1)
    for row, spread in zip(found[1:], deviation[1:], strict=True):
        if spread > 1e-2:
            assert abs(row.mean()) < 1e-3 and abs(row.std(ddof=1) - 1) < 1e-2


def test_a_group_of_one_keeps_its_reward():
    np.testing.assert_allclose(
        group_advantages(np.array([[3.5], [-2.0]], np.float32)), [[3.5], [-2.0]], rtol=2e-6
    )


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_divergence_estimates_against_float64(kind):
    rng = np.random.default_rng(0)
    logp, ref = rng.normal(-1, 0.5, (2, 4, 6))
    d = ref - logp
    expected = {"k1": -d, "k2": d**2 / 2, "k3": np.exp(d) - d - 1}[kind].mean(axis=1)
    close(
        kl_estimate(logp.astype(np.float32), ref.astype(np.float32), np.ones((4, 6), bool), kind=kind),
        expected,
    )


@pytest.mark.parametrize("drift", [-1e4, -90.0, 90.0, 1e4])
def test_extreme_drift_has_finite_values_and_gradients(drift):
    mask = np.array([[True, True, False], [False, False, False]])
    reference = jnp.full((2, 3), drift)

    def total(logp):
        loss, _ = clipped_policy_loss(logp, jnp.zeros((2, 3)), jnp.array([-1.0, 1.0]), mask)
        return jnp.sum(kl_estimate(logp, reference, mask)) + jnp.sum(loss)

    value, gradient = jax.value_and_grad(total)(jnp.zeros((2, 3)))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_lies_outside_the_mask_does_not_matter(poison):
    rng = np.random.default_rng(1)
    logp, old, ref = rng.normal(-1, 0.3, (3, 2, 4)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    dirty = [np.where(mask, x, poison).astype(np.float32) for x in (logp, old, ref)]
    advantages = jnp.array([1.0, -2.0])

    def total(logp, old, ref):
        return jnp.sum(clipped_policy_loss(logp, old, advantages, mask)[0] + kl_estimate(logp, ref, mask))

    for clean, spoilt in zip(
        jax.value_and_grad(total)(logp, old, ref), jax.value_and_grad(total)(*dirty), strict=True
    ):
        np.testing.assert_array_equal(clean, spoilt)


def test_clip_higher_moves_the_upper_bound_only():
    ratio = np.log(np.array([[0.5, 1.3, 1.5]], np.float32))
    zero, ones = np.zeros((1, 3), np.float32), np.ones((1, 3), bool)
    both, _ = clipped_policy_loss(ratio, zero, np.ones(1, np.float32), ones)
    high, _ = clipped_policy_loss(ratio, zero, np.ones(1, np.float32), ones, clip_eps_high=0.28)
    np.testing.assert_allclose(both, [-(0.5 + 1.2 + 1.2) / 3], rtol=1e-6)
    np.testing.assert_allclose(high, [-(0.5 + 1.28 + 1.28) / 3], rtol=1e-6)


def test_rows_without_tokens_give_zero():
    np.testing.assert_array_equal(masked_mean(np.full((2, 3), np.nan, np.float32), np.zeros((2, 3))), [0, 0])
