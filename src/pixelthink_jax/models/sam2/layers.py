"""Small Linen layers of SAM2: norms, perceptrons, strided convolutions as matrix products, pooling, attention.

Maps are `[b, H, W, c]` throughout. Every convolution of SAM2 but the patch embedding has a kernel as large as its
stride, so it is a matrix product on blocks of pixels, which is what runs fast everywhere.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.layers import Linear, along_last

MASKED = -1e30
_CPU_QUERY_CHUNK = 256
_CPU_WHOLE_SCORES = 1 << 18


def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The exact GELU through erf, which compiles to less work on CPU than the library's erfc form."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 2**-0.5))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": gelu, "relu": jax.nn.relu}


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis.

    Attributes:
        eps: Added to the variance.
    """

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """Normalises in float32 with the centred variance: the mean of squares loses digits far from zero."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.eps)
        return (centred * inverse).astype(x.dtype) * along_last(scale, x) + along_last(bias, x)


class Mlp(nn.Module):
    """A perceptron of `depth` linear layers, named as transformers names them.

    Attributes:
        hidden: Width between the layers.
        out: Output width.
        depth: Linear layers, at least 2.
        activation: Between the layers.
    """

    hidden: int
    out: int
    depth: int = 2
    activation: Literal["gelu", "relu"] = "relu"

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes f"]:
        """Applies the layers to the last axis."""
        act = ACTIVATIONS[self.activation]
        x = act(Linear(self.hidden, use_bias=True, name="proj_in")(x))
        for index in range(self.depth - 2):
            x = act(Linear(self.hidden, use_bias=True, name=f"layers_{index}")(x))
        return Linear(self.out, use_bias=True, name="proj_out")(x)


class BlockConv(nn.Module):
    """Convolution whose kernel is as large as its stride.

    Attributes:
        features: Output channels.
        size: Kernel side and stride.
    """

    features: int
    size: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w f"]:
        """Returns a map `size` times smaller per side."""
        b, rows, cols, c = x.shape
        s = self.size
        kernel = self.param("kernel", nn.initializers.normal(0.02), (s, s, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        blocks = x.reshape(b, rows // s, s, cols // s, s, c).transpose(0, 1, 3, 2, 4, 5)
        y = blocks.reshape(b, rows // s, cols // s, s * s * c) @ kernel.reshape(-1, self.features).astype(
            x.dtype
        )
        return y + along_last(bias, y)


class BlockConvTranspose(nn.Module):
    """Transposed convolution with kernel 2 and stride 2.

    Attributes:
        features: Output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w f"]:
        """Returns a map twice as large per side."""
        b, rows, cols, c = x.shape
        kernel = self.param("transpose_kernel", nn.initializers.normal(0.02), (2, 2, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        flat = kernel.transpose(2, 0, 1, 3).reshape(c, 4 * self.features).astype(x.dtype)
        blocks = (x @ flat).reshape(b, rows, cols, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        y = blocks.reshape(b, 2 * rows, 2 * cols, self.features)
        return y + along_last(bias, y)


def max_pool(x: Float[Array, "b H W c"], size: int) -> Float[Array, "b h w c"]:
    """Maximum over blocks of `size` by `size`; the sides must divide."""
    if size == 1:
        return x
    b, rows, cols, c = x.shape
    return x.reshape(b, rows // size, size, cols // size, size, c).max(axis=(2, 4))


def attend(
    q: Float[Array, "b h t c"],
    k: Float[Array, "b h s c"],
    v: Float[Array, "b h s c"],
    mask: Bool[Array, "b s"] | None = None,
) -> Float[Array, "b h t c"]:
    """Softmax attention with scores in float32.

    Long unmasked attention on CPU runs head by head in chunks of queries whose scores stay in the cache: twice as
    fast as the whole matrix there, and a hundred times smaller. Accelerators take the whole matrix at once.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: True at the keys that may be seen; None shows all.

    Returns:
        The attended values, in the dtype of `v`.
    """
    long = q.shape[2] * k.shape[2] > _CPU_WHOLE_SCORES and q.shape[2] % _CPU_QUERY_CHUNK == 0
    if mask is not None or not long:
        return _attend_whole(q, k, v, mask)
    return jax.lax.platform_dependent(q, k, v, cpu=_attend_in_chunks, default=_attend_whole)


def _attend_whole(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The formula, on any leading axes."""
    scores = jnp.einsum("...tc,...sc->...ts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("...ts,...sc->...tc", weights.astype(v.dtype), v)
    # Dividing after the product touches c values a row instead of s.
    return (out / total).astype(v.dtype)


def _attend_in_chunks(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The same, one head and one chunk of queries at a time."""
    b, h, t, c = q.shape

    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        chunks, keys, values = qkv
        return jax.lax.map(lambda chunk: _attend_whole(chunk, keys, values), chunks)

    chunked = q.reshape(b * h, t // _CPU_QUERY_CHUNK, _CPU_QUERY_CHUNK, c)
    out = jax.lax.map(one_head, (chunked, k.reshape(b * h, -1, c), v.reshape(b * h, -1, c)))
    return out.reshape(b, h, t, c)
