import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from pixelthink_jax.data.masks import count_layers, decode_rle, pack_mask, unpack_mask
from pixelthink_jax.errors import InputError

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_three_states_come_back(seed, height, width):
    states = np.random.default_rng(seed).choice(np.array([0, 1, 255], np.uint8), (height, width))
    back = unpack_mask(pack_mask(states))
    assert np.array_equal(np.asarray(back, np.uint8), states)
    assert (back.dtype == np.uint8) == bool((states == 255).any())


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
def test_compressed_codes_are_read_as_coco_reads_them(seed, height, width, share):
    pixels = np.random.default_rng(seed).random((height, width)) < share
    code = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    for counts in (code["counts"], code["counts"].decode()):
        found = decode_rle({"size": [height, width], "counts": counts}, height, width, "here")
        assert np.array_equal(found, pixels)


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([[1.0, 1.0, 5.0, 5.0]], "polygon of 2 points"),
        ([[1.0, 1.0, 5.0, 5.0, 3.0]], "expected x, y"),
        ([[1.0, 1.0, 5.0, float("nan"), 3.0, 3.0]], "finite"),
        ([[20.0, 1.0, 25.0, 1.0, 25.0, 9.0]], "outside its image of 12x10"),
        ([[1.0, -9.0, 5.0, -1.0, 3.0, -2.0]], "outside its image"),
        ([], "expected polygons or an RLE"),
        ("abc", "expected polygons or an RLE"),
        ({"size": [12, 10], "counts": [120]}, "size"),
        ({"size": [10, 12], "counts": [119]}, "cover 119 of 120"),
        ({"size": [10, 12], "counts": "\u00e9"}, "neither runs"),
        ({"size": [10, 12], "counts": "oooooooooooo"}, "neither runs"),
        ({"size": [10, 12], "counts": [-1, 121]}, "neither runs"),
        ({"size": [10, 12]}, "neither runs"),
    ],
)
def test_damaged_segmentations_are_named(segmentation, says):
    with pytest.raises(InputError, match=says) as caught:
        count_layers(segmentation, 10, 12, "file, row 3")
    assert str(caught.value).startswith("file, row 3: ") and "\n" not in str(caught.value)


def test_overlapping_parts_are_counted():
    square = [1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0]
    assert count_layers([square, square], 10, 12, "here").max() == 2


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
def test_genuine_codes_of_coco():
    for row in json.loads((SAMPLES / "cocoapi_fakesegm_first8.json").read_text()):
        code = row["segmentation"]
        found = decode_rle(code, *code["size"], "here")
        assert np.array_equal(found, coco.decode({**code, "counts": code["counts"].encode()}) > 0)
