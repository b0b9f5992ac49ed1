"""Patch rows against a plain loop over blocks, and strict reading of preprocessor files."""

import json

import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.patches import ImageConfig, patchify, patchify_all


def patch_rows(image, config):
    """Merge-block order written as loops: block row, block column, row and column in the block."""
    p, m, t = config.patch_size, config.merge_size, config.temporal_patch_size
    pixels = (image.astype(np.float64) / 255 - config.image_mean) / config.image_std
    rows = []
    for top in range(0, image.shape[0], p * m):
        for left in range(0, image.shape[1], p * m):
            for y in range(top, top + p * m, p):
                for x in range(left, left + p * m, p):
                    patch = pixels[y : y + p, x : x + p].transpose(2, 0, 1)
                    rows.append(np.stack([patch] * t, axis=1).ravel())
    return np.stack(rows)


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(),
        ImageConfig(patch_size=4, merge_size=3, temporal_patch_size=1),
        ImageConfig(
            patch_size=2, merge_size=1, temporal_patch_size=3, image_mean=(0.5,) * 3, image_std=(0.5,) * 3
        ),
    ],
)
def test_patchify_against_loops(config):
    f = config.factor
    images = np.random.default_rng(0).integers(0, 256, (2, 2 * f, 3 * f, 3), np.uint8)
    rows = np.asarray(patchify(images, image_config=config))
    expected = np.concatenate([patch_rows(image, config) for image in images])
    assert rows.dtype == np.float32
    assert rows.shape == (2 * 6 * config.merge_size**2, config.patch_dim)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_stacks_of_different_sizes_keep_their_order():
    config = ImageConfig()
    stacks = [np.full((1, 28, 56, 3), 10, np.uint8), np.full((2, 56, 28, 3), 200, np.uint8)]
    rows = np.asarray(patchify_all(stacks, image_config=config))
    assert rows.shape == (8 + 16, 1176)
    np.testing.assert_array_equal(rows[:8], patchify(stacks[0], image_config=config))


def test_patchify_refuses_other_sizes():
    with pytest.raises(ValueError, match="multiples of 28"):
        patchify(np.zeros((1, 30, 28, 3), np.uint8), image_config=ImageConfig())


def test_save_and_read(tmp_path):
    config = ImageConfig(patch_size=8, min_pixels=64, max_pixels=4096, filter="bilinear")
    config.save(tmp_path)
    assert ImageConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"min_pixels": 3136, "max_pixels": 12845056}, (3136, 12845056)),
        ({"size": {"shortest_edge": 100, "longest_edge": 200}}, (100, 200)),
        ({"size": {"shortest_edge": 100, "longest_edge": 200}, "max_pixels": 300}, (100, 300)),
        ({"patch_size": 14}, (3136, 1003520)),
    ],
)
def test_both_layouts_of_the_limits(values, limits, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    config = ImageConfig.from_pretrained(tmp_path)
    assert (config.min_pixels, config.max_pixels) == limits


def test_limits_inside_a_processor_file(tmp_path):
    values = {"image_processor": {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 7}}
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    assert ImageConfig.from_pretrained(tmp_path).patch_size == 7


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "missing"),
        ("{", "JSON"),
        ("[]", "object"),
        ('{"image_processor_type": "CLIPImageProcessor"}', "CLIPImageProcessor"),
        ('{"do_normalize": false}', "do_normalize"),
        ('{"patch_size": "big"}', "wrong kind"),
        ('{"image_mean": [1, 2]}', "wrong kind"),
        ('{"resample": 9}', "wrong kind"),
        ('{"patch_size": 0}', "patch_size"),
        ('{"min_pixels": 10, "max_pixels": 5}', "max_pixels"),
    ],
)
def test_unusable_files(text, part, tmp_path):
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match=part):
        ImageConfig.from_pretrained(tmp_path)
