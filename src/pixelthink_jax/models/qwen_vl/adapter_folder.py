"""Adapters as PEFT folders, both ways: `adapter_config.json` and `adapter_model.safetensors`.

PEFT stores `A` as `[r, in]` and `B` as `[out, r]`, one of each for every layer, under the module names of the
transformers model they were trained in.
"""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.folders import SafetensorsFolder, read_json
from pixelthink_jax.models.qwen_vl.config import TextConfig
from pixelthink_jax.models.qwen_vl.lora import (
    PROJECTIONS,
    LoraConfig,
    adapter_leaves,
    projection_shape,
    with_adapter,
)
from pixelthink_jax.models.qwen_vl.table import canonical_name
from pixelthink_jax.models.qwen_vl.text import Params

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_NAME = re.compile(r"^model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])(?:\.default)?\.weight$")
# What changes the arithmetic and is not implemented, with the value that leaves it out.
_UNSUPPORTED = {
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}


def write_adapter(folder: str | Path, params: Params, lora: LoraConfig, *, base: str) -> None:
    """Writes the adapter of a model, float32, into an existing or new folder.

    Args:
        folder: Where to.
        params: Parameters with the adapter.
        lora: Its shape.
        base: Folder or name of the model it belongs to, for PEFT to load.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for target, leaves in adapter_leaves(params).items():
        part = "self_attn" if PROJECTIONS[target] == target else "mlp"
        for letter, leaf in zip("AB", leaves, strict=True):
            for layer, matrix in enumerate(np.asarray(leaf, np.float32)):
                name = f"base_model.model.model.language_model.layers.{layer}.{part}.{target}.lora_{letter}.weight"
                tensors[name] = np.ascontiguousarray(matrix.T)
    # Module names as a pattern over whole paths: the vision tower has projections of the same names.
    names = "|".join(lora.targets)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "init_lora_weights": True,
        "target_modules": rf"^(?!.*visual).*layers\.\d+\.(?:self_attn|mlp)\.({names})$",
        "inference_mode": True,
        **_UNSUPPORTED,
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_adapter_config(folder: str | Path) -> LoraConfig:
    """Shape of an adapter; the targets are those that its weights name.

    Raises:
        InputError: Not a PEFT adapter folder, or an adapter that does more than `x A B`.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: not an adapter folder, it has no {CONFIG_FILE}; give a PEFT adapter folder"
        )
    stored = read_json(folder / CONFIG_FILE)
    if stored.get("peft_type") != "LORA":
        raise InputError(f"{folder}: an adapter of type {stored.get('peft_type')!r}; only LORA is supported")
    for name, neutral in _UNSUPPORTED.items():
        if stored.get(name, neutral) not in (neutral, None, [], {}):
            raise InputError(
                f"{folder}: {name} is {stored[name]!r}, which is not supported; expected {neutral!r}"
            )
    rank = int(stored["r"])
    scale = float(stored["lora_alpha"]) / (rank**0.5 if stored.get("use_rslora") else rank)
    targets = {target for _, target, _ in _places(folder, _open(folder))}
    return LoraConfig(rank, scale * rank, tuple(name for name in PROJECTIONS if name in targets))


def read_adapter(folder: str | Path, params: Params, config: TextConfig) -> tuple[Params, LoraConfig]:
    """Parameters with the adapter of a folder added, and its shape.

    Args:
        folder: A PEFT adapter folder.
        params: The model it belongs to, without an adapter.
        config: The language model.

    Raises:
        InputError: See `read_adapter_config`; or the adapter belongs to a model of another shape.
    """
    folder = Path(folder)
    lora, source = read_adapter_config(folder), _open(folder)
    names = {place: name for place, name in zip(_places(folder, source), source.shapes(), strict=True)}
    leaves = {}
    for target in lora.targets:
        into, out = projection_shape(config, target)
        shapes = {"A": (lora.rank, into), "B": (out, lora.rank)}
        stacks = []
        for letter, shape in shapes.items():
            matrices = []
            for layer in range(config.num_layers):
                name = names.pop((layer, target, letter), None)
                found = None if name is None else source.shapes()[name]
                if name is None or found != shape:
                    raise InputError(
                        f"{folder}: lora_{letter} of {target} in layer {layer} has shape {found}, expected {shape}; "
                        "the adapter belongs to another model"
                    )
                matrices.append(source.read(name, ()).astype(np.float32).T)
            stacks.append(jnp.asarray(np.stack(matrices)))
        leaves[target] = (stacks[0], stacks[1])
    if names:
        raise InputError(
            f"{folder}: {min(names.values())} has no place in this model; the adapter is another's"
        )
    return with_adapter(params, leaves, lora), lora


def _open(folder: Path) -> SafetensorsFolder:
    return SafetensorsFolder(
        folder, rename=lambda name: canonical_name(name.removeprefix("base_model.model."))
    )


def _places(folder: Path, source: SafetensorsFolder) -> list[tuple[int, str, str]]:
    """Layer, projection and letter of every tensor, in the file's order."""
    places = []
    for name in source.shapes():
        match = _NAME.match(name)
        if match is None or match[2] not in PROJECTIONS:
            raise InputError(
                f"{folder}: tensor {name}: only adapters of the text blocks' projections are supported "
                f"({', '.join(PROJECTIONS)})"
            )
        places.append((int(match[1]), match[2], match[3]))
    return places
