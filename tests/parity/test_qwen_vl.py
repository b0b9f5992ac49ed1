"""The whole Qwen2.5-VL against transformers: logits, gradients, greedy text, folders, published sizes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl.folder import read_folder, write_folder
from pixelthink_jax.models.qwen_vl.hf_config import config_from_hf, config_to_hf
from pixelthink_jax.models.qwen_vl.presets import PRESETS
from pixelthink_jax.models.qwen_vl.table import canonical_name, tensor_table
from pixelthink_jax.models.weights import ArraySource, read_params
from tests.models.qwen_small import (
    CASES,
    SMALL,
    TIED,
    batch_logits,
    difference,
    embed_batch,
    gradient_difference,
    make_batch,
    named_params,
    positions_of,
)
from tests.parity.qwen_twin import load_twin, make_twin, model_inputs, twin_logits


@pytest.fixture(scope="module", params=[SMALL, TIED], ids=["untied", "tied"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def twin(config):
    return make_twin(config)


@pytest.fixture(scope="module")
def params(config):
    return named_params(config)


@pytest.mark.parametrize("case", [case for case in CASES if case != "several images"])
def test_logits(case):
    assert logits_differ(case, SMALL, make_twin(SMALL), named_params(SMALL)) < 1e-5


def test_logits_of_either_head(config, twin, params):
    """A head of its own, and the embedding as the head."""
    assert logits_differ("several images", config, twin, params) < 1e-5


def logits_differ(case, config, twin, params):
    batch = make_batch(case)
    ours, reference = batch_logits(params, batch, config), twin_logits(twin, batch, config)
    return difference(ours[batch.real], reference[batch.real])


def test_three_axes_of_positions_differ():
    """Or the logits above could not tell one rotary section from another."""
    batch = make_batch("several images")
    time, height, width = positions_of(batch, SMALL)[:, batch.real]
    assert (time != height).any() and (height != width).any() and (time != width).any()


@pytest.mark.parametrize("case", [case for case in CASES if case != "text only"])
def test_position_ids(case):
    batch = make_batch(case)
    inputs = model_inputs(batch, SMALL)
    reference, _ = make_twin(SMALL).model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    np.testing.assert_array_equal(positions_of(batch, SMALL)[:, batch.real], reference.numpy()[:, batch.real])


def test_gradients():
    """Of every parameter, through the images too."""
    batch, weights = make_batch("two sizes"), np.random.default_rng(5)
    weights = (
        weights.normal(size=(*batch.input_ids.shape, SMALL.text.vocab_size)) * batch.real[..., None]
    ).astype(np.float32)
    positions = positions_of(batch, SMALL)

    @jax.jit
    def loss(params):
        hidden = qwen_vl.forward(params, embed_batch(params, batch, SMALL), positions, batch.real, SMALL)
        return jnp.sum(qwen_vl.logits(params, hidden, SMALL) * weights)

    twin = make_twin(SMALL)
    (twin(**model_inputs(batch, SMALL)).logits * torch.from_numpy(weights)).sum().backward()
    state = {canonical_name(name): value.grad.numpy() for name, value in twin.named_parameters()}
    reference = read_params(ArraySource(state, "gradients"), tensor_table(SMALL))
    assert gradient_difference(jax.grad(loss)(named_params(SMALL)), reference) < 1e-4


@pytest.mark.parametrize("unstacked", [False, True])
def test_greedy_tokens(unstacked):
    """Prefill and decode give the tokens `generate` gives, from a left-padded batch of two images."""
    batch, steps, twin, params = make_batch("two sizes"), 12, make_twin(SMALL), named_params(SMALL)
    reference = twin.generate(
        **model_inputs(batch, SMALL), max_new_tokens=steps, do_sample=False, eos_token_id=None
    )
    positions = positions_of(batch, SMALL)
    prefill = lambda params: qwen_vl.prefill(  # noqa: E731
        params, embed_batch(params, batch, SMALL), positions, batch.real, SMALL
    )
    hidden, prefix = jax.jit(prefill)(params)
    if unstacked:
        params = qwen_vl.unstack_layers(params)
    start = np.where(batch.real, positions, 0).max((0, 2)) + 1
    suffix = qwen_vl.init_suffix_cache(SMALL, 2, 1, steps, jnp.float32, unstacked=unstacked)
    step_fn = jax.jit(lambda *args: qwen_vl.decode_step(params, *args, SMALL))
    tokens, hidden = [], hidden[:, -1:]
    for step in range(steps):
        tokens.append(np.asarray(qwen_vl.logits(params, hidden, SMALL).argmax(-1), np.int32))
        where = np.broadcast_to(start[:, None] + step, (3, 2, 1)).astype(np.int32)
        hidden, suffix = step_fn(tokens[-1], where, prefix, suffix, jnp.int32(step))
    np.testing.assert_array_equal(np.concatenate(tokens, 1), reference[:, batch.input_ids.shape[1] :].numpy())


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes(name):
    """Names and shapes of every tensor equal what transformers builds from the configuration."""
    config = PRESETS[name]
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config_to_hf(config)))
    reference = {canonical_name(key): tuple(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        assert reference.pop("lm_head.weight") == reference["model.embed_tokens.weight"]
    assert {spec.name: spec.shape for spec in tensor_table(config)} == reference
    drawn = jax.eval_shape(lambda key: qwen_vl.init_params(config, key), jax.random.key(0))
    total = sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(drawn))
    assert total == sum(np.prod(shape, dtype=np.int64) for shape in reference.values())


@pytest.mark.parametrize("max_shard_bytes", [10**9, 60_000])
def test_export_loads_in_transformers(max_shard_bytes, config, params, tmp_path):
    write_folder(tmp_path / "out", params, config, max_shard_bytes=max_shard_bytes)
    batch = make_batch("several images")
    reference = batch_logits(params, batch, config)
    loaded = load_twin(tmp_path / "out")
    assert difference(twin_logits(loaded, batch, config)[batch.real], reference[batch.real]) < 1e-5
    assert loaded.config.text_config.eos_token_id == config.eos_token_id


def test_vision_theta_survives_export(tmp_path):
    import dataclasses

    config = dataclasses.replace(SMALL, vision=dataclasses.replace(SMALL.vision, rope_theta=100.0))
    params, batch = named_params(config), make_batch("two sizes")
    write_folder(tmp_path / "out", params, config)
    ours, reference = (
        batch_logits(params, batch, config),
        twin_logits(load_twin(tmp_path / "out"), batch, config),
    )
    assert difference(ours[batch.real], reference[batch.real]) < 1e-5


def test_bfloat16_export_is_the_rounded_weights(tmp_path):
    write_folder(tmp_path / "out", named_params(SMALL), SMALL, dtype="bfloat16")
    loaded = load_twin(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    config, params = read_folder(tmp_path / "out")
    assert config.dtype == "bfloat16"
    kernel = np.asarray(params["text"]["blocks"]["q_proj"]["kernel"][1], np.float32).T
    np.testing.assert_array_equal(
        kernel, loaded.model.language_model.layers[1].self_attn.q_proj.weight.float().detach()
    )


@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_folder_saved_by_transformers(shard, config, twin, params, tmp_path):
    """The nested configuration and the hub's tensor names."""
    twin.save_pretrained(tmp_path, max_shard_size=shard)
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())
    loaded_config, loaded = read_folder(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_module_names_and_a_stored_tied_head(config, twin, params, tmp_path):
    """The tensor names of the module tree; a tied model's head is stored too."""
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    assert "model.language_model.norm.weight" in state and "lm_head.weight" in state
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    jax.tree.map(np.testing.assert_array_equal, read_folder(tmp_path)[1], params)


@pytest.mark.parametrize("name", PRESETS)
def test_configs_agree(name):
    """Both layouts of a published configuration read as the same model."""
    nested = Qwen2_5_VLConfig(**config_to_hf(PRESETS[name])).to_dict()
    assert config_from_hf(nested) == PRESETS[name]
