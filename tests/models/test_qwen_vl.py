"""Qwen2.5-VL without torch: golden outputs, layouts, positions, and what must not change the result."""

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.layers import apply
from pixelthink_jax.models.qwen_vl.rope import vision_rope
from pixelthink_jax.models.qwen_vl.table import tensor_table
from pixelthink_jax.models.qwen_vl.vision import (
    VisionBlock,
    embed_patches,
    full_attention,
    run_blocks,
    window_attention,
)
from pixelthink_jax.models.weights import group_by_leaf, leaf_shape
from tests.models.qwen_small import (
    CASES,
    END,
    IMAGE,
    SMALL,
    START,
    TIED,
    Batch,
    batch_logits,
    difference,
    embed_batch,
    gradient_difference,
    make_batch,
    named_params,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "qwen_vl.npz"
VISION = SMALL.vision


@pytest.fixture(scope="module")
def params():
    return named_params(SMALL)


@pytest.mark.parametrize(
    ("name", "case"),
    [*product(["untied"], ["one size", "several images", "right padding"]), ("tied", "one size")],
)
def test_golden_logits(name, case, params):
    """What transformers computed for weights that follow from the tensors' names."""
    config = TIED if name == "tied" else SMALL
    batch, reference = make_batch(case), np.load(GOLDEN)[f"{name}/{case}"]
    logits = batch_logits(named_params(config) if config is TIED else params, batch, config)
    assert difference(logits[batch.real][::5], reference) < 1e-5


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
def test_layout_is_a_partition_into_windows(merged):
    """Every patch stands in exactly one place, with its own position, in a window of its own neighbours."""
    grid = np.array([(t, 2 * h, 2 * w) for t, h, w in merged])
    layout = qwen_vl.vision_layout(grid, VISION)
    units = int(grid.prod(1).sum()) // VISION.merge_unit
    np.testing.assert_array_equal(layout.order.reshape(-1)[layout.restore], np.arange(units))
    assert sum(count * size for count, size in layout.windows) == layout.positions.shape[1]
    sizes = {(h, w) for _, h, w in merged}
    assert (layout.mask is None) == (len(sizes) == 1)
    real = np.ones(layout.positions.shape[:2], bool) if layout.mask is None else layout.mask
    assert real.sum() == units * VISION.merge_unit
    cells = layout.positions // (2 * VISION.window_tokens)
    edges = np.cumsum([0, *(size for count, size in layout.windows for _ in range(count))])
    for frame, (h, w) in enumerate((h, w) for t, h, w in merged for _ in range(t)):
        seen = [
            {tuple(cell) for cell in cells[frame, low:high][real[frame, low:high]]}
            for low, high in zip(edges[:-1], edges[1:], strict=True)
        ]
        seen = [cell for cell in seen if cell]
        assert all(len(cell) == 1 for cell in seen)
        assert len(set.union(*seen)) == len(seen) == -(-h // 3) * -(-w // 3)
        places = {tuple(p) for p in layout.positions[frame][real[frame]]}
        assert places == set(product(range(2 * h), range(2 * w)))


def test_positions_worked_by_hand():
    """Three text tokens, an image of 1 x 2 x 3 tokens between its marks, two text tokens; two places of padding."""
    ids = np.array([[0, 0, 5, 6, START, *[IMAGE] * 6, END, 7]])
    mask = (ids != 0).astype(np.int64)
    positions = qwen_vl.position_ids(ids, mask, np.array([[1, 4, 6]]), SMALL)
    assert positions[:, 0].tolist() == [
        [1, 1, 0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [1, 1, 0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7],
        [1, 1, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7],
    ]


@pytest.mark.parametrize(
    ("ids", "grid", "message"),
    [
        ([START, IMAGE, END], None, "more image placeholder tokens"),
        ([START, IMAGE, END], [[1, 4, 4]], "shorter than the 4 tokens"),
        ([3, 4, 5], [[1, 4, 4]], "no placeholder tokens"),
    ],
)
def test_prompt_and_grid_disagree(ids, grid, message):
    grid = None if grid is None else np.array(grid)
    with pytest.raises(InputError, match=message):
        qwen_vl.position_ids(np.array([ids]), np.ones((1, len(ids))), grid, SMALL)


@pytest.mark.parametrize("grid", [[[1, 3, 4]], [[1, 0, 4]], [], [1, 4, 4]])
def test_bad_grid(grid):
    with pytest.raises(InputError, match="image_grid_thw"):
        qwen_vl.vision_layout(np.array(grid), VISION)


def test_padding_and_batch_do_not_matter(params):
    """A row alone, and padded left beside a longer one with another image."""
    batch = make_batch("two sizes")
    patches, real = int(np.prod(batch.image_grid_thw[1])), batch.real[1]
    assert not real.all()
    alone = Batch(
        batch.input_ids[1:, real],
        np.ones((1, real.sum())),
        batch.pixel_values[-patches:],
        batch.image_grid_thw[1:],
    )
    together = batch_logits(params, batch, SMALL)[1][real]
    assert difference(together, batch_logits(params, alone, SMALL)[0]) < 1e-5


def test_recomputation_and_unrolling_change_nothing(params):
    """Of the tower here; of the text blocks in `test_qwen_vl_cache`."""
    batch = make_batch("one size")
    layout = qwen_vl.vision_layout(batch.image_grid_thw, VISION)

    def gradient(**options):
        def loss(vision):
            tokens = qwen_vl.encode_images({"vision": vision}, batch.pixel_values, layout, SMALL, **options)
            return jnp.sum(jnp.square(tokens))

        return jax.jit(jax.grad(loss))(params["vision"])

    for options in ({"remat": "full", "unroll": True}, {"remat": "dots"}, {"remat": "dots_except_mlp"}):
        assert gradient_difference(gradient(**options), gradient()) < 1e-5


@pytest.mark.parametrize(
    "whole", [(1, 3), (0, 1, 3), ()], ids=["a period of two", "no period", "windows alone"]
)
def test_every_block_of_the_tower_attends_as_its_index_says(whole):
    config = dataclasses.replace(
        SMALL, vision=dataclasses.replace(VISION, depth=4, full_attention_blocks=whole)
    )
    batch, vision = make_batch("one size"), config.vision
    layout = qwen_vl.vision_layout(batch.image_grid_thw, vision)
    params = named_params(config)["vision"]
    patches = embed_patches(params["patch_embed"], batch.pixel_values, layout, vision)
    x = patches
    for index in range(vision.depth):
        attention = partial(full_attention, mask=layout.mask)
        attention = attention if index in whole else partial(window_attention, layout=layout)
        block = jax.tree.map(lambda leaf, index=index: leaf[index], params["blocks"])
        x = apply(VisionBlock(vision), block, x, vision_rope(layout.positions, vision), attention)
    for options in ({}, {"unroll": True}, {"remat": "dots_except_mlp"}):
        assert difference(run_blocks(params["blocks"], patches, layout, vision, **options), x) < 1e-5


def test_bfloat16(params):
    """Weights and activations in bfloat16: float32 logits close to the float32 model's."""
    batch = make_batch("right padding")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    embeds = jax.eval_shape(lambda half: embed_batch(half, batch, SMALL), half)
    assert embeds.dtype == jnp.bfloat16
    logits = batch_logits(half, batch, SMALL)
    assert logits.dtype == jnp.float32
    assert difference(logits[batch.real][::5], np.load(GOLDEN)["untied/right padding"]) < 0.1


def test_init_params_fits_the_table():
    """The drawn tree has the leaves of the table, in the asked dtype, different in every layer."""
    draw = lambda key: qwen_vl.init_params(TIED, key, jnp.bfloat16)  # noqa: E731
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    drawn = {
        name(path): leaf for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(draw, jax.random.key(0)))
    }
    table = {path: leaf_shape(group) for path, group in group_by_leaf(tensor_table(TIED)).items()}
    assert {path: leaf.shape for path, leaf in drawn.items()} == table
    assert {leaf.dtype for leaf in drawn.values()} == {jnp.dtype(jnp.bfloat16)}
    kernel = jax.jit(lambda key: draw(key)["text"]["blocks"]["q_proj"]["kernel"])(jax.random.key(0))
    kernel = np.asarray(kernel, np.float32)
    assert abs(kernel[0] - kernel[1]).max() > 0
    assert kernel.std() == pytest.approx(SMALL.initializer_range, rel=0.1)


def test_every_case_is_distinct():
    """Guards the batches themselves: padding, several sizes, windows that do not divide are really there."""
    assert (make_batch("two sizes").attention_mask[:, 0] == 0).any()
    assert (make_batch("right padding").attention_mask[:, -1] == 0).any()
    for case in CASES:
        grid = make_batch(case).image_grid_thw
        if grid is not None and case != "frames":
            assert (grid[:, 1:] // 2 % VISION.window_tokens).any() and (grid[:, 1] != grid[:, 2]).all()
