"""`config.json` of a Qwen2.5-VL: both layouts, every published size, and what is refused by name."""

import copy
import dataclasses
import json

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.qwen_vl.folder import read_folder, read_model_config, write_folder
from pixelthink_jax.models.qwen_vl.hf_config import config_from_hf, config_to_hf
from pixelthink_jax.models.qwen_vl.presets import PRESETS
from tests.models.qwen_small import SMALL, TIED, named_params

# The layout and values of the file published with the 7B model, as far as they are documented.
PUBLISHED_7B = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152064,
}


def nested():
    """The same as transformers 5 writes it."""
    outer = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    outer = (
        *outer,
        "architectures",
        "model_type",
        "tie_word_embeddings",
        "transformers_version",
        "vision_config",
    )
    values = copy.deepcopy(PUBLISHED_7B)
    top = {name: values.pop(name) for name in outer}
    values |= {"model_type": "qwen2_5_vl_text", "layer_types": ["full_attention"] * 28, "pad_token_id": None}
    values["sliding_window"] = None
    values["rope_parameters"] = values.pop("rope_scaling") | {"rope_theta": values.pop("rope_theta")}
    values["rope_parameters"]["rope_type"] = values["rope_parameters"].pop("type").replace("mrope", "default")
    values["dtype"] = values.pop("torch_dtype")
    vision = top["vision_config"] | {
        "model_type": "qwen2_5_vl_vision",
        "in_channels": 3,
        "initializer_range": 0.02,
    }
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": 10000.0}
    del vision["in_chans"], vision["spatial_patch_size"]
    return top | {"dtype": values["dtype"], "text_config": values, "vision_config": vision}


def test_published_file_in_both_layouts():
    assert config_from_hf(PUBLISHED_7B) == PRESETS["qwen2.5-vl-7b"]
    assert config_from_hf(nested()) == PRESETS["qwen2.5-vl-7b"]


@pytest.mark.parametrize("name", PRESETS)
def test_written_file_reads_as_the_same_model(name):
    values = json.loads(json.dumps(config_to_hf(PRESETS[name])))
    assert config_from_hf(values) == PRESETS[name]


def test_written_file_has_every_field_of_the_published_one():
    values = config_to_hf(PRESETS["qwen2.5-vl-7b"])
    ignored = {"transformers_version", "vision_token_id"}
    assert set(PUBLISHED_7B) - set(values) == ignored
    assert set(PUBLISHED_7B["vision_config"]) - set(values["vision_config"]) == {"spatial_patch_size"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"model_type": "qwen3_vl"}, "model_type 'qwen3_vl'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24], "factor": 2.0}}, "factor"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 20]}}, "mrope_section"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype"),
        ({"head_dim": 64}, "head_dim"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"attention_bias": False}, "attention_bias"),
        ({"num_experts": 8}, "num_experts"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "3584"}, "hidden_size"),
        ({"hidden_size": 3585}, "hidden_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"vision_config": None}, "vision_config is missing"),
        ({"vision_config": 3}, "vision_config"),
        ({"vision_config": PUBLISHED_7B["vision_config"] | {"hidden_act": "quick_gelu"}}, "hidden_act"),
        ({"vision_config": PUBLISHED_7B["vision_config"] | {"deepstack": [1]}}, "deepstack"),
        ({"vision_config": PUBLISHED_7B["vision_config"] | {"out_hidden_size": 2048}}, "out_hidden_size"),
        ({"vision_config": PUBLISHED_7B["vision_config"] | {"window_size": 27}}, "window_size"),
    ],
)
def test_what_would_change_the_arithmetic_is_refused(change, named):
    with pytest.raises(InputError, match=named) as caught:
        config_from_hf(PUBLISHED_7B | change, where="DIR/config.json")
    assert str(caught.value).startswith("DIR/config.json") and "\n" not in str(caught.value)


def test_end_tokens_come_from_the_generation_file(tmp_path):
    write_folder(tmp_path / "model", named_params(SMALL), SMALL)
    assert read_model_config(tmp_path / "model").eos_token_id == 2
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [2, 7], "temperature": 0.1}')
    assert read_model_config(tmp_path / "model").eos_token_id == (2, 7)


def test_a_head_that_differs_from_a_tied_embedding(tmp_path):
    params = named_params(SMALL)
    write_folder(tmp_path, params, SMALL)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(TIED)))
    with pytest.raises(
        InputError, match=r"lm_head.weight differs from model.embed_tokens.weight; set tie_word_embeddings"
    ):
        read_folder(tmp_path)


def test_a_folder_of_another_size(tmp_path):
    write_folder(tmp_path, named_params(SMALL), SMALL)
    text = dataclasses.replace(SMALL.text, intermediate_size=90)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(dataclasses.replace(SMALL, text=text))))
    with pytest.raises(
        InputError, match=r"gate_proj.weight has shape \[88, 64\], config.json implies \[90, 64\]"
    ):
        read_folder(tmp_path)


def test_extra_files_appear_with_the_weights(tmp_path):
    """And a failure while they are written leaves no folder at all."""
    write_folder(
        tmp_path / "a",
        named_params(TIED),
        TIED,
        extra=lambda path: (path / "note").write_text("hello") and None,
    )
    assert (tmp_path / "a" / "note").read_text() == "hello"

    def fail(path):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "b", named_params(TIED), TIED, extra=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
