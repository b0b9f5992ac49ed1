"""Adapters: every mode runs them, merging and folders change nothing, and only they are trained."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import LoraConfig
from pixelthink_jax.models.qwen_vl.lora import PROJECTIONS, adapter_leaves
from tests.models.qwen_small import SMALL, batch_logits, difference, make_batch, named_params
from tests.models.qwen_small import noisy_adapter as noisy

LORA = LoraConfig(rank=3, alpha=5.0)


def test_a_new_adapter_changes_nothing_and_a_trained_one_does():
    params, batch = named_params(SMALL), make_batch("two sizes")
    plain = batch_logits(params, batch, SMALL)
    fresh = qwen_vl.add_lora(params, LORA, SMALL.text, jax.random.key(0))
    assert set(adapter_leaves(fresh)) == set(PROJECTIONS)
    np.testing.assert_array_equal(batch_logits(fresh, batch, SMALL), plain)
    assert difference(batch_logits(noisy(params, LORA), batch, SMALL), plain) > 1e-2


@pytest.mark.parametrize("targets", [tuple(PROJECTIONS), ("q_proj", "down_proj")])
def test_the_merged_model_computes_the_same(targets):
    params, batch = named_params(SMALL), make_batch("two sizes")
    adapted = noisy(params, dataclasses.replace(LORA, targets=targets))
    merged = qwen_vl.merge_lora(adapted)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert difference(batch_logits(merged, batch, SMALL), batch_logits(adapted, batch, SMALL)) < 1e-5


def test_decoding_with_an_adapter_equals_decoding_the_merged_model():
    from pixelthink_jax.policy import Policy
    from tests.rl.tiny_policy import pictures, tiny_policy

    policy = tiny_policy()
    adapted = Policy(
        policy.config, noisy(policy.params, LORA, policy.config), policy.folder, policy.loaded_processor
    )
    merged = adapted.with_params(qwen_vl.merge_lora(adapted.params))
    image = pictures([(28, 42)])
    [[one]], [[other]] = (p.generate(image, ["red cup"], max_new_tokens=6) for p in (adapted, merged))
    assert one.token_ids.tolist() == other.token_ids.tolist()
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_an_adapter_folder_comes_back(tmp_path):
    adapted = noisy(named_params(SMALL), dataclasses.replace(LORA, targets=("v_proj", "up_proj")))
    lora = dataclasses.replace(LORA, targets=("v_proj", "up_proj"))
    qwen_vl.write_adapter(tmp_path, adapted, lora, base="some/model")
    back, found = qwen_vl.read_adapter(tmp_path, named_params(SMALL), SMALL.text)
    assert found == lora
    jax.tree.map(np.testing.assert_array_equal, back, adapted)


def test_only_the_adapter_is_trained():
    params = named_params(SMALL)
    trained, frozen = qwen_vl.trained_and_frozen(
        params, SMALL, freeze_vision=False, lora=LORA, key=jax.random.key(0)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    per_layer = sum(
        LORA.rank * sum(qwen_vl.lora.projection_shape(SMALL.text, target)) for target in LORA.targets
    )
    assert count == SMALL.text.num_layers * per_layer
    whole = qwen_vl.whole_params(trained, frozen)
    assert jax.tree.structure(qwen_vl.without_lora(whole)) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'; only LORA"),
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"r": 4}, r"lora_A of q_proj in layer 0 has shape \(3, 64\), expected \(4, 64\)"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, change, message):
    qwen_vl.write_adapter(tmp_path, noisy(named_params(SMALL), LORA), LORA, base="")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        qwen_vl.read_adapter(tmp_path, named_params(SMALL), SMALL.text)


def test_an_adapter_of_a_deeper_model_is_refused(tmp_path):
    adapted = noisy(named_params(SMALL), LORA)
    qwen_vl.write_adapter(tmp_path, adapted, LORA, base="")
    shallow = dataclasses.replace(SMALL.text, num_layers=2)
    blocks = jax.tree.map(lambda leaf: leaf[:2], named_params(SMALL)["text"]["blocks"])
    params = {**named_params(SMALL), "text": {**named_params(SMALL)["text"], "blocks": blocks}}
    with pytest.raises(InputError, match=r"layers\.2.*has no place in this model"):
        qwen_vl.read_adapter(tmp_path, params, shallow)


def test_not_an_adapter_folder(tmp_path):
    with pytest.raises(InputError, match=r"it has no adapter_config\.json"):
        qwen_vl.read_adapter_config(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"rank": 0}, "must be positive"), ({"targets": ("qkv",)}, "expected some of q_proj")],
)
def test_impossible_settings(values, message):
    with pytest.raises(InputError, match=message):
        LoraConfig(**values)


def test_the_scale_is_alpha_over_rank():
    adapted = noisy(named_params(SMALL), LORA)
    moved = qwen_vl.merge_lora(adapted)["text"]["blocks"]["o_proj"]["kernel"]
    own = named_params(SMALL)["text"]["blocks"]["o_proj"]["kernel"]
    a, b, own = (np.asarray(x, np.float64) for x in (*adapter_leaves(adapted)["o_proj"], own))
    np.testing.assert_allclose(moved, own + 5 / 3 * np.einsum("lir,lro->lio", a, b), rtol=1e-6, atol=1e-6)
