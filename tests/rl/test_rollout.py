"""The decode loop against a forward without a cache, and its rules against a plain reading of the text."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.policy import Policy
from pixelthink_jax.rl import rollout
from pixelthink_jax.rl.rollout import RolloutBatch, sample_completions
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.token_rules import TokenRules, token_rules
from tests.models.qwen_small import named_params
from tests.rl.tiny_policy import (
    decode_params,
    log_softmax,
    tiny_config,
    tiny_policy,
    tiny_processor,
    tiny_prompts,
    uncached_logits,
)

# One set of shapes for nearly every test, so that little is compiled: 3 prompts, 2 completions, 24 tokens.
ROOM, GROUP, FORCED = 24, 2, 12
FREE = np.full(FORCED, -1, np.int32)
OPEN, CLOSE = b"<think>", b"</think>"


def sample(
    *,
    eos: Sequence[int] = (),
    forced: np.ndarray = FREE,
    params: Any = None,
    rules: TokenRules | None = None,
    places: Sequence[int] = (0, 1, 2),
    group: int = GROUP,
    keys: jax.Array | None = None,
    tokens_per_check: int | None = None,
    temperature: float = 0.0,
    **sampling: Any,
) -> RolloutBatch:
    """A rollout of the tiny policy as numpy arrays; ends at `eos`, which by default never comes."""
    policy = tiny_policy()
    rules = rules or policy.rules
    rules = dataclasses.replace(rules, eos=jnp.isin(jnp.arange(len(rules.eos)), jnp.array(eos, jnp.int32)))
    prompts = policy.prompt_arrays([tiny_prompts()[i] for i in places], forced)
    out = sample_completions(
        decode_params() if params is None else params,
        prompts,
        row_keys(5, 0, jnp.array(places), group) if keys is None else keys,
        rules,
        SamplingConfig(**{"max_new_tokens": ROOM, "temperature": temperature, **sampling}),
        policy.config,
        policy.processor.image_config,
        tokens_per_check=tokens_per_check,
    )
    return jax.device_get(out)


@cache
def greedy() -> RolloutBatch:
    return sample()


@cache
def sampled() -> RolloutBatch:
    return sample(temperature=0.7)


def reference(tokens: np.ndarray, policy: Policy | None = None) -> np.ndarray:
    """Uncached logits `[b, g, r, v]` of completions `[b, g, r]`."""
    policy = policy or tiny_policy()
    columns = [uncached_logits(policy, tiny_prompts(), tokens[:, g]) for g in range(tokens.shape[1])]
    return np.stack(columns, axis=1)


def check_statistics(out: RolloutBatch, logits: np.ndarray) -> None:
    """Log-probabilities and gaps against logits, at every position."""
    exact = log_softmax(logits)
    best = -np.sort(-np.exp(exact), axis=-1)
    chosen = np.take_along_axis(exact, out.tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(out.logprobs, chosen, atol=1e-5)
    np.testing.assert_allclose(out.gaps, best[..., 0] - best[..., 1], atol=1e-5)


def check_equal(out: RolloutBatch, expected: RolloutBatch) -> None:
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    np.testing.assert_array_equal(out.lengths, expected.lengths)
    np.testing.assert_array_equal(out.stopped, expected.stopped)
    np.testing.assert_allclose(out.logprobs, expected.logprobs, atol=1e-5)
    np.testing.assert_allclose(out.gaps, expected.gaps, atol=1e-5)


def cut_at(out: RolloutBatch, eos: Sequence[int]) -> RolloutBatch:
    """What a rollout that never ended would have been, had it ended at `eos`."""
    hit = np.isin(out.tokens, list(eos))
    lengths = np.where(hit.any(-1), hit.argmax(-1) + 1, out.tokens.shape[-1])
    real = np.arange(out.tokens.shape[-1]) < lengths[..., None]
    pad = tiny_processor().tokenizer.special.pad
    return RolloutBatch(
        tokens=np.where(real, out.tokens, pad),
        lengths=lengths,
        logprobs=np.where(real, out.logprobs, 0),
        gaps=np.where(real, out.gaps, 0),
        stopped=hit.any(-1),
    )


class Spy:
    """Counts what the decode loop did, room by room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.rooms: list[int] = []
        self.steps: list[int] = []
        self._run = rollout._run
        monkeypatch.setattr(rollout, "_run", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state = self._run(*args, **kwargs)
        self.rooms.append(state.out.tokens.shape[-1])
        self.steps.append(int(state.step))
        return state


def test_the_prompts_can_fail() -> None:
    prompts = tiny_prompts()
    assert len({len(p.input_ids) for p in prompts}) == 3
    assert len({p.grid_thw for p in prompts}) == 2
    mask = np.asarray(tiny_policy().prompt_arrays(prompts, FREE).mask)
    assert (~mask[:, 0]).all()  # padding on the left of every row
    assert mask[:, -1].all()


def test_greedy_is_the_argmax_of_the_uncached_forward() -> None:
    out = greedy()
    logits = reference(out.tokens)
    np.testing.assert_array_equal(out.tokens, logits.argmax(-1))
    check_statistics(out, logits)
    assert (out.tokens[:, 0] == out.tokens[:, 1]).all()
    assert len(np.unique(out.tokens)) > 10
    assert (out.lengths == ROOM).all()
    assert not out.stopped.any()


def test_sampled_statistics_are_those_of_the_uncached_forward() -> None:
    out = sampled()
    check_statistics(out, reference(out.tokens) / 0.7)
    assert (out.tokens[:, 0] != out.tokens[:, 1]).any(-1).all()


def test_truncation_keeps_to_the_support_and_reports_the_whole_distribution() -> None:
    out = sample(temperature=0.7, top_k=4, top_p=0.6)
    logits = reference(out.tokens) / 0.7
    check_statistics(out, logits)
    probs = np.exp(log_softmax(logits))
    order = np.argsort(-probs, axis=-1)
    best = np.take_along_axis(probs, order, -1)[..., :4]
    before = np.cumsum(best, -1) / best.sum(-1, keepdims=True) - best / best.sum(-1, keepdims=True)
    rank = (order == out.tokens[..., None]).argmax(-1)
    assert (rank < 4).all()
    assert (np.take_along_axis(before, rank[..., None], -1) < 0.6 + 1e-5).all()
    assert (rank > 0).any()


def test_a_group_equals_repeated_prompts_in_another_order() -> None:
    places = (2, 0, 1, 1, 0, 2)
    samples = (1, 1, 0, 1, 0, 0)
    keys = row_keys(5, 0, jnp.arange(3), GROUP)[jnp.array(places), jnp.array(samples)][:, None]
    out = sample(temperature=0.7, places=places, group=1, keys=keys)
    expected = jax.tree.map(lambda x: x[list(places), list(samples)][:, None], sampled())
    check_equal(out, expected)


@pytest.mark.parametrize("kind", ["first token", "some rows", "every row", "every token"])
def test_end_tokens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = greedy().tokens
    ends = {
        "first token": [tokens[0, 0, 0]],
        "some rows": [tokens[1, 0, 7]],
        "every row": [tokens[0, 0, 9], tokens[1, 0, 3], tokens[2, 0, 5]],
        "every token": range(tiny_policy().config.text.vocab_size),
    }[kind]
    expected, spy = cut_at(greedy(), ends), Spy(monkeypatch)
    out = sample(eos=list(ends))
    check_equal(out, expected)
    assert spy.steps == [expected.lengths.max()]  # the loop stops as soon as the last row has ended
    if kind == "first token":
        assert out.lengths[0].tolist() == [1, 1]
    for uncertainty, gaps, length in zip(
        out.uncertainty.ravel(), out.gaps.reshape(-1, ROOM), out.lengths.ravel(), strict=True
    ):
        assert float(uncertainty) == pytest.approx(np.mean(1 - gaps[:length]), abs=1e-6)


def test_an_end_token_as_the_last_token_allowed_counts_as_an_end() -> None:
    last = greedy().tokens[0, 0, ROOM - 1]
    assert last not in greedy().tokens[0, 0, : ROOM - 1]
    out = sample(eos=[last])
    assert out.stopped[0].all()
    assert (out.lengths[0] == ROOM).all()


@pytest.mark.parametrize("ends", [False, True])
def test_looking_every_sixteen_tokens_changes_nothing(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = greedy().tokens
    eos = [tokens[0, 0, 9], tokens[1, 0, 3], tokens[2, 0, 5]] if ends else []
    spy = Spy(monkeypatch)
    check_equal(sample(eos=eos, tokens_per_check=16), cut_at(greedy(), eos))
    assert spy.steps == [16 if ends else ROOM]


@pytest.mark.parametrize("ends", [False, True])
def test_growing_rooms_change_nothing(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = greedy()
    tokens = expected.tokens
    eos = [tokens[0, 0, 9], tokens[1, 0, 3], tokens[2, 0, 5]] if ends else []
    monkeypatch.setattr(rollout, "_ROOMS", (8, 16, 64))
    spy = Spy(monkeypatch)
    out = sample(eos=eos)
    assert spy.rooms == ([8, 16] if ends else [8, 16, ROOM])
    expected = cut_at(expected, eos)
    check_equal(out, jax.tree.map(lambda x: x[:, :, :16] if ends and x.ndim == 3 else x, expected))


def test_rooms_double_from_64() -> None:
    assert all(
        after == 2 * before for before, after in zip(rollout._ROOMS[:-1], rollout._ROOMS[1:], strict=True)
    )
    assert rollout._ROOMS[0] == 64


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_vision_ids_are_never_sampled(temperature: float) -> None:
    special = tiny_processor().tokenizer.special
    text = tiny_policy().params["text"]
    # One row and its opposite: whatever the hidden state, some vision id has by far the largest logit.
    head = np.array(text["lm_head"])
    rows = [*special.vision, *range(tiny_processor().tokenizer.vocab_size, len(head))]
    head[rows[::2]], head[rows[1::2]] = 50 * head[0], -50 * head[0]
    assert len(rows) > 10
    policy = tiny_policy().with_params(
        {**tiny_policy().params, "text": {**text, "lm_head": jnp.asarray(head)}}
    )
    params = {**decode_params(), "text": {**decode_params()["text"], "lm_head": jnp.asarray(head)}}
    out = sample(params=params, temperature=temperature)
    logits = reference(out.tokens, policy)
    everything = dataclasses.replace(policy.rules, banned=jnp.zeros_like(policy.rules.banned))
    unbanned = sample(params=params, rules=everything, temperature=temperature)
    assert np.isin(unbanned.tokens, rows).mean() > 0.9
    assert not np.isin(out.tokens, rows).any()
    check_statistics(out, logits / (temperature or 1))


def script(text: str) -> np.ndarray:
    """A text as forced tokens, the rest left free."""
    ids = tiny_processor().tokenizer.encode(text)
    assert len(ids) <= FORCED
    return np.concatenate([ids, FREE[len(ids) :]])


def check_rules(
    out: RolloutBatch, *, forced: np.ndarray, limit: int | None, rules: TokenRules, texts: list[bytes]
) -> None:
    """Every token is the forced one, or the next of the closing ones, or the likeliest, by the text so far."""
    likeliest = reference(out.tokens).argmax(-1)
    close = np.asarray(rules.close_ids).tolist()
    for b, g in np.ndindex(out.lengths.shape):
        text, spent, closing = b"", 0, []
        for step, token in enumerate(out.tokens[b, g]):
            start = text.find(OPEN)
            rest = text[start + len(OPEN) :]
            thinking = start >= 0 and CLOSE not in rest
            begun = any(rest.endswith(CLOSE[:n]) for n in range(1, len(CLOSE)))
            if limit is not None and thinking and not closing and spent >= limit + begun * len(CLOSE):
                closing = close.copy()
            if step < FORCED and forced[step] >= 0:
                assert token == forced[step]
                spent, closing = spent + thinking, []
            elif closing:
                assert token == closing.pop(0), (b, step)
            else:
                assert token == likeliest[b, g, step], (b, step)
                spent += thinking
            text += texts[token]


SCRIPTS = {
    "no thought": "",
    "thought": "<think>",
    "budget spent by forced tokens": "<think> red cup left of",
    "closed at once": "<think></think>",
    "closed by the policy": "<think> red cup</think>\n",
    "closing tag begun": "<think> red</",
    "closing tag nearly done": "<think> red</think",
    "false start": "<think> red</</< cup",
    "second thought": "<think></think><think>",
}


@pytest.mark.parametrize("limit", [None, 0, 1, 4])
@pytest.mark.parametrize("name", SCRIPTS)
def test_thinking_budget(name: str, limit: int | None) -> None:
    forced = script(SCRIPTS[name])
    out = sample(forced=forced, max_thinking_tokens=limit)
    texts = [*tiny_processor().tokenizer.token_bytes(), *[b""] * 10]
    check_rules(out, forced=forced, limit=limit, rules=tiny_policy().rules, texts=texts)
    check_statistics(out, reference(out.tokens))  # forced tokens too are reported as the policy sees them
    if name in ("no thought", "closed at once", "closed by the policy", "second thought") or limit is None:
        np.testing.assert_array_equal(out.tokens, sample(forced=forced).tokens)


def test_a_spent_budget_closes_the_thought_and_the_completion_goes_on() -> None:
    tokenizer = tiny_processor().tokenizer
    opening, close = tokenizer.encode("<think>"), tokenizer.encode("</think>\n")
    out = sample(forced=script("<think>"), max_thinking_tokens=4)
    n = len(opening) + 4
    for row in out.tokens.reshape(-1, ROOM):
        assert row[: len(opening)].tolist() == opening.tolist()
        assert row[n : n + len(close)].tolist() == close.tolist()
        assert tokenizer.decode(row).count("</think>") == 1
    assert (out.lengths == ROOM).all()


def test_a_tag_that_is_begun_for_ever_does_not_escape_the_budget() -> None:
    params, bare = decode_params(), decode_params()["text"]
    # A final norm of zero gives equal logits, so the first id is always taken; here it means "<".
    zero = {"scale": jnp.zeros_like(bare["final_norm"]["scale"])}
    texts = [b"<", *tiny_processor().tokenizer.token_bytes()[1:]]
    special = tiny_processor().tokenizer.special
    rules = token_rules(
        texts,
        vocab_size=tiny_policy().config.text.vocab_size,
        eos=(),
        banned=special.vision,
        close_ids=tiny_processor().tokenizer.encode("</think>\n"),
        pad=special.pad,
    )
    out = sample(
        params={**params, "text": {**bare, "final_norm": zero}},
        rules=rules,
        forced=script("<think>"),
        max_thinking_tokens=2,
    )
    opening, close = tiny_processor().tokenizer.encode("<think>"), np.asarray(rules.close_ids)
    n = 2 + len(CLOSE)
    assert (out.tokens[..., len(opening) : len(opening) + n] == 0).all()
    assert (out.tokens[..., len(opening) + n :][..., : len(close)] == close).all()


def test_the_loop_copies_neither_weights_nor_cache() -> None:
    """Memory beside arguments and results of the compiled loop (performance, trap 4)."""
    config = tiny_config(tiny_processor(), layers=3, hidden=128)
    b, g, room, t = 2, 4, 256, 64
    params = jax.device_get(qwen_vl.unstack_layers(named_params(config)))
    kv = tuple(jnp.zeros((b, 2, t, config.text.head_dim)) for _ in range(3))
    prefix = qwen_vl.PrefixCache(kv, kv, jnp.ones((b, t), bool))
    suffix = qwen_vl.init_suffix_cache(config, b, g, room, jnp.float32, unstacked=True)
    ints, floats, flags = jnp.zeros((b, g), jnp.int32), jnp.zeros((b, g, room)), jnp.zeros((b, g), bool)
    out = RolloutBatch(floats.astype(jnp.int32), ints, floats, floats, flags)
    state = rollout._State(jnp.int32(0), jnp.zeros((b, g, 128)), suffix, out, flags, ints, ints, ints)
    arguments = (
        params,
        prefix,
        state,
        row_keys(0, 0, jnp.arange(b), g),
        jnp.zeros((b, 0), jnp.int32),
        jnp.zeros(b, jnp.int32),
        tiny_policy().rules,
        jnp.float32(1),
        None,
        jnp.int32(-1),
    )
    leaves, tree = jax.tree.flatten(arguments)

    def run(*leaves: jax.Array) -> list[jax.Array]:
        # As lists of leaves, because `lower` puts descriptions of arrays where the records check for arrays.
        state = rollout._run.__wrapped__(
            *tree.unflatten(leaves), config, greedy=True, top_k=0, tokens_per_check=1
        )
        return jax.tree.leaves(state)

    first = len(jax.tree.leaves(arguments[:2]))
    donated = range(first, first + len(jax.tree.leaves(state)))
    compiled = jax.jit(run, donate_argnums=donated).lower(*leaves).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < 0.2 * sum(leaf.nbytes for leaf in jax.tree.leaves(params["text"]["blocks"]))
    assert temporary < 0.2 * sum(leaf.nbytes for leaf in jax.tree.leaves(suffix))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        SamplingConfig(**{"max_new_tokens": 8, **settings})


def test_a_tokenizer_larger_than_its_model_is_refused() -> None:
    with pytest.raises(InputError, match="3 ids for a model of 2"):
        token_rules([b"a", b"b", b"c"], vocab_size=2, eos=(), banned=(), close_ids=[0], pad=0)
