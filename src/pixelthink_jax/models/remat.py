"""What a block keeps for the backward pass, and what it computes once more: memory against arithmetic, by name."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "dots", "dots_except_mlp", "full"]
"""From most memory to least: everything is kept; results of products with weights; the same without those of the MLP,
which are the widest; the input of the block alone."""

_KEPT = "kept"


def kept(x: jax.Array) -> jax.Array:
    """Marks what `dots_except_mlp` keeps; `x` itself."""
    return checkpoint_name(x, _KEPT)


def rematerialised(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A block that keeps for its backward pass what `remat` says; its values and gradients stay the same.

    >>> import jax.numpy as jnp
    >>> sine = rematerialised(jnp.sin, "full")
    >>> bool(jax.grad(sine)(1.0) == jnp.cos(1.0))
    True
    """
    if remat == "none":
        return block
    policies = jax.checkpoint_policies
    policy = {
        "dots": policies.dots_with_no_batch_dims_saveable,
        "dots_except_mlp": policies.save_only_these_names(_KEPT),
        "full": policies.nothing_saveable,
    }[remat]
    return jax.checkpoint(block, prevent_cse=False, policy=policy)
