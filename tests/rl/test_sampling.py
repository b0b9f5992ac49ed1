import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtrc

from pixelthink_jax.rl.sampling import row_keys, sample_tokens, token_statistics, top_p_threshold, truncate
from tests.rl.tiny_policy import log_softmax

LOGITS = np.array([1.0, -0.5, 2.0, 0.3, -1.5, 1.6, 0.1], np.float32)
STATISTICS, THRESHOLD = jax.jit(token_statistics), jax.jit(top_p_threshold)
TRUNCATE = jax.jit(truncate, static_argnames="top_k")
SAMPLE = jax.jit(sample_tokens, static_argnames=("greedy", "top_k"))
BANNED = np.array([False, False, False, False, False, True, False])


def exact_distribution(logits: np.ndarray, *, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Temperature, then the top k, then the smallest set of likeliest tokens that holds `top_p`; by sorting."""
    probs = np.exp(log_softmax(np.where(BANNED, -np.inf, logits.astype(np.float64)) / temperature))
    order = np.argsort(-probs)
    if top_k:
        probs[order[top_k:]] = 0
        probs /= probs.sum()
    enough = int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1
    probs[order[enough:]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.4, 0, 1.0),
        (1.0, 3, 1.0),
        (1.0, 0, 0.7),
        (2.0, 4, 0.8),
        (1.0, 99, 1.0),
        (1.0, 1, 1.0),
    ],
)
def test_frequencies(temperature: float, top_k: int, top_p: float) -> None:
    b, g = 60, 100
    keys = row_keys(3, 0, jnp.arange(b), g)
    logits = jnp.broadcast_to(LOGITS, (b, g, len(LOGITS)))
    tokens, scaled = SAMPLE(
        logits,
        keys,
        temperature=jnp.float32(temperature),
        banned=BANNED,
        greedy=False,
        top_k=top_k,
        top_p=None if top_p == 1 else jnp.float32(top_p),
    )
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=len(LOGITS))
    exact = exact_distribution(LOGITS, temperature=temperature, top_k=top_k, top_p=top_p)
    assert ((counts > 0) == (exact > 0)).all()
    expected, freedom = exact * b * g, (exact > 0).sum() - 1
    distance = ((counts - expected)[exact > 0] ** 2 / expected[exact > 0]).sum()
    assert freedom == 0 or chdtrc(freedom, distance) > 1e-3
    # What is returned for the statistics is scaled and free of banned tokens, but not truncated.
    np.testing.assert_allclose(scaled[0, 0], np.where(BANNED, -np.inf, LOGITS / temperature), rtol=1e-6)


def test_greedy_reports_temperature_one() -> None:
    logits = jnp.asarray(LOGITS)[None, None]
    keys = row_keys(0, 0, jnp.arange(1), 1)
    tokens, scaled = SAMPLE(
        logits, keys, temperature=jnp.float32(5.0), banned=jnp.asarray(BANNED), greedy=True
    )
    assert tokens.tolist() == [[2]]
    np.testing.assert_array_equal(scaled[0, 0], np.where(BANNED, -np.inf, LOGITS))


def test_keys_do_not_depend_on_the_batch() -> None:
    data = lambda keys: jax.random.key_data(keys).tolist()  # noqa: E731
    whole = row_keys(7, 2, jnp.array([4, 9, 0]), 3)
    assert data(row_keys(7, 2, jnp.array([9]), 5)[0, :3]) == data(whole[1])
    others = [row_keys(7, 3, jnp.array([9]), 3), row_keys(8, 2, jnp.array([9]), 3)]
    distinct = [key for keys in (whole, *others) for row in data(keys) for key in row]
    assert len({tuple(key) for key in distinct}) == len(distinct)


@settings(max_examples=30)
@given(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), st.integers(0, 4))
def test_statistics(logits: list[float], token: int) -> None:
    logprob, gap = STATISTICS(jnp.array(logits, jnp.float32), jnp.int32(token))
    exact = log_softmax(np.array(logits))
    best = np.sort(np.exp(exact))[::-1]
    assert float(logprob) == pytest.approx(exact[token], abs=2e-5)
    assert float(gap) == pytest.approx(best[0] - best[1], abs=1e-6)
    assert -1e-6 <= float(gap) <= 1 + 1e-6


@st.composite
def shares(draw: st.DrawFn) -> np.ndarray:
    """Nine numbers of sixty-fourths that add up to one."""
    cuts = sorted(draw(st.lists(st.integers(0, 64), min_size=8, max_size=8)))
    return np.diff([0, *cuts, 64]) / 64


@given(shares(), st.integers(1, 63))
def test_nucleus_is_that_of_sorting(probs: np.ndarray, sixty_fourths: int) -> None:
    top_p = sixty_fourths / 64
    threshold = THRESHOLD(jnp.asarray(probs, jnp.float32), jnp.float32(top_p))
    kept = probs.astype(np.float32) >= np.asarray(threshold)
    descending = np.sort(probs)[::-1]
    last = descending[np.searchsorted(np.cumsum(descending), top_p)]
    np.testing.assert_array_equal(kept, probs >= last)


@settings(max_examples=30)
@given(st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6), st.floats(0.01, 0.999))
def test_nucleus_holds_its_mass_and_no_token_too_many(logits: list[float], top_p: float) -> None:
    probs = np.exp(log_softmax(np.array(logits)))
    cut = TRUNCATE(jnp.array(logits, jnp.float32), top_k=0, top_p=jnp.float32(top_p))
    kept = np.isfinite(np.asarray(cut))
    assert kept[np.argmax(probs)]
    assert probs[kept].sum() >= top_p - 1e-5
    assert probs[kept].min() >= probs[~kept].max(initial=0)
    # Without its rarest tokens (and those as rare to rounding) the set is too small.
    assert probs[kept & (probs > probs[kept].min() * (1 + 1e-5))].sum() < top_p + 1e-5


def test_truncation_keeps_ties() -> None:
    cut = truncate(jnp.array([1.0, 0.0, 1.0, 1.0]), top_k=2, top_p=None)
    assert np.isfinite(np.asarray(cut)).tolist() == [True, False, True, True]
