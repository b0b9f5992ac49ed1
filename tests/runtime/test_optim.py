from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.optim import OptimConfig, make_optimizer, schedule


def rates(config: OptimConfig, steps: int) -> np.ndarray:
    rate = schedule(config, 2.0, steps)(jnp.arange(steps + 1))
    return np.broadcast_to(rate, steps + 1)  # a constant one has no axis


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_schedules(decay: Any, warmup: int) -> None:
    values = rates(OptimConfig(warmup_steps=warmup, decay=decay, final_fraction=0.1), 25)
    np.testing.assert_allclose(values[:warmup], 2.0 * np.arange(warmup) / 5, rtol=1e-6)
    rest = np.arange(26 - warmup) / (25 - warmup)
    expected = {
        "constant": np.full_like(rest, 2.0),
        "linear": 2.0 - 1.8 * rest,
        "cosine": 0.2 + 1.8 * (1 + np.cos(np.pi * rest)) / 2,
    }[decay]
    np.testing.assert_allclose(values[warmup:], expected, rtol=1e-5)


def test_the_decay_can_wait() -> None:
    values = rates(OptimConfig(warmup_steps=2, decay="linear", stable_fraction=0.5), 10)
    assert values.tolist() == pytest.approx([0, 1, 2, 2, 2, 2, 2, 1.5, 1, 0.5, 0])


def test_a_warmup_longer_than_the_run() -> None:
    assert rates(OptimConfig(warmup_steps=10, decay="linear"), 4).tolist() == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8]
    )


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"muon_learning_rate": -1.0},
        {"final_fraction": 1.5},
        {"stable_fraction": 1.0},
        {"warmup_steps": -1},
        {"clip_norm": 0.0},
    ],
)
def test_values_that_mean_nothing(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        OptimConfig(**values)


def tree(seed: int) -> dict[str, Any]:
    """Parameters named as the policy's are; the last layer's are a hundred times the others'."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    layers = jnp.array([1.0, 1.0, 100.0]).reshape(3, 1, 1)
    return {
        "vision": {"patch_embed": {"kernel": draw(6, 4)}, "merger": {"fc1": {"kernel": draw(8, 8)}}},
        "text": {
            "embed": draw(11, 5),
            "blocks": {"q_proj": {"kernel": layers * draw(3, 4, 12), "bias": draw(3, 12)}},
        },
    }


def updates(optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """What the second step adds to the parameters, by path."""

    @jax.jit
    def run(params: Any, gradients: Any) -> Any:
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        return optimizer.update(gradients, state, params)[0]

    leaves = jax.tree_util.tree_flatten_with_path(run(tree(0), tree(1)))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_muon_changes_how_block_matrices_move_and_nothing_else() -> None:
    config = OptimConfig(kind="muon", learning_rate=0.01, muon_learning_rate=0.1, weight_decay=0.0)
    mixed = updates(make_optimizer(config, steps=10))
    plain = updates(optax.chain(optax.clip_by_global_norm(1.0), optax.nadamw(0.01, weight_decay=0.0)))
    [matrix] = [name for name, leaf in mixed.items() if "blocks" in name and leaf.ndim == 3]
    # Orthogonalised layer by layer: all singular values of all layers about equal, whatever the gradient's size.
    values = np.linalg.svd(mixed.pop(matrix), compute_uv=False)
    assert values.shape == (3, 4)
    assert values.min() > 0.3 * values.max()
    for name in mixed:
        np.testing.assert_allclose(mixed[name], plain[name], rtol=1e-5, atol=1e-8)


def test_adamw_clips_and_decays() -> None:
    config = OptimConfig(learning_rate=0.01, beta1=0.8, beta2=0.95, weight_decay=0.1, clip_norm=0.5)
    expected = updates(
        optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.01, 0.8, 0.95, weight_decay=0.1))
    )
    for name, update in updates(make_optimizer(config, steps=10)).items():
        np.testing.assert_allclose(update, expected[name], rtol=1e-6)
