"""SAM2 without torch: golden outputs of transformers, batching, configuration."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.folders import ArraySource
from pixelthink_jax.models.sam2 import model
from pixelthink_jax.models.sam2.config import PRESETS, Sam2Config, preset
from pixelthink_jax.models.sam2.hf_config import from_hf, to_hf
from pixelthink_jax.models.sam2.mask_decoder import choose_masks
from pixelthink_jax.models.sam2.names import tensor_table
from pixelthink_jax.models.sam2.prompt_encoder import NO_POINT, Prompts
from pixelthink_jax.models.sam2.resize import apply_matrices, resize, resize_matrix
from pixelthink_jax.models.weights import read_params
from tests.golden.make_sam2 import GOLDEN, PROMPTS, SMALL, pixels, weight

TOLERANCE = 1e-4
DECODE = jax.jit(model.decode_all_masks, static_argnums=3)


@pytest.fixture(scope="module")
def params():
    table = tensor_table(SMALL)
    return read_params(
        ArraySource({spec.name: weight(spec.name, spec.shape) for spec in table}, "golden"), table
    )


@pytest.fixture(scope="module")
def features(params):
    return jax.jit(model.encode_image, static_argnums=2)(params, pixels(), SMALL)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


def prompts(name: str, *, tokens: int = 0) -> Prompts:
    """One prompt for each of the two images, padded to a number of tokens that nothing attends to."""
    places, labels = PROMPTS[name]
    extra = max(0, tokens - len(labels))
    places, labels = [*places, *[[7.0, 3.0]] * extra], [*labels, *[NO_POINT] * extra]
    return Prompts(jnp.tile(jnp.asarray(places), (2, 1, 1, 1)), jnp.tile(jnp.asarray(labels), (2, 1, 1)))


def assert_close(ours, reference, tolerance=TOLERANCE):
    assert ours.shape == reference.shape
    assert np.abs(np.asarray(ours) - reference).max() <= tolerance * np.abs(reference).max()


def test_image_embedding_golden(features, golden):
    assert_close(features.image_embed, golden["image_embed"])


@pytest.mark.parametrize("tokens", [0, 8], ids=["exact", "padded"])
@pytest.mark.parametrize("name", PROMPTS)
def test_masks_golden(params, features, golden, name, tokens):
    out = DECODE(params, features, prompts(name, tokens=tokens), SMALL)
    for multimask, kind in ((True, "multi"), (False, "single")):
        masks, ious = choose_masks(out.low_res_masks, out.iou_predictions, SMALL, multimask=multimask)
        assert_close(masks[:, 0], golden[f"{name}_{kind}_masks"])
        assert_close(ious[:, 0], golden[f"{name}_{kind}_ious"])
    assert_close(out.object_score_logits[:, 0], golden[f"{name}_object"])


def test_batching_changes_nothing(params, features):
    """Prompts of different lengths in one call, two for each image, equal each prompt by itself."""
    both = jax.tree.map(
        lambda *x: jnp.concatenate(x, axis=1), *(prompts(n, tokens=8) for n in ("box", "box_points"))
    )
    together = DECODE(params, features, both, SMALL)
    for place, name in enumerate(("box", "box_points")):
        alone = DECODE(
            params,
            jax.tree.map(lambda x: x[1:], features),
            jax.tree.map(lambda x: x[1:], prompts(name)),
            SMALL,
        )
        assert_close(together.low_res_masks[1:, place], np.asarray(alone.low_res_masks[:, 0]), 1e-5)
        assert_close(together.iou_predictions[1:, place], np.asarray(alone.iou_predictions[:, 0]), 1e-5)


def test_gradient_reaches_every_parameter_but_the_frequencies(params):
    prompt = prompts("box_points")
    prompt = prompt.replace(masks=jnp.ones((2, 1, 24, 24, 1)), labels=prompt.labels.at[0, 0, 2].set(0))

    @jax.jit
    @jax.grad
    def gradient(tree):
        out = model.segment_logits(tree, jnp.asarray(pixels()), prompt, SMALL)
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(out))

    zero = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params))
        if not np.any(np.asarray(leaf))
    }
    # The mask prompt replaces the no-mask embedding; attention does not change when every key moves by one vector.
    never = {"prompt_encoder/no_mask_embed", "shared_image_embedding/positional_embedding"}
    assert {name for name in zero if not name.endswith("k_proj/bias")} == never | {
        "prompt_encoder/shared_embedding/positional_embedding"
    }


def test_bfloat16_is_close(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    run = jax.jit(functools.partial(model.segment_logits, config=SMALL))
    exact = run(params, jnp.asarray(pixels()), prompts("box")).low_res_masks
    rough = run(half, jnp.asarray(pixels(), jnp.bfloat16), prompts("box")).low_res_masks
    assert rough.dtype == jnp.float32
    assert_close(rough, np.asarray(exact), 0.2)


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 31.4), ("small", 38.5), ("base-plus", 73.3), ("large", 216.9)]
)
def test_published_sizes(name, millions):
    leaves = jax.tree.leaves(model.abstract_params(preset(name)))
    assert round(sum(leaf.size for leaf in leaves) / 1e6, 1) == millions
    assert from_hf(to_hf(PRESETS[name])) == PRESETS[name]


def test_large_model_shapes():
    """The largest model is traced at its full size in a moment, without computing."""
    config = preset("large")
    one = Prompts(jnp.zeros((1, 1, 5, 2)), jnp.zeros((1, 1, 5), jnp.int32))
    image = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.bfloat16)
    run = functools.partial(model.segment_logits, config=config)
    # The masks alone: a record of descriptions of arrays would not pass the check of its fields.
    masks = jax.eval_shape(lambda *args: run(*args).low_res_masks, model.abstract_params(config), image, one)
    assert masks.shape == (1, 1, 4, 256, 256)
    assert masks.dtype == jnp.float32


def test_initial_model_is_finite_and_seeded():
    one, two = (model.init_params(SMALL, jax.random.key(seed)) for seed in (0, 1))
    out = jax.jit(functools.partial(model.segment_logits, config=SMALL))(
        one, jnp.asarray(pixels()), prompts("box")
    )
    assert np.isfinite(out.low_res_masks).all()
    kernel = one["vision_encoder"]["neck"]["convs_0"]["kernel"]
    assert not np.array_equal(kernel, two["vision_encoder"]["neck"]["convs_0"]["kernel"])


def test_wrong_image_size_is_named(params):
    with pytest.raises(ValueError, match="expected \\[b, 96, 96, 3\\]"):
        model.encode_image(params, jnp.zeros((1, 64, 64, 3)), SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (1, 2)}, "one length"),
        ({"heads": (1, 2, 5, 4)}, "must divide"),
        ({"global_blocks": (3,)}, "opens a pooling stage"),
        ({"windows": (8, 3, 4, 2)}, "multiple of 2"),
        ({"image_size": 100}, "multiple of 32"),
        ({"image_size": 160, "windows": (16, 4, 4, 2)}, "multiple of its window"),
        ({"decoder_heads": 3}, "decoder_heads"),
        ({"pooled_stages": 4}, "pooled_stages"),
        ({"iou_depth": 1}, "at least"),
    ],
)
def test_impossible_configurations(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **change)


def hf_tree(**changes):
    tree = to_hf(SMALL)
    for path, value in changes.items():
        *sections, name = path.split("__")
        part = tree
        for section in sections:
            part = part[section]
        part[name] = value
    return tree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "sam"}, "model_type is 'sam'"),
        ({"mask_decoder_config__use_rope": True}, "field 'use_rope'"),
        ({"vision_config__fpn_kernel_size": 3}, "fpn_kernel_size is 3, only 1"),
        ({"vision_config__backbone_config__hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"prompt_encoder_config__image_size": [96, 128]}, "one whole number for both sides"),
        ({"prompt_encoder_config__patch_size": 14}, "patch_size is 14, but the other fields make it 16"),
        (
            {"vision_config__backbone_feature_sizes": [[256, 256], [128, 128], [64, 64]]},
            "the other fields make it",
        ),
        ({"vision_config__backbone_config__blocks_per_stage": "1,2"}, "expected whole numbers"),
        ({"vision_config__backbone_config__mlp_ratio": "four"}, "expected a number"),
        ({"mask_decoder_config": 3}, "expected a mapping"),
        ({"vision_config__backbone_config__global_attention_blocks": [3]}, "opens a pooling stage"),
    ],
)
def test_config_fields_that_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        from_hf(hf_tree(**changes))


def test_video_config_is_read():
    tree = hf_tree(model_type="sam2_video", num_maskmem=7, memory_attention_hidden_size=256, image_size=1024)
    assert from_hf(tree) == SMALL
    assert from_hf({"model_type": "sam2_video"}) == Sam2Config()


def test_resize_matrices_sum_to_one():
    for size_in, size_out in ((7, 64), (64, 7), (1, 5), (5, 1), (300, 96)):
        for method in ("bilinear", "bicubic", "antialias"):
            np.testing.assert_allclose(resize_matrix(size_in, size_out, method).sum(axis=1), 1, atol=1e-5)


def test_resize_matches_jax_where_definitions_agree():
    image = np.random.default_rng(0).standard_normal((20, 31, 3)).astype(np.float32)
    reference = jax.image.resize(jnp.asarray(image), (50, 47, 3), "bilinear")
    np.testing.assert_allclose(resize(jnp.asarray(image), (50, 47), "bilinear"), reference, atol=1e-5)
    reference = jax.image.resize(jnp.asarray(image), (9, 13, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(resize(jnp.asarray(image), (9, 13), "antialias"), reference, atol=1e-5)


def test_padding_under_zero_columns_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (10, 11, 3), np.uint8)
    rows, cols = resize_matrix(10, 8, "antialias"), resize_matrix(11, 8, "antialias")
    padded = jnp.asarray(np.pad(image, ((0, 6), (0, 5), (0, 0)), constant_values=99))
    more = (jnp.asarray(np.pad(matrix, ((0, 0), (0, extra)))) for matrix, extra in ((rows, 6), (cols, 5)))
    alone = apply_matrices(jnp.asarray(image), jnp.asarray(rows), jnp.asarray(cols))
    np.testing.assert_allclose(apply_matrices(padded, *more), alone, atol=1e-4)
