# ruff: noqa: E501
import numpy as np
import pytest

from pixelthink_jax.data.area_resize import area_resize

# First channel of cv2.resize(image(*size), ..., interpolation=cv2.INTER_AREA), OpenCV 5.0.0.
OPENCV = [
    ((4, 5), [[0, 55, 109, 182, 50, 53, 108], [13, 72, 118, 146, 71, 66, 86], [53, 125, 146, 37, 133, 103, 21], [80, 160, 190, 93, 97, 112, 132], [106, 195, 234, 148, 62, 122, 243], [146, 133, 107, 39, 156, 182, 178], [159, 112, 65, 3, 188, 203, 156]]),
    ((9, 8), [[96, 97, 109], [138, 146, 89], [113, 79, 108], [118, 109, 112]]),
    ((3, 8), [[46, 100, 154, 80], [46, 100, 154, 80], [113, 97, 81, 92], [113, 97, 81, 92], [181, 95, 190, 130], [181, 95, 190, 130]]),
    ((8, 6), [[79, 98, 117], [150, 107, 167], [157, 91, 75], [114, 125, 86]]),
]  # fmt: skip


def image(height, width):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((y * 53 + x * 91 + c * 37 + (x * y) % 7 * 29) % 256).astype(np.uint8)


@pytest.mark.parametrize(("size", "expected"), OPENCV)
def test_pixels_are_those_of_opencv_within_one_level(size, expected):
    expected = np.array(expected)
    found = area_resize(image(*size), *expected.shape)
    assert found.shape == (*expected.shape, 3) and found.dtype == np.uint8
    assert np.abs(found[:, :, 0].astype(int) - expected).max() <= 1


def test_the_same_size_is_the_same_image():
    assert np.array_equal(area_resize(image(5, 4), 5, 4), image(5, 4))
