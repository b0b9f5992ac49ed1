"""Random model folders of the real architectures, as small as they can be, written in about a second."""

import dataclasses
from pathlib import Path

import jax

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import init_params
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.processing.prompts import prompt_template
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import QWEN2_VL_CHAT_TEMPLATE, build_tokenizer
from pixelthink_jax.segmenter import Segmenter

SIDE = 32
POLICY = QwenVLConfig(
    text=TextConfig(
        hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, num_kv_heads=1, mrope_section=(2, 3, 3)
    ),
    vision=VisionConfig(
        depth=1,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=32,
        patch_size=8,
        window_size=32,
        full_attention_blocks=(0,),
    ),
    dtype="float32",
)
SEGMENTER = Sam2Config(
    image_size=64,
    depths=(1, 1, 1, 1),
    widths=(8, 16, 24, 32),
    heads=(1, 2, 3, 4),
    windows=(8, 4, 4, 2),
    global_blocks=(),
    position_grid=(7, 7),
    embed_dim=16,
    mask_channels=8,
    decoder_heads=2,
    decoder_mlp=24,
    iou_width=16,
)


def write_policy(folder: Path, *, format: PolicyFormat | None = None) -> Path:
    """A random policy with processor; by default it answers in the 840 frame to the short prompt."""
    format = format or PolicyFormat(resize=ResizePolicy(size=SIDE), prompt=prompt_template("plain"))
    texts = [QWEN2_VL_CHAT_TEMPLATE, "system user assistant find the red cup <think></think><answer></answer>"] * 2
    build_tokenizer(texts, folder, max_vocab=320)
    tokenizer = Tokenizer.from_pretrained(folder)
    image = ImageConfig(patch_size=8, min_pixels=SIDE**2, max_pixels=4 * SIDE**2)
    special = tokenizer.special
    config = dataclasses.replace(
        POLICY,
        text=dataclasses.replace(POLICY.text, vocab_size=tokenizer.vocab_size),
        image_token_id=special.image_pad,
        video_token_id=special.vision[-1],
        vision_start_token_id=special.vision_start,
        vision_end_token_id=special.vision_end,
        bos_token_id=special.pad,
        eos_token_id=special.end_of_turn,
        pad_token_id=special.pad,
    )
    params = qwen_vl.init_params(config, jax.random.key(0))
    # A model folder may be replaced; the one that holds only the tokenizer is not one yet.
    for path in folder.iterdir():
        path.unlink()
    Policy(config, params, loaded_processor=Processor(image, tokenizer, format)).export(folder)
    return folder


def write_segmenter(folder: Path) -> Path:
    """A random segmenter."""
    Segmenter(init_params(SEGMENTER, jax.random.key(0)), SEGMENTER).export(folder)
    return folder
