import numpy as np
import pytest

from pixelthink_jax.data.shapes import ShapeReason, render, render_mask
from pixelthink_jax.data.shapes.geometry import KINDS, signed_distance


@pytest.mark.parametrize("kind", KINDS)
def test_signed_distance_has_slope_one_and_the_named_extent(kind):
    side = np.linspace(-1.5, 1.5, 601)
    x, y = np.meshgrid(side, side)
    distance = signed_distance(kind, x, y, 1.0)
    rows, columns = np.nonzero(distance <= 0)
    assert 0.75 <= side[columns.max()] <= 1.1 and 0.8 <= -side[rows.min()] <= 1.1
    slope = np.hypot(*np.gradient(distance, side, side))
    assert np.median(slope) == pytest.approx(1.0, abs=0.01)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind"):
        signed_distance("blob", np.zeros(1), np.zeros(1), 1.0)


def test_light_falls_off_from_the_upper_left():
    pictures = [ShapeReason("train", render_size=(64, 64))[i].image.astype(float) for i in range(50)]
    mean = np.mean(pictures, axis=0)
    # Red fades faster to the right, blue faster downwards, and all colours along the diagonal.
    ratio = mean[..., 0] / mean[..., 2]
    assert ratio[:16, -16:].mean() < 0.85 * ratio[-16:, :16].mean()
    assert mean[-16:, -16:].mean() < 0.75 * mean[:16, :16].mean()


def test_small_and_large_renderings_show_the_same_scene():
    scene = ShapeReason("test").asked(2).graph.scene
    small = render(scene, (96, 96)).astype(float)
    large = render(scene, (960, 960)).astype(float).reshape(96, 10, 96, 10, 3).mean(axis=(1, 3))
    assert np.abs(small - large).mean() < 4


def test_mask_marks_the_pixels_that_drawing_changes():
    graph = ShapeReason("test").asked(5).graph
    scene = graph.scene
    for index, item in enumerate(graph.objects):
        order = scene.shapes.index(item.shape)
        assert np.array_equal(render_mask(scene, order, (scene.width, scene.height)), graph.mask(index))
    total = sum(graph.mask(i).astype(int) for i in range(len(graph.objects)))
    assert total.max() == 1
