r"""The loss of promptable segmentation, and one update.

Each prompt trains its single mask and the best of its masks for ambiguous prompts, at the input's resolution:

.. math:: L = w_f \,\mathrm{focal} + w_d \,\mathrm{dice} + w_i (\widehat{\mathrm{IoU}} - \mathrm{IoU})^2

Source: Kirillov et al. 2023 (arXiv:2304.02643), section 3 and appendix A; Ravi et al. 2024 (arXiv:2408.00714).
Differences: the single mask is trained beside the others at every prompt, weights are settings, and the focal term
without its exponent is cross-entropy.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import Params, segment_logits
from pixelthink_jax.models.sam2.resize import resize
from pixelthink_jax.runtime.train_state import TrainState
from pixelthink_jax.segmenter import normalise
from pixelthink_jax.train_segmenter.batches import SceneBatch
from pixelthink_jax.train_segmenter.config import SegmenterConfig


def focal_loss(
    logits: Float[Array, "*n H W"], target: Float[Array, "*n H W"], gamma: float
) -> Float[Array, "*n"]:
    """Mean over pixels of `-(1 - p)^gamma log p`, `p` the probability of the true class.

    >>> round(float(focal_loss(jnp.zeros((1, 1)), jnp.ones((1, 1)), 0.0)), 4)
    0.6931
    """
    logp = -jax.nn.softplus(jnp.where(target > 0.5, -logits, logits))
    return jnp.mean(-logp * (1.0 - jnp.exp(logp)) ** gamma if gamma else -logp, axis=(-2, -1))


def dice_loss(logits: Float[Array, "*n H W"], target: Float[Array, "*n H W"]) -> Float[Array, "*n"]:
    """One minus twice the overlap over the sum of areas, both counted with probabilities.

    >>> float(dice_loss(jnp.full((2, 2), 50.0), jnp.ones((2, 2))))
    0.0
    """
    p = jax.nn.sigmoid(logits)
    overlap, total = jnp.sum(p * target, axis=(-2, -1)), jnp.sum(p + target, axis=(-2, -1))
    return 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)


def binary_iou(prediction: Bool[Array, "*#n H W"], target: Bool[Array, "*#n H W"]) -> Float[Array, "*n"]:
    """Intersection over union; 0 where both are empty."""
    union = jnp.sum(prediction | target, axis=(-2, -1))
    return jnp.sum(prediction & target, axis=(-2, -1)) / jnp.maximum(union, 1)


def segmentation_loss(
    params: Params, batch: SceneBatch, model: Sam2Config, config: SegmenterConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch and its parts.

    Args:
        params: The segmenter's parameters.
        batch: Scenes, prompts and true masks.
        model: The segmenter's shape.
        config: Weights of the parts.

    Returns:
        The mean loss over prompts, and metrics: the parts, the IoU of the mask the model would choose, and of the
        single mask.
    """
    out = segment_logits(params, normalise(jnp.asarray(batch.images)), batch.prompts, model)
    side = (model.image_size, model.image_size)
    logits = _enlarge(out.low_res_masks, side)
    truth = jnp.asarray(batch.masks)[:, :, None]
    ious = jax.lax.stop_gradient(binary_iou(logits > 0, truth))
    # The best mask for an ambiguous prompt is the one nearest the truth already; ties fall to the first.
    best = 1 + jnp.argmax(ious[:, :, 1:], axis=2)
    trained = jnp.stack(
        [logits[:, :, 0], jnp.take_along_axis(logits, best[..., None, None, None], 2)[:, :, 0]], axis=2
    )
    target = jnp.broadcast_to(truth, trained.shape).astype(jnp.float32)
    focal = jnp.mean(focal_loss(trained, target, config.focal_gamma))
    dice = jnp.mean(dice_loss(trained, target))
    iou_error = jnp.mean(jnp.square(out.iou_predictions - ious))
    loss = config.focal_weight * focal + config.dice_weight * dice + config.iou_weight * iou_error
    chosen = 1 + jnp.argmax(out.iou_predictions[:, :, 1:], axis=2)
    metrics = {
        "loss": loss,
        "focal": focal,
        "dice": dice,
        "iou_error": iou_error,
        "iou": jnp.mean(jnp.take_along_axis(ious, chosen[..., None], axis=2)),
        "single_iou": jnp.mean(ious[:, :, 0]),
    }
    return loss, metrics


def make_train_step(
    model: Sam2Config, config: SegmenterConfig, optimizer: optax.GradientTransformation
) -> Any:
    """Builds `step(state, batch) -> (state, metrics)`, jitted with the state donated."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: SceneBatch) -> tuple[TrainState, dict[str, Array]]:
        loss = partial(segmentation_loss, batch=batch, model=model, config=config)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        params = optax.apply_updates(state.params, _without_frequencies(updates))
        return TrainState(params, opt_state, state.step + 1), metrics

    return step


def _without_frequencies(updates: Any) -> Any:
    """Weight decay would still move the Fourier frequencies, which are drawn once and never trained."""

    def keep(path: tuple[Any, ...], leaf: Array) -> Array:
        return jnp.zeros_like(leaf) if path[-1].key == "positional_embedding" else leaf

    return jax.tree_util.tree_map_with_path(keep, updates)


def _enlarge(masks: Float[Array, "b q m s s"], side: tuple[int, int]) -> Float[Array, "b q m S S"]:
    """Low-resolution logits at the input's resolution, as the segmenter's post-processing does it."""
    return resize(masks[..., None], side, "bilinear")[..., 0]
