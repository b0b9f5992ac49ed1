"""Our processor against transformers' own: image arrays, rendered chat, token ids and the whole processor."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax.processing.images import load_image, smart_resize
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import build_tokenizer

QWEN2 = Path(__file__).parents[3] / "shared" / "samples" / "qwen2_tokenizer"
TEXTS = ["Please find 'the red cup' with bbox and points.", "You are a helpful assistant", "Be brief."] * 2
# The operators last as long as the library that declares them.
_ALIVE = []
SIZES = [(100, 150), (57, 31), (28, 28), (300, 80), (13, 9), (640, 427)]


@pytest.fixture(scope="module")
def torchvision_operators():
    """Declares the two operators torchvision's import looks for, which a CPU torch does not have."""
    torch = pytest.importorskip("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _ALIVE.append(library)


@pytest.fixture(scope="module", params=["qwen2", "small"])
def folder(request, tmp_path_factory):
    """A tokenizer folder: the real vocabulary where it is there, and one built here."""
    if request.param == "qwen2":
        if not QWEN2.is_dir():
            pytest.skip("the Qwen2 tokenizer is not beside the project")
        return QWEN2
    path = tmp_path_factory.mktemp("small")
    build_tokenizer(TEXTS, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_pretrained(folder)


def processor(tokenizer, config=None, **resize):
    policy = ResizePolicy(**({"kind": "smart", "size": None} | resize))
    return Processor(config or ImageConfig(max_pixels=200_000), tokenizer, PolicyFormat(resize=policy))


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def image_module(torchvision_operators):
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

    return image_processing_pil_qwen2_vl


def test_smart_resize_on_many_sizes(image_module):
    rng = np.random.default_rng(0)
    for _ in range(2000):
        height, width = (int(v) for v in np.exp(rng.uniform(0, np.log(6000), 2)).clip(1))
        factor = int(rng.choice([8, 16, 28, 32]))
        low = int(rng.choice([factor**2, 4 * factor**2, 65_536]))
        limits = {"factor": factor, "min_pixels": low, "max_pixels": low * int(rng.integers(2, 400))}
        if max(height, width) / min(height, width) <= 200:
            expected = image_module.smart_resize(height, width, **limits)
            assert smart_resize(height, width, **limits) == expected, (height, width, limits)


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(max_pixels=100_000),
        ImageConfig(patch_size=8, merge_size=3, temporal_patch_size=1, min_pixels=576, max_pixels=50_000),
        ImageConfig(patch_size=16, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, filter="bilinear"),
    ],
)
def test_pixel_values(image_module, tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("processor")
    build_tokenizer(TEXTS, folder)
    ours = processor(Tokenizer.from_pretrained(folder), config)
    ours.save(folder)
    theirs = image_module.Qwen2VLImageProcessorPil.from_pretrained(folder)
    images = [image(*size, seed) for seed, size in enumerate(SIZES)]
    expected = theirs([Image.fromarray(i) for i in images], return_tensors="np")
    batch = ours.batch([ours.prompt(i, "the red cup") for i in images])
    np.testing.assert_array_equal(batch.image_grid_thw, expected["image_grid_thw"])
    rows = np.asarray(ours.pixel_values(batch))
    scale = np.abs(expected["pixel_values"]).max()
    np.testing.assert_allclose(rows, expected["pixel_values"], atol=1e-6 * scale, rtol=0)


def test_square_frame_then_smart_resize(image_module, tokenizer):
    """Seg-Zero's evaluation: PIL bilinear to the square, then the processor."""
    config = ImageConfig(patch_size=16, max_pixels=100_000)
    ours = processor(tokenizer, config, kind="square", size=216)
    photo = image(100, 150)
    theirs = image_module.Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    )
    square = Image.fromarray(photo).resize((216, 216), Image.Resampling.BILINEAR)
    expected = theirs(square, return_tensors="np")
    batch = ours.batch([ours.prompt(photo, "the red cup")])
    np.testing.assert_array_equal(batch.image_grid_thw, expected["image_grid_thw"])
    np.testing.assert_allclose(ours.pixel_values(batch), expected["pixel_values"], atol=3e-6, rtol=0)


def conversation(ours, query):
    """The one user turn of Seg-Zero's evaluation: image, then text; the template adds the system message."""
    text = ours.format.prompt.text.removeprefix("<image>").replace("{Question}", query.lower().strip("."))
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("query", ["The red cup.", "what 日本 has 3 wheels?", "'quoted' \n text\u0301"])
def test_chat_and_ids(torchvision_operators, folder, tokenizer, query):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ours = processor(tokenizer, kind="square", size=56)
    text = theirs.apply_chat_template(conversation(ours, query), add_generation_prompt=True, tokenize=False)
    expected = theirs(text.replace("<|image_pad|>", "<|image_pad|>" * 4))["input_ids"]
    assert ours.prompt(image(56, 56), query).input_ids.tolist() == expected


def test_the_whole_processor(torchvision_operators, tokenizer, tmp_path):
    """`Qwen2_5_VLProcessor` on a batch of two sizes, padded on the left."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    ours = processor(tokenizer)
    ours.save(tmp_path)
    theirs = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(tmp_path),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    photos, queries = [image(100, 150), image(60, 60, 1)], ["The red cup.", "Cup"]
    texts = [theirs.apply_chat_template(conversation(ours, q), add_generation_prompt=True) for q in queries]
    expected = theirs(
        text=texts, images=[Image.fromarray(p) for p in photos], padding=True, return_tensors="np"
    )
    batch = ours.batch([ours.prompt(p, q) for p, q in zip(photos, queries, strict=True)])
    for name in ("input_ids", "attention_mask", "image_grid_thw"):
        np.testing.assert_array_equal(getattr(batch, name), expected[name], err_msg=name)
    np.testing.assert_allclose(ours.pixel_values(batch), expected["pixel_values"], atol=3e-6, rtol=0)


@pytest.mark.skipif(not QWEN2.is_dir(), reason="the Qwen2 tokenizer is not beside the project")
def test_an_840_image_is_900_tokens_that_start_at_position_15():
    ours = Processor(ImageConfig(), Tokenizer.from_pretrained(QWEN2), PolicyFormat())
    prompt = ours.prompt(image(100, 150), "the unusual object")
    special = ours.tokenizer.special
    places = np.flatnonzero(prompt.input_ids == special.image_pad)
    assert (len(places), places[0], prompt.grid_thw) == (900, 15, (1, 60, 60))
    assert (special.end_of_turn, special.image_pad, special.pad) == (151645, 151655, 151643)
    assert special.vision == (151652, 151653, 151654, 151655, 151656)


def test_files_of_a_saved_folder_are_read_by_transformers(torchvision_operators, tokenizer, tmp_path):
    from transformers import GenerationConfig

    processor(tokenizer).save(tmp_path)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert tuple(generation.eos_token_id) == tokenizer.special.eos
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "Qwen2VLImageProcessor"


def test_a_decoded_file_is_the_processors_input(image_module):
    buffer = io.BytesIO()
    Image.fromarray(image(40, 50)).save(buffer, "JPEG")
    np.testing.assert_array_equal(load_image(buffer.getvalue()), np.asarray(Image.open(buffer)))
