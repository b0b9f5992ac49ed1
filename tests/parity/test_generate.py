"""The policy as people use it against transformers: greedy tokens, logits of a processor's arrays, folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from pixelthink_jax.policy import Policy
from tests.models.qwen_small import Batch, difference
from tests.parity.qwen_twin import load_twin, make_twin, model_inputs, twin_logits
from tests.rl.tiny_policy import QUERIES, pictures, tiny_policy, tiny_prompts

TOKENS = 20


@pytest.fixture(scope="module")
def twin() -> Qwen2_5_VLForConditionalGeneration:
    return make_twin(tiny_policy().config)


def prompt_batch() -> Batch:
    """Three prompts padded on the left, images of two sizes."""
    processor = tiny_policy().processor
    batch = processor.batch(tiny_prompts())
    assert not batch.attention_mask[:, 0].all()
    return Batch(
        batch.input_ids.astype(np.int64),
        batch.attention_mask.astype(np.int64),
        np.asarray(processor.pixel_values(batch)),
        batch.image_grid_thw.astype(np.int64),
    )


def test_greedy_tokens_and_text(twin: Qwen2_5_VLForConditionalGeneration) -> None:
    policy = tiny_policy()
    special, batch = policy.processor.tokenizer.special, prompt_batch()
    banned = np.flatnonzero(np.asarray(policy.rules.banned)).tolist()
    with torch.no_grad():
        rows = twin.generate(
            **model_inputs(batch, policy.config),
            max_new_tokens=TOKENS,
            do_sample=False,
            suppress_tokens=banned,
            eos_token_id=list(special.eos),
            pad_token_id=special.pad,
        )
    rows = rows[:, batch.input_ids.shape[1] :].numpy()
    groups = policy.generate(pictures(), QUERIES, max_new_tokens=TOKENS)
    assert len(groups) == len(rows)
    for (completion,), row in zip(groups, rows, strict=True):
        length = len(completion.token_ids)
        assert completion.token_ids.tolist() == row[:length].tolist()
        assert (row[length:] == special.pad).all()
        assert completion.text == policy.processor.tokenizer.decode(row)
    assert len({token for (c,) in groups for token in c.token_ids.tolist()}) > 10


def test_greedy_tokens_end_where_transformers_ends(twin: Qwen2_5_VLForConditionalGeneration) -> None:
    """The same with an end token that comes early in one row and not at all in another."""
    policy = tiny_policy()
    free = [c.token_ids for (c,) in policy.generate(pictures(), QUERIES, max_new_tokens=TOKENS)]
    eos = int(free[0][4])
    tokenizer = policy.processor.tokenizer
    with torch.no_grad():
        rows = twin.generate(
            **model_inputs(prompt_batch(), policy.config),
            max_new_tokens=TOKENS,
            do_sample=False,
            suppress_tokens=np.flatnonzero(np.asarray(policy.rules.banned)).tolist(),
            eos_token_id=[eos],
            pad_token_id=tokenizer.special.pad,
        )
    rows = rows[:, prompt_batch().input_ids.shape[1] :].numpy()
    for row, tokens in zip(rows, free, strict=True):
        hits = np.flatnonzero(tokens == eos)
        length = hits[0] + 1 if len(hits) else len(tokens)
        assert row[:length].tolist() == tokens[:length].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_batch(twin: Qwen2_5_VLForConditionalGeneration, side: str) -> None:
    policy, batch = tiny_policy(), prompt_batch()
    if side == "right":
        order = np.argsort(~batch.real, axis=1, kind="stable")
        batch = batch._replace(
            input_ids=np.take_along_axis(batch.input_ids, order, 1),
            attention_mask=np.take_along_axis(batch.attention_mask, order, 1),
        )
    ours, theirs = np.asarray(policy.logits(*batch)), twin_logits(twin, batch, policy.config)
    assert difference(ours[batch.real], theirs[batch.real]) < 1e-4


def test_a_policy_folder_in_transformers(tmp_path: Path) -> None:
    policy, batch = tiny_policy(), prompt_batch()
    policy.export(tmp_path / "policy")
    theirs = twin_logits(load_twin(tmp_path / "policy"), batch, policy.config)
    assert difference(np.asarray(policy.logits(*batch))[batch.real], theirs[batch.real]) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_of_transformers_here(
    twin: Qwen2_5_VLForConditionalGeneration, tmp_path: Path, dtype: str
) -> None:
    batch = prompt_batch()
    twin.save_pretrained(tmp_path)
    policy = Policy.from_pretrained(tmp_path, dtype=dtype)
    theirs = twin_logits(twin, batch, policy.config)
    bound = 1e-4 if dtype == "float32" else 5e-2
    assert difference(np.asarray(policy.logits(*batch))[batch.real], theirs[batch.real]) < bound
