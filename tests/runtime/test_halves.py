"""The split master copy: by bits, and as an optimizer step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelthink_jax.runtime.halves import join_halves, split_halves
from pixelthink_jax.runtime.optim import OptimConfig, make_optimizer
from pixelthink_jax.runtime.train_state import begin, updated

# Both signs of: zero, subnormals, one, the smallest and the largest normal numbers, infinity; with every low half.
HIGHS = (0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x3F7F, 0x7F7E, 0x7F7F)


@pytest.mark.parametrize("sign", [0x0000, 0x8000])
def test_every_low_half_comes_back_to_the_bit(sign):
    lows = np.arange(1 << 16, dtype=np.uint32)
    for high in HIGHS:
        bits = (np.uint32(high | sign) << 16) | lows
        x = jnp.asarray(bits.view(np.float32))
        back = np.asarray(jax.jit(lambda x: join_halves(*split_halves(x)))(x)).view(np.uint32)
        np.testing.assert_array_equal(back, bits)


def test_the_high_half_is_the_nearest_bfloat16():
    x = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    high, _ = split_halves(jnp.asarray(x))
    error = np.abs(np.asarray(high, np.float64) - x)
    nearest = np.abs(np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float64) - x)
    np.testing.assert_array_equal(error, nearest)
    tie = jnp.asarray(np.array([0x3F808000], np.uint32).view(np.float32))
    assert split_halves(tie)[1][0] == -0x8000  # a cast, which rounds to even, would leave +0x8000


def descend(params, gradients, config):
    """The parameters, as float32, after an update with each gradient."""
    optimizer = make_optimizer(config, len(gradients))
    state = begin(params, optimizer)
    step = jax.jit(lambda state, grads: updated(state, grads, optimizer))
    for gradient in gradients:
        state = step(state, gradient)
    assert step._cache_size() == 1
    if state.low is None:
        return jax.tree.map(lambda x: np.asarray(x, np.float32), state.params), state
    return jax.tree.map(np.asarray, jax.tree.map(join_halves, state.params, state.low)), state


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(1)
    start = jnp.asarray(rng.normal(0, 0.02, (64, 33)), jnp.bfloat16)
    gradients = [{"w": jnp.asarray(rng.normal(0, 1, (64, 33)), jnp.bfloat16)} for _ in range(200)]
    return {"w": start}, gradients, OptimConfig(learning_rate=1e-6, weight_decay=0.01)


def distance(a, b, start):
    """Difference relative to how far the parameters went."""
    gone = b["w"] - np.asarray(start["w"], np.float32)
    return np.abs(a["w"] - b["w"]).max() / np.abs(gone).max()


def test_bfloat16_with_its_low_half_is_float32_adamw(run):
    start, gradients, config = run
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), start)
    exact, state = descend(start, gradients, config)
    assert state.params["w"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim} == {np.dtype(np.float32)}
    reference, _ = descend(
        wide, [jax.tree.map(lambda g: g.astype(jnp.float32), g) for g in gradients], config
    )
    # A unit in the last place of a weight is 5e-5 of the way that 200 updates at 1e-6 go.
    assert np.abs(exact["w"] - reference["w"]).max() / np.abs(reference["w"]).max() < 1e-7
    assert distance(exact, reference, start) < 1e-4


def test_a_bfloat16_first_moment_stays_within_its_bound(run):
    start, gradients, config = run
    exact, _ = descend(start, gradients, config)
    loose, _ = descend(
        start, gradients, OptimConfig(learning_rate=1e-6, weight_decay=0.01, first_moment_dtype="bfloat16")
    )
    assert 0 < distance(loose, exact, start) < 2e-2
    np.testing.assert_allclose(loose["w"], exact["w"], atol=3e-6, rtol=3e-5)


def test_plain_bfloat16_does_not_learn_at_1e_6(run):
    start, gradients, _ = run
    optimizer = optax.adamw(1e-6)
    params, opt_state = start, optimizer.init(start)
    for gradient in gradients[:50]:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    large = np.abs(np.asarray(start["w"], np.float32)) > 1e-3
    np.testing.assert_array_equal(np.asarray(params["w"])[large], np.asarray(start["w"])[large])
