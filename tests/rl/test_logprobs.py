import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.rl import logprobs
from pixelthink_jax.rl.logprobs import token_logprobs
from tests.rl.tiny_policy import log_softmax, tiny_policy

B, T = 3, 11
BANNED = (5, 17)
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def scored() -> tuple[dict, jax.Array, jax.Array]:
    """Head, hidden states and targets; the count of positions is not a multiple of the chunk."""
    config, rng = tiny_policy().config, np.random.default_rng(0)
    head = {"text": {"lm_head": tiny_policy().params["text"]["lm_head"]}}
    hidden = jnp.asarray(rng.normal(size=(B, T, config.text.hidden_size)), jnp.float32)
    return head, hidden, jnp.asarray(rng.integers(18, config.text.vocab_size, (B, T)), jnp.int32)


OPTIONS = {
    "temperature": TEMPERATURE,
    "banned": jnp.zeros(tiny_policy().config.text.vocab_size, bool).at[jnp.array(BANNED)].set(True),
}


def value_and_gradients(scored: tuple[dict, jax.Array, jax.Array]) -> tuple:
    params, hidden, targets = scored
    weights = jnp.linspace(-1, 2, B * T).reshape(B, T)

    @jax.jit
    def run(params: dict, hidden: jax.Array) -> tuple:
        def total(params: dict, hidden: jax.Array) -> tuple:
            scores = token_logprobs(params, hidden, targets, tiny_policy().config, **OPTIONS)
            return jnp.sum((scores.logprobs + 0.5 * scores.entropies) * weights), scores

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, hidden)

    return jax.device_get(run(params, hidden))


def test_equal_to_plain_log_softmax(scored: tuple) -> None:
    params, hidden, targets = scored
    (_, scores), _ = value_and_gradients(scored)
    logits = (
        np.asarray(hidden, np.float64) @ np.asarray(params["text"]["lm_head"], np.float64).T / TEMPERATURE
    )
    logits[..., BANNED] = -1e9
    exact = log_softmax(logits)
    chosen = np.take_along_axis(exact, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores.logprobs, chosen, atol=1e-5)
    np.testing.assert_allclose(scores.entropies, -(np.exp(exact) * exact).sum(-1), atol=1e-5)
    np.testing.assert_array_equal(scores.likeliest, logits.argmax(-1) == targets)


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_chunks_change_nothing(scored: tuple, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, whole), whole_grads = value_and_gradients(scored)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", chunk * tiny_policy().config.text.vocab_size)
    (_, cut), cut_grads = value_and_gradients(scored)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(jax.tree.leaves(cut_grads), jax.tree.leaves(whole_grads), strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


def test_all_logits_are_never_held(scored: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    params, hidden, targets = scored
    config = tiny_policy().config
    score = lambda hidden: jnp.sum(token_logprobs(params, hidden, targets, config).logprobs)  # noqa: E731
    every_position = f"{B * T},{config.text.vocab_size}]"
    assert every_position in str(jax.make_jaxpr(jax.grad(score))(hidden))
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 8 * config.text.vocab_size)
    chunked = str(jax.make_jaxpr(jax.grad(score))(hidden))
    assert every_position not in chunked
    assert f"[5,8,{config.text.vocab_size}]" not in chunked
