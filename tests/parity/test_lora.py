"""Adapters against PEFT: theirs in our models, ours in theirs."""

import numpy as np
import peft
import pytest
import torch

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import LoraConfig
from tests.models.qwen_small import SMALL, batch_logits, difference, make_batch, named_params, noisy_adapter
from tests.parity.qwen_twin import make_twin, twin_logits

LORA = LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj", "o_proj", "down_proj"))


def test_peft_loads_our_folder_and_computes_the_same(tmp_path):
    adapted, batch = noisy_adapter(named_params(SMALL), LORA), make_batch("two sizes")
    qwen_vl.write_adapter(tmp_path, adapted, LORA, base="")
    model = peft.PeftModel.from_pretrained(make_twin(SMALL), str(tmp_path)).eval()
    ours, theirs = batch_logits(adapted, batch, SMALL), twin_logits(model, batch, SMALL)
    assert difference(ours[batch.real], theirs[batch.real]) < 1e-5


@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_a_folder_of_peft_and_compute_the_same(tmp_path, rslora):
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=rslora,
        target_modules=r".*language_model\.layers\.\d+\.(?:self_attn|mlp)\.(k_proj|gate_proj)",
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(make_twin(SMALL), config).eval()
    model.save_pretrained(tmp_path)
    params, lora = qwen_vl.read_adapter(tmp_path, named_params(SMALL), SMALL.text)
    assert lora.targets == ("k_proj", "gate_proj")
    assert np.isclose(lora.scale, 6 / (2 if rslora else 4))
    batch = make_batch("two sizes")
    ours, theirs = batch_logits(params, batch, SMALL), twin_logits(model, batch, SMALL)
    assert difference(ours[batch.real], theirs[batch.real]) < 1e-5
