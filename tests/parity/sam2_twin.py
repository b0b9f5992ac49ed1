"""A small random SAM2 in transformers, noise in every tensor, and the same weights as our parameter tree."""

import numpy as np
import torch

# torchvision beside a CPU torch lacks two operators that its import looks for; the library must stay alive.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",) * (
    not hasattr(torch.ops.torchvision, "nms")
) + ("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",) * (
    not hasattr(torch.ops.torchvision, "qnms")
):
    _LIBRARY.define(_name)

from transformers import Sam2Config as HfConfig  # noqa: E402
from transformers import Sam2Model  # noqa: E402

from pixelthink_jax.models.sam2.config import Sam2Config  # noqa: E402
from pixelthink_jax.models.sam2.hf_config import to_hf  # noqa: E402
from pixelthink_jax.models.sam2.names import tensor_table  # noqa: E402
from pixelthink_jax.models.weights import ArraySource, read_params  # noqa: E402

# Windows 4 and 2 do not divide maps 6 and 3; the grid is not square; heads, widths and depths all differ.
SMALL = Sam2Config(
    image_size=96,
    depths=(1, 2, 3, 1),
    widths=(16, 32, 48, 64),
    heads=(1, 2, 3, 4),
    windows=(8, 4, 4, 2),
    global_blocks=(4, 5),
    position_grid=(7, 5),
    mlp_ratio=3.0,
    embed_dim=32,
    mask_channels=8,
    decoder_heads=4,
    decoder_mlp=40,
    iou_width=24,
)


def make_twin(config: Sam2Config, *, seed: int = 0, noise: float = 0.3) -> Sam2Model:
    """transformers' model of this configuration with noise added to every tensor, in evaluation mode."""
    torch.manual_seed(seed)
    model = Sam2Model(HfConfig(**to_hf(config))).eval()
    for name, tensor in (state := model.state_dict()).items():
        fan_in = tensor[0].numel() if name.endswith("weight") and tensor.ndim > 1 else 1
        scale = 1.0 if tensor.ndim > 1 else noise
        # Gain above one: prompts and positions must reach the output, or a test of them could not fail.
        tensor.add_(scale * (1.2 if fan_in > 1 else 1.0) * torch.randn_like(tensor) / fan_in**0.5)
    model.load_state_dict(state)
    return model


def params_of(model: Sam2Model, config: Sam2Config) -> dict:
    """Our parameter tree of transformers' model."""
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return read_params(ArraySource(arrays, "twin"), tensor_table(config))


def relative(ours: np.ndarray, reference: torch.Tensor | np.ndarray) -> float:
    """Largest absolute difference over the largest absolute reference value."""
    reference = np.asarray(reference.detach() if isinstance(reference, torch.Tensor) else reference)
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())
