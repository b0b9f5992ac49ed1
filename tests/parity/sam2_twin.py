"""A small random SAM2 in transformers, noise in every tensor, and the same weights as our parameter tree."""

from typing import Any

import numpy as np
import torch

# transformers imports torchvision, which beside a CPU torch looks for two operators that only its own build declares.
_DECLARED = torch.library.Library("torchvision", "FRAGMENT")
for _name, _schema in {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}.items():
    if not hasattr(torch.ops.torchvision, _name):
        _DECLARED.define(_schema)

from transformers import Sam2Config as HfConfig  # noqa: E402
from transformers import Sam2Model  # noqa: E402

from pixelthink_jax.models.folders import ArraySource  # noqa: E402
from pixelthink_jax.models.sam2.config import Sam2Config  # noqa: E402
from pixelthink_jax.models.sam2.hf_config import to_hf  # noqa: E402
from pixelthink_jax.models.sam2.names import tensor_table  # noqa: E402
from pixelthink_jax.models.weights import read_params  # noqa: E402


def make_twin(config: Sam2Config, *, seed: int = 0) -> Sam2Model:
    """transformers' model of this configuration with noise added to every tensor, in evaluation mode.

    Kernels get a gain above one: prompts and positions must reach the output, or a test of them could not fail.
    """
    torch.manual_seed(seed)
    model = Sam2Model(HfConfig(**to_hf(config))).eval()
    state = model.state_dict()
    for name, tensor in state.items():
        fan_in = tensor[0].numel() if name.endswith("weight") and tensor.ndim > 1 else 1
        scale = 0.3 if tensor.ndim == 1 else 1.0 if fan_in == 1 else 1.2 * fan_in**-0.5
        tensor.add_(scale * torch.randn_like(tensor))
    model.load_state_dict(state)
    return model


def params_of(model: Sam2Model, config: Sam2Config) -> dict[str, Any]:
    """Our parameter tree of transformers' model."""
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return read_params(ArraySource(arrays, "twin"), tensor_table(config))


def relative(ours: Any, reference: Any) -> float:
    """Largest absolute difference over the largest absolute reference value; shapes must agree."""
    reference = np.asarray(reference.detach() if isinstance(reference, torch.Tensor) else reference)
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def channels_first(x: Any) -> np.ndarray:
    """`[..., H, W, c]` as torch lays maps out."""
    return np.moveaxis(np.asarray(x), -1, -3)
