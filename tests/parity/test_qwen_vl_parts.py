"""Each piece of Qwen2.5-VL against the same piece of transformers, to 1e-5."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from pixelthink_jax.models.attention import attend
from pixelthink_jax.models.qwen_vl import encode_images, vision_layout
from pixelthink_jax.models.qwen_vl.rope import rotate, text_rope, vision_rope
from pixelthink_jax.models.qwen_vl.text import LayerFns, causal_mask
from pixelthink_jax.models.qwen_vl.vision import (
    PatchMerger,
    VisionBlock,
    embed_patches,
    full_attention,
    window_attention,
)
from tests.models.qwen_small import OBLONG, SMALL, TALL, WIDE, difference, named_params
from tests.parity.qwen_twin import make_twin

VISION = SMALL.vision
GRIDS = {
    "one size": [OBLONG, OBLONG],
    "two sizes": [WIDE, TALL],
    "windows divide": [(1, 12, 18)],
    "frames": [(3, 6, 8), OBLONG],
    "smaller than a window": [(1, 2, 4), (1, 4, 2)],
}
layer_of = partial(jax.tree.map, lambda leaf: leaf[1])


@pytest.fixture(scope="module")
def twin():
    return make_twin(SMALL)


@pytest.fixture(scope="module")
def params():
    return named_params(SMALL)


@pytest.fixture(scope="module", params=GRIDS)
def grid(request):
    return np.array(GRIDS[request.param])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def hf_order(x, grid):
    """Rows of patches in the order transformers' window blocks see them, and its window boundaries."""
    index, edges = get_vision_window_index(
        torch.tensor(grid), VISION.spatial_merge_size, VISION.window_size, VISION.patch_size
    )
    units = torch.tensor(x).reshape(-1, VISION.merge_unit, x.shape[-1])
    return units[index].reshape(x.shape), index, edges


def our_order(x, layout):
    units = jnp.asarray(x).reshape(-1, VISION.merge_unit * x.shape[-1])[layout.order]
    return units.reshape(units.shape[0], -1, x.shape[-1])


def restore(x, layout):
    """Back to the order of the pixels, padding dropped."""
    units = x.reshape(-1, VISION.merge_unit * x.shape[-1])[layout.restore]
    return np.asarray(units).reshape(-1, x.shape[-1])


def test_patch_embed(twin, params, grid):
    layout = vision_layout(grid, VISION)
    pixels = noise(int(grid.prod(1).sum()), VISION.patch_dim)
    ours = restore(
        embed_patches(params["vision"]["patch_embed"], jnp.asarray(pixels), layout, VISION), layout
    )
    with torch.no_grad():
        reference = twin.model.visual.patch_embed(torch.tensor(pixels)).numpy()
    assert difference(ours, reference) < 1e-5


@pytest.mark.parametrize("kind", ["window", "full"])
def test_vision_block(kind, twin, params, grid):
    layout = vision_layout(grid, VISION)
    x = noise(int(grid.prod(1).sum()), VISION.hidden_size)
    attention = partial(window_attention, layout=layout)
    if kind == "full":
        attention = partial(full_attention, mask=layout.mask)
    block = jax.jit(
        lambda layer, x: VisionBlock(VISION).apply(
            {"params": layer}, x, vision_rope(layout.positions, VISION), attention
        )
    )
    ours = restore(block(layer_of(params["vision"]["blocks"]), our_order(x, layout)), layout)
    visual, grid_t = twin.model.visual, torch.tensor(grid)
    ordered, index, edges = hf_order(x, grid)
    if kind == "full":
        edges, _ = get_vision_attention_seqlens(grid_t, visual.config)
    cos_sin = visual.rotary_pos_emb(ordered, get_vision_position_ids(grid_t, VISION.spatial_merge_size))
    cos_sin = tuple(visual.permute_input_for_window_attn(value, index, len(x)) for value in cos_sin)
    with torch.no_grad():
        out = visual.blocks[1](ordered, cu_seqlens=edges, position_embeddings=cos_sin)
    reference = out.reshape(-1, VISION.merge_unit, x.shape[1])[torch.argsort(index)].reshape(x.shape)
    assert difference(ours, reference.numpy()) < 1e-5


def test_merger(twin, params):
    x = noise(1, 24, VISION.hidden_size)
    ours = PatchMerger(VISION).apply({"params": params["vision"]["merger"]}, jnp.asarray(x))
    with torch.no_grad():
        reference = twin.model.visual.merger(torch.tensor(x[0])).numpy()
    assert difference(ours[0], reference) < 1e-5


def test_tower(twin, params, grid):
    pixels = noise(int(grid.prod(1).sum()), VISION.patch_dim)
    layout = vision_layout(grid, VISION)
    ours = jax.jit(lambda params: encode_images(params, pixels, layout, SMALL))(params)
    with torch.no_grad():
        reference = twin.model.visual(torch.tensor(pixels), grid_thw=torch.tensor(grid)).pooler_output.numpy()
    assert difference(ours, reference) < 1e-5


def test_text_rotary(twin):
    positions = np.random.default_rng(0).integers(0, 400, (3, 2, 7)).astype(np.int32)
    q = noise(2, 7, SMALL.text.num_heads, SMALL.text.head_dim)
    ours = rotate(jnp.asarray(q), *text_rope(positions, SMALL.text))
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

    cos, sin = twin.model.language_model.rotary_emb(torch.tensor(q), torch.tensor(positions))
    reference, _ = apply_rotary_pos_emb(torch.tensor(q), torch.tensor(q), cos, sin, unsqueeze_dim=2)
    assert difference(ours, reference.numpy()) < 1e-5


def test_text_block(twin, params):
    x, positions = noise(2, 9, SMALL.text.hidden_size), np.random.default_rng(1).integers(0, 40, (3, 2, 9))
    mask = np.ones((2, 9), bool)
    mask[0, :4] = False
    layer, fns = layer_of(params["text"]["blocks"]), LayerFns(SMALL.text)
    q, k, v = fns.project(layer, jnp.asarray(x), text_rope(positions.astype(np.int32), SMALL.text))
    attended = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), causal_mask(mask))
    ours = fns.merge(layer, jnp.asarray(x), attended)
    model = twin.model.language_model
    visible = torch.tensor(np.asarray(causal_mask(mask)))[:, None]
    with torch.no_grad():
        reference = model.layers[1](
            torch.tensor(x),
            attention_mask=torch.where(visible, 0.0, torch.finfo(torch.float32).min),
            position_embeddings=model.rotary_emb(torch.tensor(x), torch.tensor(positions)),
        ).numpy()
    assert difference(np.asarray(ours)[mask], reference[mask]) < 1e-5
