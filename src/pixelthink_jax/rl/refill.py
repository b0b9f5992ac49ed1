"""Decoding that stays busy: prompts of unequal completions, batches refilled at every room.

The completions of a batch share one step, so a batch cannot take in a new prompt at any token. It can at the rooms of
the completion cache: what is unfinished when a room is full waits until there is a whole batch of such rows, from
whatever batches they came, and that batch goes on together. A row then waits for longer ones at most until the end of
its room, whatever the longest completion is.

    batch of prompts -> room 64 -> done: out | unfinished: wait -> full batch -> room 128 -> ...

What waits holds its keys and values: at most one batch for each room, beside the one that runs.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.rl.rollout import (
    Decoding,
    PromptArrays,
    RolloutBatch,
    decode_to_room,
    encode_for_rollout,
    prefill_prompts,
    rooms,
)
from pixelthink_jax.rl.sampling import SamplingConfig
from pixelthink_jax.rl.token_rules import TokenRules
from pixelthink_jax.runtime.hosts import fetch


@dataclass(frozen=True)
class Finished:
    """The completions of one prompt, on the host.

    Attributes:
        place: The prompt's number, as `PromptsToSample.places` gave it.
        rollout: A batch of one.
        uncertainty: float32 `[1, g]`.
        decode_slots: Rows of decode steps spent on each completion.
        seconds: Time by stage, divided evenly among the prompts that shared it.
    """

    place: int
    rollout: RolloutBatch
    uncertainty: np.ndarray
    decode_slots: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class PromptsToSample:
    """One batch of prompts.

    Attributes:
        prompts: As many as every other batch has.
        keys: See `rollout.sample_completions`.
        places: Number of each prompt; those beyond are repeats that only fill up the batch.
    """

    prompts: PromptArrays
    keys: Key[Array, "b g"]
    places: Sequence[int]


@dataclass
class _Spent:
    """What one prompt has cost so far."""

    place: int
    slots: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True)
class _Batch:
    """Rows that go on together; those beyond `spent` are empty."""

    decoding: Decoding
    spent: list[_Spent]


@dataclass(frozen=True)
class Refill:
    """What every batch of a sampling uses; arguments as `rollout.sample_completions`, the blocks unstacked."""

    params: Any
    rules: TokenRules
    sampling: SamplingConfig
    config: QwenVLConfig
    image_config: ImageConfig
    tokens_per_check: int | None = None

    def sample(self, batches: Iterable[PromptsToSample]) -> Iterator[Finished]:
        """Completions of every prompt, as they are done.

        Args:
            batches: Of one size, prompts padded to one length.
        """
        limits = rooms(self.sampling)
        waiting: list[_Batch | None] = [None] * len(limits)
        for batch in batches:
            yield from self._advance(self._begin(batch, limits[0]), 0, limits, waiting)
        for level in range(1, len(limits)):
            batch, waiting[level] = waiting[level], None
            if batch is not None:
                yield from self._advance(batch, level, limits, waiting)

    def _begin(self, batch: PromptsToSample, room: int) -> _Batch:
        spent, start = [_Spent(place) for place in batch.places], time.perf_counter()
        images = jax.block_until_ready(
            encode_for_rollout(self.params, batch.prompts, self.config, self.image_config)
        )
        encoded = time.perf_counter()
        decoding = jax.block_until_ready(
            prefill_prompts(
                self.params, images, batch.prompts, batch.keys, self.rules, self.config, room=room
            )
        )
        for row in spent:
            row.add("image_encoding", (encoded - start) / len(spent))
            row.add("prefill", (time.perf_counter() - encoded) / len(spent))
        return _Batch(_without(decoding, len(spent)), spent)

    def _advance(
        self, batch: _Batch, level: int, limits: list[int], waiting: list[_Batch | None]
    ) -> Iterator[Finished]:
        """Runs a batch through one room, hands out what is done, and lets the rest wait for the next."""
        batch = self._run(batch, limits[level])
        state, count = batch.decoding.state, len(batch.spent)
        out, uncertainty, done = fetch((state.out, state.out.uncertainty, jnp.all(state.done, 1)))
        over = level + 1 == len(limits)
        for row in range(count):
            if over or done[row]:
                yield _finished(out, uncertainty, row, batch.spent[row])
        left = [] if over else [row for row in range(count) if not done[row]]
        while left:
            left = _let_wait(batch, left, waiting, level + 1)
            full = waiting[level + 1]
            if full is not None and len(full.spent) == done.shape[0]:
                waiting[level + 1] = None
                yield from self._advance(full, level + 1, limits, waiting)

    def _run(self, batch: _Batch, room: int) -> _Batch:
        start, before = time.perf_counter(), int(batch.decoding.state.step)
        decoding = decode_to_room(
            self.params,
            _without(batch.decoding, len(batch.spent)),
            room,
            self.rules,
            self.sampling,
            self.config,
            tokens_per_check=self.tokens_per_check,
        )
        steps = int(decoding.state.step) - before
        share = len(batch.spent)
        for row in batch.spent:
            row.add("decoding", (time.perf_counter() - start) / share)
            row.slots += steps * decoding.state.done.shape[0] / share
        return _Batch(decoding, batch.spent)


def _let_wait(batch: _Batch, rows: list[int], waiting: list[_Batch | None], level: int) -> list[int]:
    """Moves as many rows as there is room for to those that wait; returns the others."""
    size, there = batch.decoding.state.done.shape[0], waiting[level]
    taken = len(there.spent) if there is not None else 0
    moved, left = rows[: size - taken], rows[size - taken :]
    index, chosen = np.zeros(size, np.int32), np.zeros(size, bool)
    index[taken : taken + len(moved)], chosen[taken : taken + len(moved)] = moved, True
    target = batch.decoding if there is None else there.decoding
    spent = [*(there.spent if there is not None else []), *(batch.spent[row] for row in moved)]
    waiting[level] = _Batch(_moved(target, batch.decoding, index, chosen), spent)
    return left


def _finished(out: RolloutBatch, uncertainty: np.ndarray, row: int, spent: _Spent) -> Finished:
    part = slice(row, row + 1)
    rollout = jax.tree.map(lambda leaf: leaf[part], out)
    return Finished(spent.place, rollout, uncertainty[part], spent.slots, dict(spent.seconds))


@jax.jit
def _moved(
    target: Decoding, source: Decoding, index: Int[Array, " b"], chosen: Bool[Array, " b"]
) -> Decoding:
    """`target` with rows `index` of `source` where `chosen`; both are at the same step."""

    def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
        if new.ndim == 0:
            return new
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new[index], old)

    return jax.tree.map(leaf, target, source)


def _without(decoding: Decoding, count: int) -> Decoding:
    """The rows from `count` on are empty: done before they begin."""
    size = decoding.state.done.shape[0]
    if count == size:
        return decoding
    done = decoding.state.done | (np.arange(size) >= count)[:, None]
    return dataclasses.replace(decoding, state=dataclasses.replace(decoding.state, done=done))
