"""Rotary position embeddings: three-axis positions of the text model, two-axis ones of the vision tower.

Source: transformers `models/qwen2_5_vl/modeling_qwen2_5_vl.py` (`get_rope_index`,
`Qwen2_5_VLRotaryEmbedding`, `Qwen2_5_VLVisionRotaryEmbedding`). Difference: angles and rotation are float32
in every dtype of the model.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig, TextConfig, VisionConfig

PAD_POSITION = 1
CosSin = tuple[Float[Array, "*axes half"], Float[Array, "*axes half"]]


def _row_positions(image_tokens: np.ndarray, grids: list[np.ndarray], merge: int) -> np.ndarray:
    """Positions `[3, tokens]` of one row without padding; takes its grids off the front of `grids`."""
    blocks, start, token, total = [], 0, 0, len(image_tokens)
    while token < total:
        if image_tokens[token]:
            if not grids:
                raise InputError(
                    "prompt: more image placeholder tokens than image_grid_thw has images; "
                    "pass one grid per image"
                )
            t, h, w = (int(value) for value in grids.pop(0))
            h, w = h // merge, w // merge
            count = t * h * w
            if not image_tokens[token : token + count].all() or token + count > total:
                raise InputError(
                    f"prompt: image placeholder run shorter than the {count} tokens of its grid; "
                    "expand the placeholder to t*h*w / merge_size**2 tokens"
                )
            blocks.append(start + np.stack(np.unravel_index(np.arange(count), (t, h, w))))
            start, token = start + max(h, w), token + count
        else:
            stop = token + int(np.argmax(image_tokens[token:])) if image_tokens[token:].any() else total
            blocks.append(np.broadcast_to(start + np.arange(stop - token), (3, stop - token)))
            start, token = start + stop - token, stop
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((3, 0), np.int64)


def position_ids(
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    image_grid_thw: np.ndarray | None,
    config: QwenVLConfig,
) -> np.ndarray:
    """Time, height and width position of every token of a padded batch (M-RoPE).

    Text tokens have three equal positions. The tokens of an image share a start and add their frame, row and
    column; the text after it goes on from the largest of them plus one. Padding, left or right, holds 1.

    Args:
        input_ids: int `[b, t]`, placeholders expanded.
        attention_mask: `[b, t]`, non-zero at real tokens.
        image_grid_thw: int `[n, 3]`, frames, rows and columns of patches of each image in prompt order; None
            without images.
        config: The model.

    Returns:
        int32 `[3, b, t]`.

    Raises:
        InputError: The placeholder tokens and the grids do not match.
    """
    ids, mask = np.asarray(input_ids), np.asarray(attention_mask).astype(bool)
    grids = [] if image_grid_thw is None else list(np.asarray(image_grid_thw).reshape(-1, 3))
    out = np.full((3, *ids.shape), PAD_POSITION, np.int32)
    for row in range(ids.shape[0]):
        is_image = ids[row, mask[row]] == config.image_token_id
        out[:, row, mask[row]] = _row_positions(is_image, grids, config.vision.spatial_merge_size)
    if grids:
        raise InputError(
            f"prompt: {len(grids)} image(s) of image_grid_thw have no placeholder tokens in input_ids; "
            "drop them"
        )
    return out


def text_rope(positions: Int[AnyArray, "3 ..."], config: TextConfig) -> CosSin:
    """Cosine and sine of the text angles, half a head wide.

    Frequency chunk `i` of `mrope_section` takes its position from axis `i % 3` (time, height, width).
    """
    half = config.head_dim // 2
    inverse = config.rope_theta ** (-np.arange(half, dtype=np.float32) / half)
    edges = np.cumsum((0, *config.mrope_section))
    chunks = [
        positions[axis % 3][..., None].astype(jnp.float32)
        * inverse[low:high].reshape((1,) * (positions.ndim - 1) + (-1,))
        for axis, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True))
    ]
    angles = jnp.concatenate(chunks, axis=-1)
    return jnp.cos(angles), jnp.sin(angles)


def vision_rope(positions: Int[AnyArray, "*axes 2"], config: VisionConfig) -> CosSin:
    """Cosine and sine of the vision angles; half the frequencies turn with the row, half with the column."""
    quarter = config.head_dim // 4
    inverse = config.rope_theta ** (-np.arange(quarter, dtype=np.float32) / quarter)
    inverse = inverse.reshape((1,) * positions.ndim + (-1,))
    angles = positions[..., None].astype(jnp.float32) * inverse
    angles = angles.reshape(*positions.shape[:-1], 2 * quarter)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "*axes h c"], cos: Float[Array, "*axes half"], sin: Float[Array, "*axes half"]
) -> jax.Array:
    """Turns each pair `(x[i], x[i + c/2])` by its angle; every head by the same angles."""
    low, high = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1).astype(x.dtype)
