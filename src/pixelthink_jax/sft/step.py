"""One supervised step: cross-entropy of the completion tokens, gradient, update; one jitted function."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl import QwenVLConfig, VisionLayout
from pixelthink_jax.models.remat import Remat
from pixelthink_jax.processing.patches import ImageConfig, patchify
from pixelthink_jax.rl.logprobs import token_logprobs
from pixelthink_jax.runtime.train_state import TrainState, updated


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceBatch:
    """A `batches.Batch` with what the model needs beside it."""

    input_ids: Int[AnyArray, "b t"]
    mask: Bool[AnyArray, "b t"]
    loss_mask: Bool[AnyArray, "b t"]
    positions: Int[AnyArray, "3 b t"]
    images: UInt8[AnyArray, "b H W 3"]
    layout: VisionLayout


def supervised_loss(
    params: Any,
    batch: DeviceBatch,
    config: QwenVLConfig,
    image_config: ImageConfig,
    *,
    remat: Remat,
    unroll: bool,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean negative log-probability in nats over the completion tokens of the whole batch."""
    pixels = patchify(batch.images, image_config=image_config)
    images = qwen_vl.encode_images(params, pixels, batch.layout, config, remat=remat, unroll=unroll)
    embeds = qwen_vl.embed_prompt(params, batch.input_ids, images, config)
    hidden = qwen_vl.forward(params, embeds, batch.positions, batch.mask, config, remat=remat, unroll=unroll)
    targets, mask = jnp.asarray(batch.input_ids)[:, 1:], jnp.asarray(batch.loss_mask)[:, 1:]
    scores = token_logprobs(params, hidden[:, :-1], targets, config)
    tokens = jnp.maximum(mask.sum(), 1)
    loss = -jnp.sum(jnp.where(mask, scores.logprobs, 0.0)) / tokens
    accuracy = jnp.sum(mask & scores.likeliest) / tokens
    return loss, {"loss": loss, "token_accuracy": accuracy, "tokens": tokens.astype(jnp.float32)}


def make_train_step(
    config: QwenVLConfig,
    image_config: ImageConfig,
    optimizer: optax.GradientTransformation,
    *,
    remat: Remat = "none",
    unroll: bool = False,
) -> Any:
    """Builds `step(state, frozen, batch) -> (state, metrics)`, jitted with the state donated.

    `frozen` holds the parameters that are not trained (`qwen_vl.trained`).
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, frozen: Any, batch: DeviceBatch) -> tuple[TrainState, dict[str, Array]]:
        def loss(trained: Any) -> tuple[Array, dict[str, Array]]:
            params = qwen_vl.whole_params(trained, frozen)
            return supervised_loss(params, batch, config, image_config, remat=remat, unroll=unroll)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return qwen_vl.on_rules(updated(state, qwen_vl.on_rules(grads, config), optimizer), config), metrics

    return step
