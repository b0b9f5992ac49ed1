"""What a training step replaces and a checkpoint keeps."""

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What an update replaces.

    Attributes:
        params: The parameters.
        opt_state: The optimizer's state.
        step: int32 scalar, updates made; a checkpoint is read by way of shapes in its place.
    """

    params: Any
    opt_state: Any
    step: Any


def updated(
    state: TrainState, grads: Any, optimizer: optax.GradientTransformation, *, frozen: tuple[str, ...] = ()
) -> TrainState:
    """The state after one update.

    Args:
        state: Before it.
        grads: Shaped as the parameters.
        optimizer: Gradient transformation.
        frozen: Top-level parts of the parameters that stay as they are; weight decay would move them even where they
            have no gradient.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    moved = cast(dict[str, Any], updates)
    still = {name: jax.tree.map(jnp.zeros_like, moved[name]) for name in frozen}
    params = optax.apply_updates(state.params, {**moved, **still} if frozen else updates)
    return TrainState(params, opt_state, state.step + 1)
