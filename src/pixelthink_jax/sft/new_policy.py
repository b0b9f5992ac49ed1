"""A policy made from scratch: vocabulary counted on the data, weights drawn from the seed."""

import dataclasses
import tempfile
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.processing.prompts import IMAGE, chat_messages, prompt_template, user_text
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import QWEN2_VL_CHAT_TEMPLATE, build_tokenizer
from pixelthink_jax.runtime.hosts import put_tree
from pixelthink_jax.sft.config import NewPolicyConfig, SftConfig
from pixelthink_jax.sft.data import open_data
from pixelthink_jax.sft.numerals import numerals, smooth_numerals
from pixelthink_jax.sft.positional_heads import with_previous_token_heads


def new_policy(
    config: SftConfig, *, tokenizer_folder: Path | None = None, mesh: Mesh | None = None
) -> Policy:
    """Builds the tokenizer on the texts of every stage's data and draws the weights.

    Args:
        config: The run.
        tokenizer_folder: Where the tokenizer is kept, and read from when it is there already: a resumed run whose
            stages were changed must not count its vocabulary anew. None keeps none.
        mesh: Devices, as `Policy.from_pretrained` takes them.
    """
    settings = config.new_policy
    assert settings is not None
    processor = _processor(settings, config, tokenizer_folder)
    model = _with_token_ids(settings.model, processor.tokenizer)
    draw = jax.jit(lambda key: qwen_vl.init_params(model, key, jnp.dtype(config.dtype)))
    params = draw(jax.random.key(config.seed))
    if settings.number_digits > 1:
        params["text"]["embed"] = smooth_numerals(
            params["text"]["embed"],
            numerals(processor.tokenizer),
            std=model.initializer_range,
            seed=config.seed,
        )
    if settings.previous_token_layer is not None:
        params = with_previous_token_heads(params, model, layer=settings.previous_token_layer)
    if mesh is not None:
        qwen_vl.check_mesh(model, mesh.shape)
        params = put_tree(params, qwen_vl.tree_shardings(params, mesh, model))
    return Policy(config=model, params=params, loaded_processor=processor)


def _processor(settings: NewPolicyConfig, config: SftConfig, kept: Path | None) -> Processor:
    format = PolicyFormat(
        resize=ResizePolicy(kind="square", size=settings.image_size, filter="bilinear"),
        prompt=prompt_template(settings.prompt),
        system_prompt=settings.system_prompt,
    )
    vision = settings.model.vision
    image = ImageConfig(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        min_pixels=settings.image_size**2,
        max_pixels=settings.image_size**2,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept or Path(temporary)
        if not (folder / "tokenizer.json").is_file():
            texts = _texts(settings, config, format)
            build_tokenizer(texts, folder, max_vocab=settings.max_vocab, number_digits=settings.number_digits)
        return Processor(image, Tokenizer.from_pretrained(folder), format)


def _texts(settings: NewPolicyConfig, config: SftConfig, format: PolicyFormat) -> list[str]:
    """Prompts and completions, so that every word of them can become one token."""
    frame = chat_messages(user_text(format.prompt, "x"), system_prompt=format.system_prompt)
    texts = [
        QWEN2_VL_CHAT_TEMPLATE,
        *(f"{m['role']}\n" for m in frame),
        "assistant\n",
        format.system_prompt or "",
    ] * 2
    for stage in config.stages:
        source = open_data(stage.data, None)
        for example in islice((source[i] for i in range(len(source))), settings.tokenizer_examples):
            question = user_text(format.prompt, example.query, instruction=example.instruction)
            texts += [*question.split(IMAGE), example.completion or ""]
    return texts


def _with_token_ids(model: QwenVLConfig, tokenizer: Tokenizer) -> QwenVLConfig:
    special = tokenizer.special
    return dataclasses.replace(
        model,
        text=dataclasses.replace(model.text, vocab_size=tokenizer.vocab_size),
        image_token_id=special.image_pad,
        video_token_id=special.vision[-1],
        vision_start_token_id=special.vision_start,
        vision_end_token_id=special.vision_end,
        bos_token_id=special.pad,
        eos_token_id=special.end_of_turn,
        pad_token_id=special.pad,
    )
