"""Qwen2.5-VL: the vision-language policy. Start at `model`; `cache` generates; `vision` sees."""

from pixelthink_jax.models.qwen_vl.adapter_folder import read_adapter, read_adapter_config, write_adapter
from pixelthink_jax.models.qwen_vl.cache import (
    PrefixCache,
    SuffixCache,
    decode_step,
    init_suffix_cache,
    prefill,
    suffix_forward,
    unstack_layers,
    without_blocks,
)
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.qwen_vl.folder import (
    PARAMS_FOLDER,
    check_leaves,
    open_params,
    read_folder,
    read_model_config,
    write_config,
    write_folder,
)
from pixelthink_jax.models.qwen_vl.init import init_params
from pixelthink_jax.models.qwen_vl.lora import LoraConfig, add_lora, merge_lora, merged_leaf, without_lora
from pixelthink_jax.models.qwen_vl.model import embed_prompt, forward, head_logits, logits, output_head
from pixelthink_jax.models.qwen_vl.rope import position_ids
from pixelthink_jax.models.qwen_vl.sharding import check_mesh, on_rules, sharding_for, tree_shardings
from pixelthink_jax.models.qwen_vl.trained import is_trained, split_params, trained_and_frozen, whole_params
from pixelthink_jax.models.qwen_vl.vision import encode_images
from pixelthink_jax.models.qwen_vl.vision_layout import VisionLayout, vision_layout

__all__ = [
    "PARAMS_FOLDER",
    "LoraConfig",
    "PrefixCache",
    "QwenVLConfig",
    "SuffixCache",
    "TextConfig",
    "VisionConfig",
    "VisionLayout",
    "add_lora",
    "check_leaves",
    "check_mesh",
    "decode_step",
    "embed_prompt",
    "encode_images",
    "forward",
    "head_logits",
    "init_params",
    "init_suffix_cache",
    "is_trained",
    "logits",
    "merge_lora",
    "merged_leaf",
    "on_rules",
    "open_params",
    "output_head",
    "position_ids",
    "prefill",
    "read_adapter",
    "read_adapter_config",
    "read_folder",
    "read_model_config",
    "sharding_for",
    "split_params",
    "suffix_forward",
    "trained_and_frozen",
    "tree_shardings",
    "unstack_layers",
    "vision_layout",
    "whole_params",
    "without_blocks",
    "without_lora",
    "write_adapter",
    "write_config",
    "write_folder",
]
