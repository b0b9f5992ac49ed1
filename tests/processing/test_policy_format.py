"""`pixelthink.json`: round trip, strictness, and the table of published models."""

import json

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.policy_format import (
    FORMATS,
    PolicyFormat,
    ResizePolicy,
    frame_size,
    published_format,
)
from pixelthink_jax.processing.prompts import PromptTemplate, prompt_template

KEPT = [
    PolicyFormat(),
    PolicyFormat(coordinate_frame="rel1000", resize=ResizePolicy(kind="smart", size=None, max_pixels=500)),
    PolicyFormat(
        coordinate_frame="pixels512",
        resize=ResizePolicy(size=112, filter="bicubic"),
        prompt=PromptTemplate("mine", "Look: <image> {Question}?", strip="?"),
        system_prompt=None,
        answer_format="vision_reasoner_json",
    ),
]


@pytest.mark.parametrize("policy_format", KEPT)
def test_save_and_read(policy_format, tmp_path):
    policy_format.save(tmp_path)
    assert PolicyFormat.from_pretrained(tmp_path) == policy_format


def test_a_short_file_uses_the_known_template(tmp_path):
    values = {
        "format_version": 1,
        "coordinate_frame": "model_pixels",
        "resize": {"kind": "smart"},
        "prompt_template": "vision_reasoner",
        "answer_format": "vision_reasoner_json",
    }
    (tmp_path / "pixelthink.json").write_text(json.dumps(values))
    found = PolicyFormat.from_pretrained(tmp_path)
    assert found.prompt == prompt_template("vision_reasoner")
    assert found.system_prompt == "You are a helpful assistant."


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"temperature": 1}, "unknown key 'temperature'"),
        ({"format_version": 2}, "format_version 2"),
        ({"coordinate_frame": "pixels0"}, "pixels0"),
        ({"coordinate_frame": "relative"}, "relative"),
        ({"coordinate_frame": 840}, "coordinate_frame"),
        ({"resize": {"kind": "square"}}, "size"),
        ({"resize": {"kind": "square", "size": -1}}, "size"),
        ({"resize": {"kind": "square", "size": 840, "min_pixels": 5}}, "min_pixels"),
        ({"resize": {"kind": "crop"}}, "crop"),
        ({"resize": {"kind": "square", "size": "840"}}, "size"),
        ({"resize": {"kind": "square", "size": 840, "filter": "sharp"}}, "sharp"),
        ({"resize": {"kind": "smart", "crop": 1}}, "unknown key 'crop'"),
        ({"resize": "square"}, "resize"),
        ({"prompt_text": "<image>{Question}"}, "another name"),
        ({"prompt_template": "mine", "prompt_text": "no place"}, "<image>"),
        ({"prompt_template": "mine", "prompt_text": None}, "prompt_text"),
        ({"question_strip": 3}, "question_strip"),
        ({"system_prompt": 3}, "system_prompt"),
        ({"answer_format": "xml"}, "xml"),
        ({"answer_format": None}, "answer_format"),
    ],
)
def test_unusable_files_are_one_line_that_names_the_file(change, part, tmp_path):
    PolicyFormat().save(tmp_path)
    path = tmp_path / "pixelthink.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=part) as caught:
        PolicyFormat.from_pretrained(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "pixelthink.json").write_text('{"format_version": 1}')
    with pytest.raises(InputError, match="coordinate_frame is missing"):
        PolicyFormat.from_pretrained(tmp_path)


def test_published_models_are_found_by_name_config_and_folder(tmp_path):
    assert published_format("Ricky06662/Seg-Zero-7B") == PolicyFormat()
    assert published_format("someone/else") is None
    reasoner = PolicyFormat.from_pretrained(tmp_path, name="Ricky06662/VisionReasoner-7B")
    assert reasoner.answer_format == "vision_reasoner_json"
    (tmp_path / "config.json").write_text('{"_name_or_path": "Ricky06662/VisionReasoner-7B"}')
    assert PolicyFormat.from_pretrained(tmp_path) == reasoner
    folder = tmp_path / "Qwen2.5-VL-3B-Instruct"
    folder.mkdir()
    assert PolicyFormat.from_pretrained(folder).coordinate_frame == "model_pixels"


def test_the_base_a_policy_was_tuned_from_does_not_decide_its_format(tmp_path):
    (tmp_path / "config.json").write_text('{"_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}')
    assert PolicyFormat.from_pretrained(tmp_path) == PolicyFormat()


def test_formats_that_are_asked_for_by_name_survive_a_folder(tmp_path):
    for name, format in FORMATS.items():
        assert format.prompt.name == name
        format.save(tmp_path)
        assert PolicyFormat.from_pretrained(tmp_path) == format
    assert FORMATS["qwen_vl"].resize.kind == "smart" and FORMATS["qwen_vl"].coordinate_frame == "model_pixels"


def test_an_unknown_folder_is_read_as_the_released_policy(tmp_path):
    assert PolicyFormat.from_pretrained(tmp_path) == PolicyFormat()


def test_frames():
    assert frame_size("rel1000", model_size=(1, 2)) == (1000, 1000)
    assert frame_size("pixels96", model_size=(1, 2)) == (96, 96)
    assert frame_size("model_pixels", model_size=(1, 2)) == (1, 2)
