"""The small Qwen2.5-VL of `tests.models.qwen_small` in transformers, with the same weights."""

from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.models.qwen_vl.hf_config import config_to_hf
from pixelthink_jax.models.qwen_vl.table import canonical_name
from tests.models.qwen_small import Batch, named_state


def make_twin(config: QwenVLConfig) -> Qwen2_5_VLForConditionalGeneration:
    """transformers' model of a configuration; weights follow from their names, noise in every one."""
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config_to_hf(config))).eval()
    state = named_state(config)
    own = {name: canonical_name(name) for name in model.state_dict()}
    if config.tie_word_embeddings:
        own.pop("lm_head.weight", None)
    assert sorted(own.values()) == sorted(state)
    model.load_state_dict({name: torch.from_numpy(state[file]) for name, file in own.items()}, strict=False)
    return model.to(torch.float32)


def load_twin(folder: str | Path) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()


def model_inputs(batch: Batch, config: QwenVLConfig) -> dict[str, torch.Tensor]:
    """The batch as keyword arguments of the twin's forward and generate."""
    inputs = {
        "input_ids": torch.tensor(batch.input_ids),
        "attention_mask": torch.tensor(batch.attention_mask),
    }
    if batch.pixel_values is not None:
        inputs |= {
            "pixel_values": torch.tensor(batch.pixel_values),
            "image_grid_thw": torch.tensor(batch.image_grid_thw),
            "mm_token_type_ids": torch.tensor((batch.input_ids == config.image_token_id).astype(np.int32)),
        }
    return inputs


def twin_logits(model: Qwen2_5_VLForConditionalGeneration, batch: Batch, config: QwenVLConfig) -> np.ndarray:
    with torch.no_grad():
        return model(**model_inputs(batch, config)).logits.float().numpy()
