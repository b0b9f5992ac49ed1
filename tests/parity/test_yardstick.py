"""`--against transformers` for `verify` and `bench`, on random models in folders."""

import jax
import numpy as np
import pytest

from pixelthink_jax import cli
from pixelthink_jax.bench import generation, grpo
from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.verify import TransformersPolicy, TransformersSegmenter, checks
from tests.bench.test_bench import MODEL
from tests.evaluation.tiny import tiny_policy, tiny_segmenter
from tests.models.qwen_small import named_params


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Noise in every tensor, so that one in the wrong place is seen."""
    folder = tmp_path_factory.mktemp("models")
    tiny = tiny_policy()
    tiny.with_params(named_params(tiny.config)).export(folder / "policy")
    segmenter, rng = tiny_segmenter(), np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), segmenter.params)
    Segmenter(noisy, segmenter.config).export(folder / "segmenter")
    return folder


def test_verify_compares_both_models(models, capsys):
    flags = [
        "--policy",
        str(models / "policy"),
        "--segmenter",
        str(models / "segmenter"),
        "--max-new-tokens",
        "2",
    ]
    cli.main(["verify", *flags, "--against", "transformers"])
    lines = {line[6:37].strip(): line for line in capsys.readouterr().out.splitlines()}
    for what in ("policy against transformers", "segmenter against transformers"):
        assert lines[what].startswith("ok") and "allowed 1e-04" in lines[what]


def test_a_tensor_in_the_wrong_place_would_be_seen(models, monkeypatch):
    reference = TransformersSegmenter.mask_logits
    monkeypatch.setattr(
        TransformersSegmenter, "mask_logits", lambda self, p, b, q: reference(self, p, b, q[::-1] * 0)
    )
    *_, check = checks.verify_segmenter(models / "segmenter", against=True)
    assert check.what == "segmenter against transformers" and check.state == "fail"


def test_both_sides_of_the_generation_benchmark_do_the_same(tmp_path):
    params = named_params(MODEL)
    qwen_vl.write_folder(tmp_path / "model", params, MODEL)
    ours = generation.Contestant(qwen_vl.unstack_layers(params), MODEL, batch=2, image_side=56, new_tokens=6)
    theirs = TransformersPolicy(tmp_path / "model").generate(*ours.rival_arrays(), new_tokens=6)
    assert np.array_equal(ours(), theirs)


def test_the_grpo_step_of_the_benchmark_updates_every_parameter(tmp_path):
    qwen_vl.write_folder(tmp_path / "model", named_params(MODEL), MODEL)
    ours = grpo.Contestant(
        named_params(MODEL), MODEL, prompts=1, group_size=2, new_tokens=4, image_side=56, repeat=True
    )
    theirs = TransformersPolicy(tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in theirs._model.named_parameters()}
    theirs.grpo_step(*ours.rival_arrays(), new_tokens=4, learning_rate=1e-3)
    still = [n for n, tensor in theirs._model.named_parameters() if (tensor == before[n]).all()]
    assert not still


def test_a_folder_that_transformers_would_fill_up_is_refused(models):
    with pytest.raises(InputError, match="transformers finds no"):
        TransformersSegmenter(models / "policy")
