import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.runtime.train_state import begin
from pixelthink_jax.sft.batches import Row, cut_batches
from pixelthink_jax.sft.run import to_device
from pixelthink_jax.sft.step import DeviceBatch, make_train_step, supervised_loss
from tests.rl.tiny_policy import log_softmax, pictures, tiny_policy

LENGTH = 64


@pytest.fixture(scope="module")
def batch() -> DeviceBatch:
    """Two rows of different length and an empty one, image 28 x 42."""
    policy, rows = tiny_policy(), []
    for image, query, answer in zip(
        pictures([(28, 42)] * 2),
        ["the red cup", "cup"],
        ["<think> red</think>", "left of the cup"],
        strict=True,
    ):
        prompt = policy.processor.prompt(image, query)
        ids = np.concatenate([prompt.input_ids, policy.processor.tokenizer.encode(answer)]).astype(np.int32)
        rows.append(Row(ids, len(prompt.input_ids), prompt.image, prompt.grid_thw))
    assert len(rows[0].input_ids) != len(rows[1].input_ids)
    [cut] = cut_batches(
        rows, buckets=(LENGTH,), tokens_per_batch=3 * LENGTH, pad_id=1, rng=np.random.default_rng(0)
    )
    assert not cut.loss_mask[2].any()
    return to_device(cut, policy)


def test_the_loss_is_the_mean_over_completion_tokens(batch: DeviceBatch) -> None:
    policy = tiny_policy()
    loss, metrics = jax.jit(
        lambda params: supervised_loss(
            params, batch, policy.config, policy.processor.image_config, remat="full", unroll=True
        )
    )(policy.params)
    # Otherwise: the policy's own logits of arrays as Hugging Face's processor makes them, and numpy.
    ids, mask = np.asarray(batch.input_ids), np.asarray(batch.mask)
    grids = np.tile([[1, 4, 6]], (3, 1))
    images = policy.processor.pixel_values(
        policy.processor.batch([policy.processor.prompt(image, "x") for image in np.asarray(batch.images)])
    )
    logits = np.asarray(policy.logits(ids, mask.astype(np.int64), np.asarray(images), grids), np.float64)
    total, tokens, right = 0.0, 0, 0
    for row, (start, end) in enumerate(
        (int(np.flatnonzero(m)[0]), int(np.flatnonzero(m)[-1]) + 1) for m in np.asarray(batch.loss_mask)[:2]
    ):
        for place in range(start, end):
            scores = log_softmax(logits[row, place - 1])
            total -= scores[ids[row, place]]
            right += int(scores.argmax() == ids[row, place])
            tokens += 1
    assert tokens == np.asarray(batch.loss_mask).sum()
    assert float(loss) == pytest.approx(total / tokens, rel=1e-5)
    assert float(metrics["loss"]) == float(loss)
    assert float(metrics["token_accuracy"]) == pytest.approx(right / tokens)
    assert float(metrics["tokens"]) == tokens


def test_a_frozen_tower_does_not_move_by_a_bit(batch: DeviceBatch) -> None:
    policy = tiny_policy()
    # Weight decay moves what has no gradient, and clipping couples all leaves.
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.01, weight_decay=0.3))
    step = make_train_step(policy.config, policy.processor.image_config, optimizer)
    params, frozen = qwen_vl.split_params(jax.tree.map(jnp.copy, policy.params), "text/")
    state = begin(params, optimizer)
    before = jax.tree.map(np.array, params)  # a copy: a view would keep the old state's memory
    for _ in range(2):
        state, metrics = step(state, frozen, batch)
    after = jax.device_get(state.params)
    assert set(after) == {"text"}
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(frozen))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old != new).mean() > 0.9
    assert int(state.step) == 2
    assert float(metrics["gradient_norm"]) > 0
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))  # the old state's memory is given back


def test_the_vision_layout_of_a_batch_is_that_of_its_images(batch: DeviceBatch) -> None:
    layout = qwen_vl.vision_layout(np.tile([[1, 4, 6]], (3, 1)), tiny_policy().config.vision)
    assert layout.windows == batch.layout.windows
    np.testing.assert_array_equal(batch.layout.order, layout.order)
