"""Qwen2.5-VL from a Hugging Face folder and back.

The parameters of a folder may also be an Orbax checkpoint, in `params/`, instead of safetensors (`pixelthink convert`).
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig
from pixelthink_jax.models.qwen_vl.hf_config import config_from_hf, config_to_hf
from pixelthink_jax.models.qwen_vl.table import EMBED_NAME, HEAD_NAME, canonical_name, tensor_table
from pixelthink_jax.models.qwen_vl.text import Params
from pixelthink_jax.models.weights import (
    CONFIG_FILE,
    SafetensorsFolder,
    ShardingFor,
    atomic_folder,
    group_by_leaf,
    leaf_shape,
    place_params,
    read_config,
    read_json,
    stored_params,
)
from pixelthink_jax.models.writing import DEFAULT_SHARD_BYTES, write_params
from pixelthink_jax.runtime.stored_arrays import StoredArray

PARAMS_FOLDER = "params"
GENERATION_FILE = "generation_config.json"
_COMPARED_ROWS = 4096


def read_model_config(folder: str | Path) -> QwenVLConfig:
    """Reads the architecture; end tokens come from `generation_config.json` where there is one.

    Raises:
        InputError: See `config_from_hf`.
    """
    folder = Path(folder)
    config = config_from_hf(read_config(folder), where=str(folder / CONFIG_FILE))
    if (folder / GENERATION_FILE).is_file():
        eos = read_json(folder / GENERATION_FILE).get("eos_token_id")
        if eos is not None:
            config = dataclasses.replace(config, eos_token_id=tuple(eos) if isinstance(eos, list) else eos)
    return config


def read_folder(
    folder: str | Path, *, dtype: DTypeLike | None = None, sharding_for: ShardingFor | None = None
) -> tuple[QwenVLConfig, Params]:
    """Loads a model, tensor by tensor into its destination.

    Args:
        folder: A Hugging Face folder; only `config.json` and the parameters are read.
        dtype: Dtype of the parameters; None takes the one `config.json` names.
        sharding_for: Destination of a parameter from its path and shape; None is the default device.

    Returns:
        The configuration, its `dtype` the stored one, and the parameter tree.

    Raises:
        InputError: Anything wrong with the folder, by name.
    """
    config = read_model_config(folder)
    leaves = open_params(folder, config)
    return config, place_params(leaves, dtype=dtype or config.dtype, sharding_for=sharding_for)


def open_params(folder: str | Path, config: QwenVLConfig) -> dict[str, StoredArray]:
    """The parameters of a folder by their paths, to be read part by part.

    Raises:
        InputError: Damaged files, or a tensor is missing, unknown or of another shape.
    """
    table, orbax = tensor_table(config), Path(folder) / PARAMS_FOLDER
    if orbax.is_dir():
        from pixelthink_jax.runtime.array_folders import open_arrays

        leaves = open_arrays(orbax)
        check_leaves(leaves, config, where=str(orbax))
        return leaves
    source = SafetensorsFolder(folder, rename=canonical_name)
    ignore = []
    if config.tie_word_embeddings and HEAD_NAME in source.shapes():
        _check_tied(source)
        ignore.append(HEAD_NAME)
    return stored_params(source, table, ignore=ignore)


def check_leaves(leaves: Mapping[str, StoredArray], config: QwenVLConfig, *, where: str) -> None:
    """Compares parameters by path with what a model has.

    Raises:
        InputError: Names the first that is missing, unknown or of another shape.
    """
    wanted = {path: leaf_shape(group) for path, group in group_by_leaf(tensor_table(config)).items()}
    for path in [*wanted, *leaves]:
        found, expected = (leaves[path].shape if path in leaves else None), wanted.get(path)
        if found != expected:
            said = "has no" if found is None else "has an unknown" if expected is None else "has another"
            shapes = (
                "" if found is None or expected is None else f" of shape {list(found)}, not {list(expected)}"
            )
            raise InputError(f"{where}: {said} parameter {path}{shapes}; it does not fit config.json")


def _check_tied(source: SafetensorsFolder) -> None:
    """Some exports of tied models store the head as well; it must be the embedding."""
    shapes = source.shapes()
    rows = shapes[HEAD_NAME][0]
    same = shapes[HEAD_NAME] == shapes.get(EMBED_NAME) and all(
        np.array_equal(source.read(HEAD_NAME, part), source.read(EMBED_NAME, part))
        for part in (
            (slice(start, min(start + _COMPARED_ROWS, rows)),) for start in range(0, rows, _COMPARED_ROWS)
        )
    )
    if not same:
        raise InputError(
            f"{source.description}: config.json ties the output head to the embedding, but "
            f"{HEAD_NAME} differs from {EMBED_NAME}; set tie_word_embeddings to false "
            "in config.json if the head was trained"
        )


def write_folder(
    folder: str | Path,
    params: Params,
    config: QwenVLConfig,
    *,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Writes a folder that transformers and vLLM load; it appears complete or not at all.

    Args:
        folder: New, or a model folder to replace.
        params: The parameter tree.
        config: Its configuration.
        dtype: Dtype to store; None keeps that of the parameters.
        max_shard_bytes: Size above which the weights are split into several files.
        extra: Writes more files (tokenizer, processor) into the folder before it appears.

    Raises:
        InputError: The destination cannot be used; see `atomic_folder`.
    """
    stored = jnp.dtype(dtype or params["text"]["embed"].dtype)
    with atomic_folder(folder) as fresh:
        write_config(fresh, dataclasses.replace(config, dtype=stored.name))
        write_params(fresh, params, tensor_table(config), dtype=stored, max_shard_bytes=max_shard_bytes)
        if extra:
            extra(fresh)


def write_config(folder: Path, config: QwenVLConfig) -> None:
    """Writes `config.json`."""
    text = json.dumps(config_to_hf(config), indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
