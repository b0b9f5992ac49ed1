from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.policy import Policy
from pixelthink_jax.rl.rollout import RolloutBatch
from pixelthink_jax.types import Completion
from tests.rl.tiny_policy import QUERIES, pictures, tiny_policy, tiny_prompts

TOKENS = 12


def generate(**settings: Any) -> list[tuple[Completion, ...]]:
    return tiny_policy().generate(pictures(), QUERIES, max_new_tokens=TOKENS, **settings)


@pytest.fixture(scope="module")
def together() -> list[tuple[Completion, ...]]:
    """Three questions in one batch."""
    return generate(group_size=2, temperature=1.0, seed=3)


def test_a_group_for_each_question(together: list[tuple[Completion, ...]]) -> None:
    assert [len(group) for group in together] == [2, 2, 2]
    tokenizer, eos = tiny_policy().processor.tokenizer, tiny_policy().processor.tokenizer.special.eos
    for completion in (c for group in together for c in group):
        assert 1 <= len(completion.token_ids) <= TOKENS
        assert completion.token_ids.dtype == np.int32
        assert completion.logprobs.shape == completion.token_ids.shape
        assert (completion.logprobs < 0).all()
        assert 0 <= completion.uncertainty <= 1
        assert completion.text == tokenizer.decode(completion.token_ids)
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] in eos)
        assert not np.isin(completion.token_ids[:-1], eos).any()
    assert len({c.text for group in together for c in group}) > 3


def test_batches_of_another_size_give_the_same_completions(together: list[tuple[Completion, ...]]) -> None:
    apart = generate(group_size=2, temperature=1.0, seed=3, batch_size=2)
    assert len(apart) == 3
    for group, other in zip(apart, together, strict=True):
        for a, b in zip(group, other, strict=True):
            assert a.token_ids.tolist() == b.token_ids.tolist()
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            assert a.uncertainty == pytest.approx(b.uncertainty, abs=1e-5)
            assert a.finish_reason == b.finish_reason


def test_seeds_draw(together: list[tuple[Completion, ...]]) -> None:
    again, other = (generate(group_size=2, temperature=1.0, seed=seed) for seed in (3, 4))
    ids = lambda groups: [c.token_ids.tolist() for group in groups for c in group]  # noqa: E731
    assert ids(again) == ids(together)
    assert ids(other) != ids(together)


def test_a_completion_begins_with_its_prefix() -> None:
    prefix = "<think> red"
    for (completion,) in generate(completion_prefix=prefix):
        assert completion.text.startswith(prefix)
        ids = tiny_policy().processor.tokenizer.encode(prefix)
        assert completion.token_ids[: len(ids)].tolist() == ids.tolist()


def test_an_instruction_is_part_of_the_prompt() -> None:
    policy = tiny_policy()
    spy = Policy(policy.config, policy.params, loaded_processor=policy.processor)
    rows = []

    def prompt_arrays(prompts, forced=None, *, longest=0):
        rows.extend(prompt.input_ids for prompt in prompts)
        return policy.prompt_arrays(prompts, forced, longest=longest)

    spy.__dict__["prompt_arrays"] = prompt_arrays
    spy.generate(pictures(), QUERIES, max_new_tokens=1, instructions=["Be brief.", None, None])
    text = [policy.processor.tokenizer.decode(row) for row in rows]
    assert [("Be brief." in line) for line in text] == [True, False, False]


def test_nothing_to_answer() -> None:
    assert tiny_policy().generate([], [], max_new_tokens=4) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": ["a"]}, "3 images and 1 queries"),
        ({"queries": ["a", "", "b"]}, "query"),
        ({"instructions": ["a"]}, "1 instructions and 3 queries"),
        ({"group_size": 0}, "group_size 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.5}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"images": ["/nowhere.png"] * 3}, "nowhere.png"),
    ],
)
def test_questions_that_cannot_be_asked(change: dict[str, Any], message: str) -> None:
    settings = {"images": pictures(), "queries": list(QUERIES), "max_new_tokens": 4, **change}
    with pytest.raises(InputError, match=message):
        tiny_policy().generate(**settings)


def arrays() -> dict[str, np.ndarray]:
    policy, prompts = tiny_policy(), tiny_prompts()
    batch = policy.processor.batch(prompts)
    return {
        "input_ids": batch.input_ids.astype(np.int64),
        "attention_mask": batch.attention_mask.astype(np.int64),
        "pixel_values": np.asarray(policy.processor.pixel_values(batch)),
        "image_grid_thw": batch.image_grid_thw.astype(np.int64),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": np.ones((3, 4), np.int64)}, "expected .batch, time. for both"),
        ({"pixel_values": None}, "give both or neither"),
        ({"image_grid_thw": None}, "give both or neither"),
        ({"pixel_values": np.zeros((8, 294), np.float32)}, r"pixel_values \(8, 294\): expected"),
        (
            {"pixel_values": np.zeros((80, 1176), np.float32)},
            r"pixel_values \(80, 1176\): expected \(80, 294\)",
        ),
        ({"image_grid_thw": np.array([[1, 4, 6]])}, "image_grid_thw"),
    ],
)
def test_arrays_that_do_not_belong_together(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_policy().logits(**{**arrays(), **change})


def test_logits_are_float32_in_any_dtype(tmp_path: Path) -> None:
    tiny_policy().export(tmp_path / "policy")
    full = Policy.from_pretrained(tmp_path / "policy", dtype="float32")
    half = Policy.from_pretrained(tmp_path / "policy")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(np.testing.assert_array_equal, full.params, tiny_policy().params)
    exact, rounded = full.logits(**arrays()), half.logits(**arrays())
    assert exact.dtype == rounded.dtype == jnp.float32
    assert exact.shape == (*arrays()["input_ids"].shape, tiny_policy().config.text.vocab_size)
    real = arrays()["attention_mask"].astype(bool)
    exact, rounded = np.asarray(exact)[real], np.asarray(rounded)[real]
    assert np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()
    assert np.abs(rounded - exact).max() > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exported_policy_is_the_policy(tmp_path: Path, dtype: str) -> None:
    policy = tiny_policy()
    policy.export(tmp_path / "policy", dtype=dtype)
    loaded = Policy.from_pretrained(tmp_path / "policy", dtype=None)
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype), policy.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
    assert loaded.config.text == policy.config.text
    assert loaded.config.vision == policy.config.vision
    assert loaded.processor.format == policy.processor.format
    assert loaded.processor.image_config == policy.processor.image_config
    assert loaded.processor.tokenizer.special == policy.processor.tokenizer.special
    for image, query, prompt in zip(pictures(), QUERIES, tiny_prompts(), strict=True):
        again = loaded.processor.prompt(image, query)
        assert again.input_ids.tolist() == prompt.input_ids.tolist()
        np.testing.assert_array_equal(again.image, prompt.image)
    loaded.export(tmp_path / "again")
    names = sorted(path.name for path in (tmp_path / "policy").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert Policy.from_pretrained(tmp_path / "again", dtype=None).config == loaded.config
    for name in set(names) - {"config.json"}:
        assert (tmp_path / "policy" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_bare_tensors_need_no_processor(tmp_path: Path) -> None:
    tiny_policy().export(tmp_path / "policy")
    for path in (tmp_path / "policy").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    bare = Policy.from_pretrained(tmp_path / "policy", dtype="float32")
    np.testing.assert_array_equal(bare.logits(**arrays()), tiny_policy().logits(**arrays()))
    bare.export(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    with pytest.raises(InputError, match=r"preprocessor_config.json|tokenizer.json"):
        _ = bare.processor
    with pytest.raises(ValueError, match="a folder or a processor"):
        _ = Policy(bare.config, bare.params).processor


def test_decoding_copies_no_more_than_the_text_blocks() -> None:
    policy = tiny_policy()
    ours, decode = policy.params, policy._decode_params
    for a, b in (
        (ours["text"]["embed"], decode["text"]["embed"]),
        (ours["text"]["lm_head"], decode["text"]["lm_head"]),
        (ours["vision"]["merger"]["fc1"]["kernel"], decode["vision"]["merger"]["fc1"]["kernel"]),
    ):
        assert a.unsafe_buffer_pointer() == b.unsafe_buffer_pointer()


def test_rules_come_from_the_folder() -> None:
    policy, special = tiny_policy(), tiny_policy().processor.tokenizer.special
    banned = np.flatnonzero(np.asarray(policy.rules.banned)).tolist()
    beyond = range(policy.processor.tokenizer.vocab_size, policy.config.text.vocab_size)
    assert banned == sorted({*special.vision, *beyond})
    assert np.flatnonzero(np.asarray(policy.rules.eos)).tolist() == list(special.eos)


def test_uncertainty_is_one_minus_the_mean_gap() -> None:
    out = RolloutBatch(
        tokens=jnp.zeros((1, 2, 3), jnp.int32),
        lengths=jnp.array([[2, 0]]),
        logprobs=jnp.zeros((1, 2, 3)),
        gaps=jnp.array([[[0.5, 0.1, 0.9], [0.0, 0.0, 0.0]]]),
        stopped=jnp.array([[True, False]]),
    )
    np.testing.assert_allclose(out.uncertainty, [[0.7, 0.0]], atol=1e-6)
    assert out.mask.tolist() == [[[True, True, False], [False, False, False]]]
