"""Every part of SAM2, and the whole, against transformers' PyTorch model on random weights."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pixelthink_jax.models.sam2 import hiera, mask_decoder, model, prompt_encoder
from pixelthink_jax.models.sam2.layers import attend
from pixelthink_jax.models.sam2.prompt_encoder import NO_POINT, PAD_POINT, Prompts
from pixelthink_jax.models.sam2.resize import resize
from tests.golden.make_sam2 import SMALL
from tests.parity.sam2_twin import channels_first, make_twin, params_of, relative

SUBMODULE, WHOLE = 1e-5, 1e-4


@pytest.fixture(scope="module")
def twin():
    return make_twin(SMALL)


@pytest.fixture(scope="module")
def params(twin):
    return params_of(twin, SMALL)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 96, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def features(params, pixels):
    return jax.jit(model.encode_image, static_argnums=2)(params, pixels, SMALL)


DECODE = jax.jit(model.decode_masks, static_argnums=3, static_argnames="multimask")


def apply(module, params, *inputs):
    """One compiled program instead of one for each operation."""
    return jax.jit(module.apply)({"params": params}, *inputs)


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_pixels(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(channels_first(pixels)))


@pytest.mark.parametrize(
    ("size_in", "size_out", "method", "mode", "antialias"),
    [
        ((7, 7), (64, 64), "bicubic", "bicubic", False),
        ((7, 5), (24, 24), "bicubic", "bicubic", False),
        ((14, 14), (7, 9), "bicubic", "bicubic", False),
        ((24, 24), (70, 151), "bilinear", "bilinear", False),
        ((64, 64), (31, 47), "bilinear", "bilinear", False),
        ((333, 77), (96, 96), "antialias", "bilinear", True),
        ((40, 1000), (96, 96), "antialias", "bilinear", True),
        ((1, 3), (96, 96), "antialias", "bilinear", True),
    ],
)
def test_resize_equals_torch(size_in, size_out, method, mode, antialias):
    x = normal(2, *size_in, 3)
    reference = torch.nn.functional.interpolate(
        torch_pixels(x), size_out, mode=mode, align_corners=False, antialias=antialias
    )
    assert relative(channels_first(resize(jnp.asarray(x), size_out, method)), reference) < 1e-5


def test_position_embedding(twin, params):
    backbone = params["vision_encoder"]["backbone"]
    ours = hiera.position_embedding(backbone["pos_embed"], backbone["pos_embed_window"], 24)
    assert relative(ours, twin.vision_encoder.backbone._get_pos_embed((24, 24))) < SUBMODULE


def test_patch_embed(twin, params, pixels):
    ours = apply(hiera.PatchEmbed(SMALL), params["vision_encoder"]["backbone"]["patch_embed"], pixels)
    assert relative(ours, twin.vision_encoder.backbone.patch_embed(torch_pixels(pixels))) < SUBMODULE


# (block, side): padded windows, pooling within padded windows, global attention, each met at least once.
@pytest.mark.parametrize(("index", "side"), [(0, 24), (0, 11), (1, 24), (1, 20), (2, 12), (4, 6), (6, 6)])
def test_block(twin, params, index, side):
    stage, first = [(0, True), (1, True), (1, False), (2, True), (2, False), (2, False), (3, True)][index]
    x = normal(2, side, side, SMALL.widths[stage - 1 if first and stage else stage])
    block = hiera.HieraBlock(**hiera._block_fields(SMALL, stage, index, first))
    ours = apply(block, params["vision_encoder"]["backbone"][f"blocks_{index}"], x)
    assert relative(ours, twin.vision_encoder.backbone.blocks[index](torch.tensor(x))) < SUBMODULE


def test_trunk_and_neck(twin, params, pixels):
    stages = apply(hiera.Hiera(SMALL), params["vision_encoder"]["backbone"], pixels)
    reference = twin.vision_encoder.backbone(torch_pixels(pixels)).intermediate_hidden_states
    assert len(stages) == len(reference) == 4
    for ours, theirs in zip(stages, reference, strict=True):
        assert relative(ours, theirs) < SUBMODULE
    maps = tuple(jnp.asarray(theirs.detach().numpy()) for theirs in reference)
    levels = apply(hiera.Neck(SMALL), params["vision_encoder"]["neck"], maps)
    pyramid, _ = twin.vision_encoder.neck(reference)
    for ours, theirs in zip(levels, pyramid[:0:-1], strict=True):
        assert relative(channels_first(ours), theirs) < SUBMODULE


def test_fourier_features(twin, params):
    places = np.random.default_rng(0).uniform(0, 96, (2, 3, 4, 2)).astype(np.float32)
    frequencies = prompt_encoder.FourierFeatures(32)
    ours = apply(frequencies, params["prompt_encoder"]["shared_embedding"], places / 96)
    reference = twin.prompt_encoder.shared_embedding(torch.tensor(places), (96, 96))
    assert relative(ours, reference) < SUBMODULE
    ours = apply(frequencies, params["shared_image_embedding"], prompt_encoder.grid_places(6))
    assert relative(channels_first(ours)[None], twin.get_image_wide_positional_embeddings()) < SUBMODULE


def test_prompt_encoder(twin, params):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 96, (2, 1, 12, 2)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3, PAD_POINT], (2, 1, 12)).astype(np.int32)
    masks = normal(2, 1, 24, 24, 1)
    prompts = Prompts(jnp.asarray(points), jnp.asarray(labels), jnp.asarray(masks))
    sparse, real, dense = apply(prompt_encoder.PromptEncoder(SMALL), params["prompt_encoder"], prompts)
    reference, dense_reference = twin.prompt_encoder(
        torch.tensor(points[:, :, :-1]), torch.tensor(labels[:, :, :-1]), None, torch_pixels(masks[:, 0])
    )
    assert real.all()
    # transformers appends its own pad point where we pass one: compare all others, and the pad point by itself.
    assert relative(sparse[:, :, :-1], reference[:, :, :-1]) < SUBMODULE
    assert relative(sparse[labels == PAD_POINT][0], reference[0, 0, -1]) < SUBMODULE
    assert relative(channels_first(dense[:, 0]), dense_reference) < SUBMODULE


def test_two_way_transformer(twin, params):
    tokens, image, places = normal(2, 9, 32), normal(2, 36, 32, seed=2), normal(1, 36, 32, seed=3)
    transformer = mask_decoder.TwoWayTransformer(SMALL)
    seen = jnp.ones((2, 9), bool)
    ours = apply(transformer, params["mask_decoder"]["transformer"], tokens, image, places, seen)
    grids = [
        torch.tensor(np.repeat(x, 2 // len(x), 0)).transpose(1, 2).reshape(2, 32, 6, 6)
        for x in (image, places)
    ]
    reference = twin.mask_decoder.transformer(torch.tensor(tokens)[:, None], *grids, None)
    for one, other in zip(ours, reference, strict=True):
        assert relative(one, other[:, 0]) < SUBMODULE


def draw_prompts(kind: str) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Points `[2, 3, n, 2]`, their labels, and boxes `[2, 3, 4]`."""
    rng = np.random.default_rng(3)
    corners = np.sort(rng.uniform(0, 96, (2, 3, 2, 2)), axis=2).astype(np.float32)
    boxes = corners.reshape(2, 3, 4) if "box" in kind else None
    if "points" not in kind:
        return None, None, boxes
    return rng.uniform(0, 96, (2, 3, 2, 2)).astype(np.float32), rng.integers(0, 2, (2, 3, 2)), boxes


def our_prompts(points: np.ndarray | None, labels: np.ndarray | None, boxes: np.ndarray | None) -> Prompts:
    """The original's order: corners, clicks, pad point."""
    batch, count = (boxes if boxes is not None else points).shape[:2]
    parts, kinds = [], []
    if boxes is not None:
        parts.append(boxes.reshape(batch, count, 2, 2))
        kinds.append(np.tile([2, 3], (batch, count, 1)))
    if points is not None:
        parts.append(points)
        kinds.append(labels)
    parts.append(np.zeros((batch, count, 1, 2), np.float32))
    kinds.append(np.full((batch, count, 1), PAD_POINT))
    return Prompts(jnp.asarray(np.concatenate(parts, 2)), jnp.asarray(np.concatenate(kinds, 2), jnp.int32))


def reference_output(twin, pixels, points, labels, boxes, **options):
    with torch.no_grad():
        return twin(
            pixel_values=torch_pixels(pixels),
            input_points=None if points is None else torch.tensor(points),
            input_labels=None if labels is None else torch.tensor(labels),
            # transformers shifts the tensor it is given in place.
            input_boxes=None if boxes is None else torch.tensor(boxes).clone(),
            **options,
        )


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", ["box", "points", "box and points"])
def test_whole_model(twin, params, pixels, features, kind, multimask):
    points, labels, boxes = draw_prompts(kind)
    reference = reference_output(twin, pixels, points, labels, boxes, multimask_output=multimask)
    ours = DECODE(params, features, our_prompts(points, labels, boxes), SMALL, multimask=multimask)
    assert relative(ours.low_res_masks, reference.pred_masks) < WHOLE
    assert relative(ours.iou_predictions, reference.iou_scores) < WHOLE
    assert relative(ours.object_score_logits[..., None], reference.object_score_logits) < WHOLE
    assert relative(channels_first(features.image_embed), reference.image_embeddings[-1]) < WHOLE
    for one, other in zip(features.high_res_feats, reference.image_embeddings[:-1], strict=True):
        assert relative(channels_first(one), other) < WHOLE
    # The weights are such that the prompt matters, so the comparison above means something.
    spread = (
        np.ptp(np.asarray(ours.low_res_masks), axis=1).max() / np.abs(np.asarray(ours.low_res_masks)).max()
    )
    assert spread > 0.02


def test_mask_prompt(twin, params, pixels, features):
    points, labels, _ = draw_prompts("points")
    points, labels, masks = points[:, :1], labels[:, :1], 3 * normal(2, 1, 24, 24, 1)
    reference = reference_output(twin, pixels, points, labels, None, input_masks=torch_pixels(masks[:, 0]))
    prompts = our_prompts(points, labels, None).replace(masks=jnp.asarray(masks))
    ours = DECODE(params, features, prompts, SMALL)
    assert relative(ours.low_res_masks, reference.pred_masks) < WHOLE


@pytest.mark.parametrize(("delta", "threshold"), [(0.05, 0.98), (1.0, 0.6), (0.0, 1.0), (9.0, 0.5)])
def test_dynamic_multimask(twin, delta, threshold):
    config = dataclasses.replace(SMALL, stability_delta=delta, stability_threshold=threshold)
    masks, ious = 2 * normal(4, 5, 4, 12, 12), normal(4, 5, 4, seed=2)
    masks[0, 0, 0] = -100.0  # an empty mask is stable
    decoder = copy.copy(twin.mask_decoder)
    decoder.dynamic_multimask_stability_delta, decoder.dynamic_multimask_stability_thresh = delta, threshold
    reference = decoder._dynamic_multimask_via_stability(torch.tensor(masks), torch.tensor(ious))
    ours = mask_decoder.choose_masks(jnp.asarray(masks), jnp.asarray(ious), config, multimask=False)
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_depths(pixels):
    """Three stages, one of them without pooling, three two-way blocks, a deeper IoU head, no dynamic choice."""
    config = dataclasses.replace(
        SMALL,
        image_size=64,
        depths=(1, 1, 2),
        widths=(16, 24, 32),
        heads=(2, 2, 1),
        windows=(4, 4, 3),
        global_blocks=(),
        pooled_stages=2,
        top_down_levels=(1, 2),
        decoder_layers=3,
        iou_depth=4,
        dynamic_multimask=False,
    )
    twin, pixels = make_twin(config, seed=4), pixels[:1, :64, :64]
    points, labels, boxes = (x[:1] for x in draw_prompts("box and points"))
    reference = reference_output(twin, pixels, points, labels, boxes, multimask_output=False)
    params = params_of(twin, config)
    features = jax.jit(model.encode_image, static_argnums=2)(params, pixels, config)
    ours = DECODE(params, features, our_prompts(points, labels, boxes), config, multimask=False)
    assert relative(ours.low_res_masks, reference.pred_masks) < WHOLE
    assert relative(ours.iou_predictions, reference.iou_scores) < WHOLE


def test_padded_batch_equals_transformers_alone(twin, params, pixels, features):
    """transformers lets its padding take part; ours leaves the prompt as it is alone."""
    points, labels, _ = draw_prompts("points")
    reference = reference_output(twin, pixels, points, labels, None)
    prompts = our_prompts(points, labels, None)
    padded = Prompts(
        jnp.pad(prompts.points, ((0, 0), (0, 0), (0, 4), (0, 0)), constant_values=33.0),
        jnp.pad(prompts.labels, ((0, 0), (0, 0), (0, 4)), constant_values=NO_POINT),
    )
    ours = DECODE(params, features, padded, SMALL)
    assert relative(ours.low_res_masks, reference.pred_masks) < WHOLE


def test_long_attention_equals_torch():
    """The chunked path, which only large maps take."""
    q, k, v = (3 * normal(1, 2, 1024, 8, seed=seed) for seed in range(3))
    reference = torch.nn.functional.scaled_dot_product_attention(*(torch.tensor(x) for x in (q, k, v)))
    assert relative(jax.jit(attend)(q, k, v), reference) < SUBMODULE
