from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.optim import OptimConfig, make_optimizer, schedule


def rates(config: OptimConfig, steps: int) -> np.ndarray:
    return np.array([float(schedule(config, 2.0, steps)(step)) for step in range(steps + 1)])


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
        {"warmup_steps": -1},
        {"clip_norm": 0.0},
    ],
)
def test_values_that_mean_nothing(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        OptimConfig(**values)


def tree(seed: int) -> dict[str, Any]:
    """Parameters named as the policy's are; the block kernels are not square."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "vision": {
            "patch_embed": {"kernel": draw(6, 4)},
            "blocks": {
                "qkv": {"kernel": draw(3, 4, 12), "bias": draw(3, 12)},
                "norm1": {"scale": draw(3, 4)},
            },
            "merger": {"fc1": {"kernel": draw(8, 8)}},
        },
        "text": {
            "embed": draw(11, 5),
            "blocks": {"mlp": {"down_proj": {"kernel": draw(2, 9, 5)}}, "q_proj": {"kernel": draw(2, 5, 5)}},
            "lm_head": draw(11, 5),
        },
    }


def updates(optimizer: optax.GradientTransformation) -> list[dict[str, Any]]:
    """What two steps add to the parameters, by path."""

    @jax.jit
    def run(params: Any, first: Any, second: Any) -> list[Any]:
        one, state = optimizer.update(first, optimizer.init(params), params)
        two, _ = optimizer.update(second, state, optax.apply_updates(params, one))
        return [one, two]

    out = run(tree(0), tree(1), tree(2))
    flat = [jax.tree_util.tree_flatten_with_path(update)[0] for update in out]
    return [{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves} for leaves in flat]


def test_muon_changes_how_block_matrices_move_and_nothing_else() -> None:
    config = OptimConfig(kind="muon", learning_rate=0.01, muon_learning_rate=0.1, weight_decay=0.0)
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.nadamw(0.01, weight_decay=0.0))
    mixed, plain = updates(make_optimizer(config, steps=10)), updates(plain)
    matrices = {name for name, leaf in mixed[0].items() if "blocks" in name and leaf.ndim == 3}
    assert len(matrices) == 3
    for one, other in zip(mixed, plain, strict=True):
        for name in one:
            if name not in matrices:
                np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-8)
                continue
            # Orthogonalised layer by layer: the singular values of each layer's update are about equal.
            spread = np.linalg.svd(one[name], compute_uv=False)
            assert spread.shape[0] == len(one[name])
            assert spread.min() > 0.5 * spread.max()


def test_adamw_clips_and_decays() -> None:
    config = OptimConfig(learning_rate=0.01, beta1=0.8, beta2=0.95, weight_decay=0.1, clip_norm=0.5)
    expected = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.01, 0.8, 0.95, weight_decay=0.1))
    for one, other in zip(updates(make_optimizer(config, steps=10)), updates(expected), strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
