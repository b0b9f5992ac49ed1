"""Models of random weights at the smallest sizes their architectures allow; their answers are noise."""

from functools import cache

import jax

from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import init_params
from pixelthink_jax.policy import Policy
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.sft.config import DataConfig, NewPolicyConfig, SftConfig, StageConfig
from pixelthink_jax.sft.new_policy import new_policy


@cache
def tiny_policy() -> Policy:
    model = QwenVLConfig(
        text=TextConfig(
            hidden_size=16,
            intermediate_size=24,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            mrope_section=(1, 1, 2),
            rope_theta=100.0,
            max_position_embeddings=512,
        ),
        vision=VisionConfig(
            depth=1,
            hidden_size=16,
            intermediate_size=24,
            num_heads=2,
            out_hidden_size=16,
            patch_size=14,
            window_size=56,
            full_attention_blocks=(0,),
        ),
        dtype="float32",
    )
    settings = NewPolicyConfig(model=model, image_size=56, tokenizer_examples=100)
    data = DataConfig(name="shapereason", split="tuning")
    return new_policy(SftConfig(out="", stages=(StageConfig("chains", 1, data),), new_policy=settings, seed=1))


@cache
def tiny_segmenter() -> Segmenter:
    config = Sam2Config(
        image_size=64,
        depths=(1, 1, 1, 1),
        widths=(8, 16, 24, 32),
        heads=(1, 1, 2, 2),
        windows=(4, 4, 4, 2),
        global_blocks=(),
        embed_dim=16,
        mask_channels=4,
        decoder_layers=1,
        decoder_heads=2,
        decoder_mlp=16,
        iou_width=16,
    )
    return Segmenter(init_params(config, jax.random.key(0)), config)
