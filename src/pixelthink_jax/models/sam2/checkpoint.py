"""SAM2 checkpoints: Hugging Face folders both ways, and files with the original names.

folder with config.json and safetensors      transformers' names, or the original ones
folder with one original .pt, or the file    read by `torch_zip`; the size is recognised by its tensors, unless
a config.json lies beside it
one .safetensors file                        the same, of either naming
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.folders import (
    CONFIG_FILE,
    ArraySource,
    SafetensorsFolder,
    TensorSource,
    atomic_folder,
    read_json,
)
from pixelthink_jax.models.sam2.config import PRESETS, Sam2Config
from pixelthink_jax.models.sam2.hf_config import from_hf, to_hf
from pixelthink_jax.models.sam2.model import Params
from pixelthink_jax.models.sam2.names import (
    ORIGINAL_VIDEO_TENSORS,
    VIDEO_TENSORS,
    OriginalNames,
    is_original,
    tensor_table,
)
from pixelthink_jax.models.torch_zip import read_torch_zip, state_dict
from pixelthink_jax.models.weights import ShardingFor, read_params
from pixelthink_jax.models.writing import write_params

_PREPROCESSOR = {
    "image_processor_type": "Sam2ImageProcessor",
    "processor_class": "Sam2Processor",
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 1 / 255,
}


def load(
    path: str | Path, *, dtype: Any = jnp.float32, sharding_for: ShardingFor | None = None
) -> tuple[Sam2Config, Params]:
    """Reads a SAM2 model.

    Args:
        path: A folder or file as in the module's table.
        dtype: Dtype of the parameters.
        sharding_for: Destination of a parameter from its path and shape; None is the default device.

    Returns:
        The configuration and the parameter tree.

    Raises:
        InputError: Missing, damaged, of another family, or tensors that do not fit the configuration, by name.
    """
    path = Path(path)
    source = _open(path)
    original = is_original(source.shapes())
    config_file = (path if path.is_dir() else path.parent) / CONFIG_FILE
    ignore = ORIGINAL_VIDEO_TENSORS if original else VIDEO_TENSORS
    if original:
        source = OriginalNames(source)
    if config_file.is_file():
        config = from_hf(read_json(config_file), where=str(config_file))
    elif original:
        config = _recognise(source)
    else:
        raise InputError(f"{path}: no {CONFIG_FILE} beside the weights; give a Hugging Face Sam2 folder")
    table = tensor_table(config)
    return config, read_params(source, table, dtype=dtype, sharding_for=sharding_for, ignore=ignore)


def save(path: str | Path, params: Params, config: Sam2Config, *, dtype: Any = None) -> None:
    """Writes a Hugging Face Sam2 folder that transformers loads: configuration, weights, image processor.

    Args:
        path: The folder to write or replace; complete or not there at all.
        params: The parameter tree.
        config: Its configuration.
        dtype: Dtype of the stored tensors; None keeps the parameters'.

    Raises:
        InputError: `path` is a file or a folder that holds something else.
    """
    size = {"height": config.image_size, "width": config.image_size}
    mask_size = {"height": config.mask_size, "width": config.mask_size}
    stored = jnp.dtype(dtype or params["no_memory_embedding"].dtype)
    with atomic_folder(path) as folder:
        _write_json(folder / CONFIG_FILE, to_hf(config) | {"dtype": stored.name})
        _write_json(
            folder / "preprocessor_config.json", _PREPROCESSOR | {"size": size, "mask_size": mask_size}
        )
        write_params(folder, params, tensor_table(config), dtype=dtype)


def _open(path: Path) -> TensorSource:
    """Whatever holds the tensors."""
    if path.is_dir():
        checkpoints = sorted(path.glob("*.pt"))
        if any(path.glob("*.safetensors*")) or not checkpoints:
            return SafetensorsFolder(path)
        if len(checkpoints) > 1:
            names = ", ".join(file.name for file in checkpoints[:3])
            raise InputError(f"{path}: holds several checkpoints ({names}); give the path of one file")
        path = checkpoints[0]
    if path.suffix == ".safetensors" and path.is_file():
        return _OneFile(path)
    if not path.exists() or path.suffix not in (".pt", ".pth"):
        raise InputError(
            f"{path}: not a SAM2 model; give a folder, a .safetensors file or an original .pt file"
        )
    arrays = state_dict(read_torch_zip(path), where=str(path))
    return ArraySource(arrays, str(path))


class _OneFile(ArraySource):
    """All tensors of one safetensors file."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(
                f"{path}: damaged or truncated safetensors file ({error}); fetch it again"
            ) from error
        super().__init__(arrays, str(path))


def _recognise(source: TensorSource) -> Sam2Config:
    """The published size whose image path has these tensors; the files say nothing else about themselves."""
    shapes = source.shapes()
    for config in PRESETS.values():
        if _fits(shapes.items(), config):
            return config
    raise InputError(
        f"{source.description}: its tensors are those of no published SAM2 size ({', '.join(PRESETS)}); put a Sam2 "
        f"{CONFIG_FILE} beside it"
    )


def _fits(shapes: Any, config: Sam2Config) -> bool:
    """Whether the trunk's tensors are exactly this configuration's."""
    trunk = "vision_encoder.backbone."
    wanted: Sequence[Any] = [
        (spec.name, spec.shape) for spec in tensor_table(config) if spec.name.startswith(trunk)
    ]
    return set(wanted) == {(name, tuple(shape)) for name, shape in shapes if name.startswith(trunk)}


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
