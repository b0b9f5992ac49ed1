"""Every kind of image file gives upright 8-bit RGB or one clear error."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import load_image, resize, smart_resize

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def file_bytes(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_path_bytes_pil_and_array_agree(tmp_path):
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), file_bytes(image), image, RGB):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.writeable
        np.testing.assert_array_equal(loaded, RGB)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_bytes(Image.fromarray(RGB), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(load_image(data), np.asarray(upright.convert("RGB")))
    assert load_image(data).shape == ((7, 5, 3) if orientation > 4 else (5, 7, 3))


def test_malformed_exif_leaves_the_pixels():
    data = file_bytes(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00not a block at all")
    np.testing.assert_array_equal(load_image(data), RGB)


def test_transparency_is_composited_on_white():
    alpha = np.zeros((5, 7), np.uint8)
    alpha[0], alpha[1] = 255, 128
    rgba = np.dstack([RGB, alpha])
    for source in (file_bytes(Image.fromarray(rgba)), rgba):
        loaded = load_image(source)
        np.testing.assert_array_equal(loaded[0], RGB[0])
        np.testing.assert_array_equal(loaded[2:], 255)
        half = RGB[1] * (128 / 255) + 255 * (127 / 255)
        assert np.abs(loaded[1] - half).max() <= 1
    grey = file_bytes(Image.fromarray(np.dstack([RGB[..., 0], alpha]), "LA"))
    assert load_image(grey)[4, 0].tolist() == [255, 255, 255]
    assert load_image(grey)[0, 3].tolist() == [RGB[0, 3, 0]] * 3


def test_palette_with_and_without_transparency():
    palette = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7), "P")
    palette.putpalette([v for i in range(256) for v in (i, 255 - i, 3)])
    assert load_image(file_bytes(palette))[1, 2].tolist() == [9, 246, 3]
    clear = load_image(file_bytes(palette, transparency=9))
    assert clear[1, 2].tolist() == [255, 255, 255]
    assert clear[1, 3].tolist() == [10, 245, 3]


def test_rgb_with_a_transparent_colour():
    data = file_bytes(Image.fromarray(RGB), transparency=tuple(int(v) for v in RGB[2, 2]))
    assert load_image(data)[2, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(RGB).convert(mode)
    data = file_bytes(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    np.testing.assert_allclose(load_image(data), np.asarray(image.convert("RGB")), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    deep = np.array([[0, 257, 32768, 65535], [128, 129, 65406, 65407]], np.uint16)
    expected = np.round(deep / 257)
    for source in (file_bytes(Image.fromarray(deep), kind), deep, Image.fromarray(deep.astype(np.int32))):
        np.testing.assert_array_equal(load_image(source)[..., 1], expected)


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (10, 200)]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = file_bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert load_image(data).max() == 10


def test_one_pixel():
    assert load_image(file_bytes(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def bomb(width, height):
    """A PNG header that promises more pixels than it holds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_decoding(side, tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"bomb\.png: .*pixels"):
            load_image(tmp_path / "bomb.png")


def test_the_size_limit_can_be_lowered():
    with pytest.raises(InputError, match="7x5"):
        load_image(RGB, max_pixels=34)
    with pytest.raises(InputError, match="7x5"):
        load_image(Image.fromarray(RGB), max_pixels=34)
    assert load_image(RGB, max_pixels=35).shape == RGB.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_one_clear_error(kind, share, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = file_bytes(Image.fromarray(noise), kind)
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=str(tmp_path / "cut")) as caught:
        load_image(tmp_path / "cut")
    if kind == "PNG" and share > 0.1:
        with Image.open(tmp_path / "cut") as image, pytest.raises(InputError, match="cut"):
            load_image(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg></svg>", b"\xff\xd8\xff"])
def test_not_an_image(data, tmp_path):
    (tmp_path / "x.jpg").write_bytes(data)
    for source in (tmp_path / "x.jpg", data):
        with pytest.raises(InputError):
            load_image(source)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such image file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3, 3), np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((2, 2, 3)),
    ],
)
def test_arrays_of_another_kind_are_refused(array):
    with pytest.raises(InputError, match="image array"):
        load_image(array)


def test_float_and_32_bit_files_are_refused():
    for values in (np.ones((2, 2), np.float32), np.full((2, 2), 70_000, np.int32)):
        with pytest.raises(InputError, match="convert it to 8 bits"):
            load_image(file_bytes(Image.fromarray(values), "TIFF"))


def test_bool_and_grey_arrays():
    assert load_image(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    assert load_image(np.array([[[7]], [[9]]], np.uint8)).tolist() == [[[7] * 3], [[9] * 3]]


def test_resize_keeps_an_image_of_the_right_size():
    assert resize(RGB, 5, 7, filter="bicubic") is RGB
    expected = np.asarray(Image.fromarray(RGB).resize((14, 3), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(RGB, 3, 14, filter="bilinear"), expected)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (840, 840, (840, 840)),
        (1, 1, (56, 56)),
        (14, 42, (56, 112)),  # banker's rounding: 0.5 -> 0, so the area is too small and both sides grow
        (70, 98, (56, 112)),  # 2.5 -> 2, 3.5 -> 4
        (10_000, 9_000, (3752, 3388)),
        (28, 5600, (28, 5600)),
    ],
)
def test_smart_resize(height, width, size):
    assert smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=12_845_056) == size


def test_smart_resize_refuses_a_strip():
    with pytest.raises(InputError, match="200"):
        smart_resize(1, 201, factor=28, min_pixels=3136, max_pixels=12_845_056)
