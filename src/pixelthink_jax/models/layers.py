"""Small Linen layers shared by the models.

Parameters are stored in any floating dtype and cast to the activations' dtype where they are used, inside the
layer scan, so that no second copy of the model is ever made. Kernels are `[in, out]`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LORA_LEAVES = ("lora_a", "lora_b", "lora_scale")
"""Leaves that an adapted `Linear` has beside its kernel; see `qwen_vl.lora`."""

# Positions, masks and token ids come from the host as often as from the device.
AnyArray = Array | np.ndarray


def apply(module: nn.Module, params: Mapping[str, Any], *args: Any, method: str | None = None) -> Any:
    """Runs an unbound module, or one of its methods, on a tree of parameters."""
    return module.apply({"params": params}, *args, method=method)


def along_last(vector: Float[Array, " d"], like: Float[Array, "*axes w"]) -> Float[Array, "*ones d"]:
    """Reshapes a vector so that it broadcasts against the last axis of `like` without rank promotion."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + vector.shape)


def matmul_last(x: Float[Array, "*axes d"], kernel: Float[Array, "d f"]) -> Float[Array, "*axes f"]:
    """`x @ kernel` as one flat product.

    With several leading axes the kernel's gradient contracts over all of them at once, which XLA on CPU runs
    three times slower than the same product of two matrices.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


class Linear(nn.Module):
    """Affine map of the last axis.

    Attributes:
        features: Output width.
        use_bias: Whether a bias is added.
        init_std: Standard deviation of the initial kernel.
    """

    features: int
    use_bias: bool = False
    init_std: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes f"]:
        """Returns `x @ kernel + bias` in the dtype of `x`, and what an adapter adds where the parameters hold one."""
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), (x.shape[-1], self.features))
        y = matmul_last(x, kernel.astype(x.dtype))
        if self.has_variable("params", LORA_LEAVES[0]):
            a, b, scale = (self.get_variable("params", name).astype(x.dtype) for name in LORA_LEAVES)
            y = y + matmul_last(matmul_last(x, a) * scale, b)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + along_last(bias, y)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last axis (Zhang and Sennrich 2019, arXiv:1910.07467).

    Attributes:
        eps: Added to the mean square.
    """

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """Normalises in float32, as a bfloat16 mean square loses three digits; returns the dtype of `x`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * inverse).astype(x.dtype) * along_last(scale, x)


class GatedMlp(nn.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202).

    Attributes:
        hidden: Width between the two projections.
        use_bias: Whether the three projections have biases.
        init_std: Standard deviation of the initial gate and up kernels.
        out_std: Standard deviation of the initial down kernel.
    """

    hidden: int
    use_bias: bool = False
    init_std: float = 0.02
    out_std: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """Applies the block to the last axis."""
        gate = Linear(self.hidden, use_bias=self.use_bias, init_std=self.init_std, name="gate_proj")(x)
        up = Linear(self.hidden, use_bias=self.use_bias, init_std=self.init_std, name="up_proj")(x)
        down = Linear(x.shape[-1], use_bias=self.use_bias, init_std=self.out_std, name="down_proj")
        return down(jax.nn.silu(gate) * up)
