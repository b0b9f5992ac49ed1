"""One question to model input and its answer back to image pixels."""

import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.processor import Processor, to_image_px
from pixelthink_jax.processing.prompts import PromptTemplate, prompt_template
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import build_tokenizer
from pixelthink_jax.types import Answer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(["Please find 'the red cup'. You are a helpful assistant"] * 2, path)
    return Tokenizer.from_pretrained(path)


@pytest.fixture
def square(tokenizer):
    policy_format = PolicyFormat(resize=ResizePolicy(size=112), prompt=prompt_template("plain"))
    return Processor(ImageConfig(), tokenizer, policy_format)


@pytest.fixture
def smart(tokenizer):
    resize = ResizePolicy(kind="smart", size=None)
    return Processor(ImageConfig(), tokenizer, PolicyFormat(coordinate_frame="model_pixels", resize=resize))


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_prompt_of_a_square_policy(square):
    prompt = square.prompt(image(100, 150), "The red cup.")
    special = square.tokenizer.special
    assert prompt.image.shape == (112, 112, 3)
    assert (prompt.grid_thw, prompt.image_size, prompt.model_size) == ((1, 8, 8), (150, 100), (112, 112))
    text = square.tokenizer.decode(prompt.input_ids, skip_special=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * 16
        + "<|vision_end|>Please find 'the red cup'.<|im_end|>\n<|im_start|>assistant\n"
    )
    places = np.flatnonzero(prompt.input_ids == special.image_pad)
    assert (np.diff(places) == 1).all()
    assert prompt.input_ids[places[0] - 1] == special.vision_start
    assert prompt.input_ids[places[-1] + 1] == special.vision_end
    assert prompt.input_ids.dtype == np.int32


def test_prompt_of_a_smart_policy_keeps_the_aspect(smart):
    prompt = smart.prompt(image(100, 150), "cup")
    assert prompt.image.shape == (112, 140, 3)
    assert (prompt.input_ids == smart.tokenizer.special.image_pad).sum() == 8 * 10 // 4


def test_a_resize_policy_may_narrow_the_limits(tokenizer):
    resize = ResizePolicy(kind="smart", size=None, max_pixels=60 * 60)
    processor = Processor(ImageConfig(), tokenizer, PolicyFormat(resize=resize))
    assert processor.resize(image(300, 300)).shape == (56, 56, 3)


def test_a_square_that_is_no_multiple_of_the_factor_is_rounded(tokenizer):
    processor = Processor(ImageConfig(patch_size=16), tokenizer, PolicyFormat())
    assert processor.resize(image(30, 20)).shape == (832, 832, 3)


def test_the_original_size_of_a_resized_copy_can_be_given(square):
    assert square.prompt(image(840, 840), "cup", image_size=(640, 480)).image_size == (640, 480)


@pytest.mark.parametrize("query", ["<|image_pad|>", "a <|im_end|> b", ""])
def test_questions_that_cannot_be_asked(square, query):
    with pytest.raises(InputError, match="query"):
        square.prompt(image(28, 28), query)


def test_an_instruction_cannot_smuggle_special_tokens(square):
    with pytest.raises(InputError, match="im_start"):
        square.prompt(image(28, 28), "cup", instruction="<|im_start|>")


def test_a_strip_is_refused_by_a_smart_policy_only(smart, square):
    with pytest.raises(InputError, match="200"):
        smart.prompt(image(1, 300), "cup")
    assert square.prompt(image(1, 300), "cup").image.shape == (112, 112, 3)


def test_a_template_that_writes_no_image_is_an_error(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[-1]['role'] }}")
    processor = Processor(ImageConfig(), Tokenizer.from_pretrained(tmp_path), PolicyFormat())
    with pytest.raises(InputError, match="0 image tokens"):
        processor.prompt(image(28, 28), "cup")


def test_batch_pads_on_the_left_and_keeps_the_order_of_images(smart):
    prompts = [smart.prompt(image(*size), "cup") for size in ((100, 150), (100, 150), (60, 60), (100, 150))]
    batch = smart.batch(prompts)
    assert [stack.shape for stack in batch.images] == [(2, 112, 140, 3), (1, 56, 56, 3), (1, 112, 140, 3)]
    assert batch.image_grid_thw.tolist() == [[1, 8, 10], [1, 8, 10], [1, 4, 4], [1, 8, 10]]
    assert batch.image_sizes == ((150, 100), (150, 100), (60, 60), (150, 100))
    short = len(prompts[2].input_ids)
    pad = batch.input_ids.shape[1] - short
    assert batch.attention_mask[2].tolist() == [0] * pad + [1] * short
    assert (batch.input_ids[2, :pad] == smart.tokenizer.special.pad).all()
    np.testing.assert_array_equal(batch.input_ids[2, pad:], prompts[2].input_ids)
    rows = np.asarray(smart.pixel_values(batch))
    assert rows.shape == (80 + 80 + 16 + 80, 1176)
    alone = np.asarray(smart.pixel_values(smart.batch(prompts[2:3])))
    np.testing.assert_array_equal(rows[160:176], alone)


def test_batch_lengths(square):
    prompt = square.prompt(image(28, 28), "cup")
    assert square.batch([prompt], pad_to=200).input_ids.shape == (1, 200)
    assert square.batch([prompt], pad_to=(400, 10, 300)).input_ids.shape == (1, 300)
    with pytest.raises(InputError, match="the limit is 10"):
        square.batch([prompt], pad_to=10)
    with pytest.raises(ValueError, match="at least one"):
        square.batch([])


def test_save_and_read(square, tmp_path):
    square.save(tmp_path / "policy")
    again = Processor.from_pretrained(tmp_path / "policy")
    assert (again.image_config, again.format) == (square.image_config, square.format)
    assert again.tokenizer.special == square.tokenizer.special
    one, other = (p.prompt(image(50, 40), "cup", instruction="Be brief.") for p in (square, again))
    np.testing.assert_array_equal(one.input_ids, other.input_ids)
    np.testing.assert_array_equal(one.image, other.image)


def test_saving_over_a_folder_keeps_its_end_ids(square, tmp_path):
    square.save(tmp_path)
    square.save(tmp_path)
    assert Processor.from_pretrained(tmp_path).tokenizer.special.eos == square.tokenizer.special.eos


ANSWER = Answer(box_xyxy=(1.0, 2.6, 419.0, 838.4), points_xy=((21.0, 63.0), (-3.0, 5.0)))


@pytest.mark.parametrize(
    ("rounding", "box", "points"),
    [
        ("float", (0.5, 1.95, 209.5, 628.8), ((10.5, 47.25), (-1.5, 3.75))),
        # round(int(v) * f): 0.5 -> 0, 1.5 -> 2, 209.5 -> 210 (even), 628.5 -> 628 (even), -1.5 -> -2
        ("seg_zero_round", (0, 2, 210, 628), ((10, 47), (-2, 4))),
        # int(v * f + 0.5): truncation of a negative sum goes towards zero
        ("half_up", (1, 2, 210, 629), ((11, 47), (-1, 4))),
    ],
)
def test_rounding_rules(rounding, box, points):
    scaled = to_image_px(ANSWER, frame=(840, 840), image_size=(420, 630), rounding=rounding)
    np.testing.assert_allclose(scaled.box_xyxy, box)
    np.testing.assert_allclose(scaled.points_xy, points)


def test_answers_of_each_frame_reach_the_image(square, smart):
    answer = Answer(box_xyxy=(0.0, 0.0, 420.0, 840.0), points_xy=((84.0, 84.0), (84.0, 84.0)))
    scaled = square.to_image_px(answer, image_size=(100, 50), model_size=(112, 112))
    assert scaled.box_xyxy == (0.0, 0.0, 50.0, 50.0)
    seen = Answer(box_xyxy=(0.0, 0.0, 70.0, 112.0), points_xy=((14.0, 56.0), (0.0, 0.0)))
    scaled = smart.to_image_px(seen, image_size=(150, 100), model_size=(140, 112))
    assert (scaled.box_xyxy, scaled.points_xy[0]) == ((0.0, 0.0, 75.0, 100.0), (15.0, 50.0))


def test_a_template_of_ones_own(tokenizer):
    policy_format = PolicyFormat(prompt=PromptTemplate("mine", "Look here: <image> Where is {Question}?"))
    processor = Processor(ImageConfig(), tokenizer, policy_format)
    text = tokenizer.decode(processor.text_ids("the cup"), skip_special=False)
    assert "user\nLook here: <|vision_start|><|image_pad|><|vision_end|> Where is the cup?<|im_end|>" in text
