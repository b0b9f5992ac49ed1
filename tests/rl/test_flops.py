"""The formula against XLA's count, and against the figures of the published sizes worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.rl.accuracy import AnswerArrays
from pixelthink_jax.rl.flops import GroupShape, forward_flops, recomputed_flops, update_flops, vision_flops
from pixelthink_jax.rl.group_logprobs import group_logprobs
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.rewards import RewardInputs
from pixelthink_jax.rl.rollout import PromptArrays, encode_prompt_images
from pixelthink_jax.rl.step import StepBatch, StepConfig, make_step
from pixelthink_jax.runtime.train_state import planned

# Wide enough that products outweigh everything that the formula leaves out.
MODEL = QwenVLConfig(
    text=TextConfig(512, 256, 704, num_layers=2, num_heads=4, num_kv_heads=2, mrope_section=(8, 12, 12)),
    vision=VisionConfig(
        depth=2,
        hidden_size=128,
        intermediate_size=352,
        num_heads=2,
        out_hidden_size=256,
        full_attention_blocks=(1,),
    ),
    image_token_id=508,
    video_token_id=509,
    vision_start_token_id=510,
    vision_end_token_id=511,
    dtype="float32",
)
SEVEN_B = QwenVLConfig(
    text=TextConfig(152064, 3584, 18944, num_layers=28, num_heads=28, num_kv_heads=4),
    vision=VisionConfig(out_hidden_size=3584),
    tie_word_embeddings=False,
)
SIDE, GROUP, TOKENS = 280, 4, 64


def prompts(model, count):
    grids = np.tile(np.array([1, SIDE // 14, SIDE // 14], np.int32), (count, 1))
    image = [model.image_token_id] * (SIDE // 28) ** 2
    ids = np.tile(
        np.array([1, 2, model.vision_start_token_id, *image, model.vision_end_token_id, 3]), (count, 1)
    )
    mask = np.ones_like(ids, bool)
    return PromptArrays(
        input_ids=ids.astype(np.int32),
        mask=mask,
        positions=qwen_vl.position_ids(ids, mask, grids, model),
        images=(np.zeros((count, SIDE, SIDE, 3), np.uint8),),
        layout=qwen_vl.vision_layout(grids, model.vision),
        forced=np.zeros((count, 0), np.int32),
    )


def counted(model, count, group):
    """What XLA counts for one forward pass with its layers unrolled."""
    arrays, params = (
        prompts(model, count),
        jax.eval_shape(lambda: qwen_vl.init_params(model, jax.random.key(0))),
    )
    image_config = ImageConfig(min_pixels=SIDE**2, max_pixels=SIDE**2)
    tokens = jnp.ones((count, group, TOKENS), jnp.int32)

    def scores(params):
        images = encode_prompt_images(params, arrays, model, image_config, unroll=True)
        mask = jnp.ones_like(tokens, bool)
        return group_logprobs(params, arrays, images, tokens, mask, model, unroll=True).logprobs

    cost = jax.jit(scores).lower(params).compile().cost_analysis()
    return cost["flops"], arrays.input_ids.shape[1]


@pytest.mark.parametrize("group", [1, GROUP])
def test_the_executed_arithmetic_is_little_more_than_the_formula(group):
    executed, prompt_tokens = counted(MODEL, 2, group)
    shape = GroupShape(prompt_tokens, (TOKENS,) * group, ((1, SIDE // 14, SIDE // 14),))
    needed = forward_flops(MODEL, [shape] * 2) - 2 * unread(prompt_tokens)
    assert 1.0 <= executed / needed <= 1.15


def batch_of(model, count):
    """A rollout of full length; only its shapes matter."""
    arrays, each = prompts(model, count), (count, GROUP)
    answers = AnswerArrays(np.ones(each), np.ones(each), np.ones((*each, 4)), np.ones((*each, 2, 2)))
    truths = AnswerArrays(np.ones(count), np.ones(count), np.ones((count, 4)), np.ones((count, 2, 2)))
    inputs = RewardInputs(answers, truths, np.ones(count), np.ones(each), np.ones(each))
    tokens = np.ones((*each, TOKENS), np.int32)
    banned = np.zeros(model.text.vocab_size, bool)
    lengths = np.full(each, TOKENS, np.int32)
    return StepBatch(
        arrays, arrays.layout, tokens, lengths, np.zeros(tokens.shape, np.float32), inputs, banned
    )


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_a_whole_update_executes_little_more_than_the_floor(freeze_vision):
    """Rewards, both policies' passes, gradient and AdamW as one program, without recomputation."""
    config = StepConfig(loss=LossConfig(kl_coef=0.005), freeze_vision=freeze_vision, unroll=True)
    optimizer = optax.adamw(1e-3)
    params = jax.eval_shape(lambda: qwen_vl.init_params(MODEL, jax.random.key(0)))
    trained, frozen = qwen_vl.split_params(params, "text/" if freeze_vision else "")
    state = planned(trained, optimizer)
    step = make_step(config, MODEL, ImageConfig(min_pixels=SIDE**2, max_pixels=SIDE**2), optimizer)
    batch = batch_of(MODEL, 2)
    leaves, tree = jax.tree.flatten((state, frozen, params, batch))
    program = jax.jit(lambda *leaves: step(*jax.tree.unflatten(tree, leaves)))
    cost = program.lower(*leaves).compile().cost_analysis()
    prompt_tokens = batch.prompts.input_ids.shape[1]
    groups = [GroupShape(prompt_tokens, (TOKENS,) * GROUP, ((1, SIDE // 14, SIDE // 14),))] * 2
    floor = update_flops(MODEL, groups, freeze_vision=freeze_vision)
    floor -= 8 * unread(prompt_tokens)  # of two questions: the reference's pass, and three times the policy's
    assert 0.98 <= cost["flops"] / floor <= 1.15


def programmed(remat, freeze_vision):
    """Operations of an update as it is written, before the compiler removes any, one block for all."""
    one_block = dataclasses.replace(
        MODEL,
        text=dataclasses.replace(MODEL.text, num_layers=1),
        vision=dataclasses.replace(MODEL.vision, depth=1),
    )
    config = StepConfig(loss=LossConfig(kl_coef=0.0), freeze_vision=freeze_vision, remat=remat)
    optimizer = optax.sgd(1e-3)
    params = jax.eval_shape(lambda: qwen_vl.init_params(one_block, jax.random.key(0)))
    trained, frozen = qwen_vl.split_params(params, "text/" if freeze_vision else "")
    step = make_step(config, one_block, ImageConfig(min_pixels=SIDE**2, max_pixels=SIDE**2), optimizer)
    batch = batch_of(one_block, 2)
    leaves, tree = jax.tree.flatten((planned(trained, optimizer), frozen, None, batch))
    program = jax.jit(lambda *leaves: step(*jax.tree.unflatten(tree, leaves)))
    cost = program.lower(*leaves).cost_analysis()
    groups = [GroupShape(batch.prompts.input_ids.shape[1], (TOKENS,) * GROUP, ((1, SIDE // 14, SIDE // 14),))]
    return cost["flops"], recomputed_flops(one_block, groups * 2, remat, freeze_vision=freeze_vision)


@pytest.mark.parametrize("freeze_vision", [False, True])
@pytest.mark.parametrize("remat", ["dots", "dots_except_mlp", "full"])
def test_what_is_recomputed_is_what_the_formula_says(remat, freeze_vision):
    everything, _ = programmed("none", freeze_vision)
    executed, again = programmed(remat, freeze_vision)
    # Attention is executed over all pairs of a prompt, of which the formula counts the visible half.
    assert 0.95 <= (executed - everything) / again <= (1.5 if remat == "dots" else 1.15)


def unread(prompt_tokens):
    """What XLA leaves out of a prompt: the last block's output where no completion begins, which nothing reads."""
    text = MODEL.text
    linear = 2 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    pairs = prompt_tokens * (prompt_tokens - 1) // 2
    return 2 * (prompt_tokens - 1) * linear + 4 * text.hidden_size * pairs


def test_the_published_size_at_the_papers_shape():
    group = GroupShape(1000, (100,) * 8, ((1, 60, 60),))
    assert vision_flops(SEVEN_B, (1, 60, 60)) == pytest.approx(4.93e12, rel=0.02)
    assert forward_flops(SEVEN_B, [group] * 16) == pytest.approx(0.477e15, rel=0.02)
    assert forward_flops(SEVEN_B, [group] * 16, shared=False) == pytest.approx(2.513e15, rel=0.02)


def test_an_update_is_three_passes_and_the_references():
    group = GroupShape(100, (10, 20), ((1, 8, 8),))
    forward, tower = forward_flops(MODEL, [group]), vision_flops(MODEL, (1, 8, 8))
    assert update_flops(MODEL, [group]) == 4 * forward
    assert update_flops(MODEL, [group], reference=False) == 3 * forward
    assert update_flops(MODEL, [group], freeze_vision=True) == 4 * (forward - tower) + tower
    assert update_flops(MODEL, [group], shared=False) > 1.5 * update_flops(MODEL, [group])
