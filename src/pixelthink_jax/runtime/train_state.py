"""What a training step replaces and a checkpoint keeps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pixelthink_jax.runtime.halves import join_halves, split_halves
from pixelthink_jax.runtime.hosts import put_tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What an update replaces.

    Attributes:
        params: The parameters that are trained.
        opt_state: The optimizer's state, float32 whatever the parameters are.
        step: int32 scalar, updates made; a checkpoint is read by way of shapes in its place.
        low: Of bfloat16 parameters, the halves that make them float32 (`runtime.halves`); else None.
    """

    params: Any
    opt_state: Any
    step: Any
    low: Any = None


def begin(
    params: Any, optimizer: optax.GradientTransformation, *, shardings: Callable[[Any], Any] | None = None
) -> TrainState:
    """The state before the first update.

    Args:
        params: The parameters that are trained, all float32 or all bfloat16; they are donated to the first update.
        optimizer: Gradient transformation.
        shardings: The destination of every leaf of such a tree, or None for one device.
    """
    start = _without_moments(params)
    places = shardings(start) if shardings else None
    if places is not None:
        start = put_tree(start, places)
    init = lambda state: optimizer.init(_master(state))  # noqa: E731
    places = None if places is None or shardings is None else shardings(jax.eval_shape(init, start))
    opt_state = jax.jit(init, out_shardings=places)(start)
    state = TrainState(start.params, opt_state, start.step, start.low)
    if places is not None:
        return state
    # An update returns arrays that are bound to their device; it would be compiled again for those if these were not.
    return jax.device_put(state, jax.tree.leaves(params)[0].sharding)


def planned(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """What `begin` gives, in shapes; `params` may be shapes."""

    def state(params: Any) -> TrainState:
        start = _without_moments(params)
        return replace(start, opt_state=optimizer.init(_master(start)))

    return jax.eval_shape(state, params)


def _without_moments(params: Any) -> TrainState:
    low = None
    if all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params)):
        low = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.int16), params)
    return TrainState(params, None, jnp.zeros((), jnp.int32), low)


def updated(state: TrainState, grads: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state after one update, which is made in float32.

    Args:
        state: Before it.
        grads: Shaped as the parameters, in any dtype.
        optimizer: Gradient transformation.
    """
    master = _master(state)
    wide = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, master)
    updates, opt_state = optimizer.update(wide, state.opt_state, master)
    params: Any = optax.apply_updates(master, updates)
    if state.low is None:
        return TrainState(params, opt_state, state.step + 1)
    leaves, shape = jax.tree.flatten(params)
    halves = [split_halves(leaf) for leaf in leaves]
    high, low = (shape.unflatten(column) for column in zip(*halves, strict=True))
    return TrainState(high, opt_state, state.step + 1, low)


def _master(state: TrainState) -> Any:
    """The parameters in full precision."""
    return state.params if state.low is None else jax.tree.map(join_halves, state.params, state.low)
