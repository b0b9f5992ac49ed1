"""What is converted: a policy folder of either kind or a run's checkpoint, as parameters to be read part by part."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from pixelthink_jax.config import from_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import LoraConfig, QwenVLConfig
from pixelthink_jax.models.qwen_vl.lora import PROJECTIONS
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.runtime.checkpoints import has_checkpoints, local_run, open_checkpoint
from pixelthink_jax.runtime.halves import join_halves
from pixelthink_jax.runtime.remote import is_remote
from pixelthink_jax.runtime.stored_arrays import Index, StoredArray, in_memory
from pixelthink_jax.segmentation.loading import model_folder
from pixelthink_jax.sft.config import SftConfig
from pixelthink_jax.sft.new_policy import new_policy

Kind = Literal["huggingface", "orbax"]


@dataclass(frozen=True)
class Adapter:
    """The adapter of a run: its shape, its leaves by path, and the folder of the model it belongs to."""

    lora: LoraConfig
    leaves: dict[str, StoredArray]
    base: Path


@dataclass(frozen=True)
class Source:
    """A policy.

    Attributes:
        about: What it was read from: a conversion that is continued has the same.
        kind: Which kind of folder it is; a run's checkpoint is of the kind `orbax`.
        config: The architecture.
        leaves: The parameters by path, in the dtype they are wanted in; an adapter is merged.
        save_processor: Writes tokenizer, image settings and answer format into a folder.
        adapter: The adapter alone, of a run that trained one.
    """

    about: dict[str, Any]
    kind: Kind
    config: QwenVLConfig
    leaves: dict[str, StoredArray]
    save_processor: Callable[[Path], None]
    adapter: Adapter | None = None


def open_source(place: str | Path, *, step: int | None = None, dtype: str | None = None) -> Source:
    """Opens what is converted; nothing large is read.

    Args:
        place: A run folder, or a policy folder of either kind; of an object store it is copied here first, of a run
            there only the checkpoint.
        step: Of a run, which checkpoint; None takes the newest.
        dtype: Wanted dtype; None keeps that of a folder, and of a run that of its export.

    Raises:
        InputError: Neither a run nor a policy, or a parameter is missing, unknown or of another shape.
    """
    place = local_run(str(place), step) if is_remote(place) else Path(place)
    if has_checkpoints(place):
        return _of_run(place, step, dtype)
    if step is not None:
        raise InputError(f"{place}: --step {step} goes with a run, and this has no checkpoints")
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; give a run folder or a policy folder")
    config = qwen_vl.read_model_config(place)
    leaves = _cast(qwen_vl.open_params(place, config), dtype or config.dtype)
    kind = "orbax" if (place / qwen_vl.PARAMS_FOLDER).is_dir() else "huggingface"
    return Source(_about(place), kind, config, leaves, partial(_copy_processor, place))


def _of_run(place: Path, step: int | None, dtype: str | None) -> Source:
    """The policy of a checkpoint: what was trained laid over what the run started from."""
    step, arrays, extra = open_checkpoint(place, step)
    stored = extra["config"]
    cls = SftConfig if "stages" in stored else TrainConfig
    config: Any = from_tree(cls, stored, where=f"{place}: the config of its checkpoint")
    model, base, save, folder = _begun(place, config)
    wanted = dtype or config.export_dtype
    exact = jnp.dtype(wanted) == jnp.float32
    base = _cast(base, config.dtype)
    trained = {
        path.removeprefix("params/"): _joined(
            leaf, arrays.get(path.replace("params/", "low/", 1)), exact=exact
        )
        for path, leaf in arrays.items()
        if path.startswith("params/")
    }
    lora = config.lora
    if lora is None:
        adapter, leaves = None, _cast(base | trained, wanted)
        needed = {path for path in base if qwen_vl.is_trained(path, freeze_vision=config.freeze_vision)}
    else:
        adapter, leaves = Adapter(lora, trained, folder or place), base
        paths = [f"text/blocks/{PROJECTIONS[target]}" for target in lora.targets]
        needed = {f"{path}/{name}" for path in paths for name in ("lora_a", "lora_b")}
    if wrong := sorted(needed ^ trained.keys()):
        said = "lacks" if wrong[0] in needed else "holds an unknown"
        raise InputError(
            f"{place}: the checkpoint of step {step} {said} parameter {wrong[0]}; it is of another run"
        )
    if lora is not None:
        leaves = _cast(base | _merged(base, trained, lora, config.dtype), wanted)
    qwen_vl.check_leaves(leaves, model, where=f"{place}, step {step}")
    return Source(_about(place) | {"step": step}, "orbax", model, leaves, save, adapter)


def _merged(
    base: dict[str, StoredArray], adapter: dict[str, StoredArray], lora: LoraConfig, dtype: str
) -> dict[str, StoredArray]:
    """The kernels that an adapter changes, with it."""
    merged = {}
    for target in lora.targets:
        path = f"text/blocks/{PROJECTIONS[target]}"
        a, b = adapter[f"{path}/lora_a"], adapter[f"{path}/lora_b"]
        merged[f"{path}/kernel"] = qwen_vl.merged_leaf(base[f"{path}/kernel"], a, b, lora.scale, dtype)
    return merged


def _begun(
    place: Path, config: SftConfig | TrainConfig
) -> tuple[QwenVLConfig, dict[str, StoredArray], Callable[[Path], None], Path | None]:
    """Architecture, parameters, processor and folder of the policy that a run started from."""
    if config.policy is not None:
        folder = model_folder(config.policy)
        model = qwen_vl.read_model_config(folder)
        return model, qwen_vl.open_params(folder, model), partial(_copy_processor, folder), folder
    assert isinstance(config, SftConfig)
    made = new_policy(config, tokenizer_folder=place / "tokenizer")
    flat: dict[str, Any] = flatten_dict(made.params, sep="/")
    leaves = {path: in_memory(leaf) for path, leaf in flat.items()}
    return made.config, leaves, made.processor.save, None


def _about(place: Path) -> dict[str, Any]:
    """A folder's name and what changes when its files do."""
    stats = [path.stat() for path in place.rglob("*") if path.is_file()]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return {
        "source": str(place.resolve()),
        "files": [len(stats), sum(stat.st_size for stat in stats), newest],
    }


def _copy_processor(folder: Path, to: Path) -> None:
    """A folder of bare tensors has no tokenizer, and is converted without one."""
    if (folder / "tokenizer.json").is_file():
        Processor.from_pretrained(folder).save(to)


def _cast(leaves: dict[str, StoredArray], dtype: str) -> dict[str, StoredArray]:
    return {path: leaf.astype(dtype) for path, leaf in leaves.items()}


def _joined(high: StoredArray, low: StoredArray | None, *, exact: bool) -> StoredArray:
    """The float32 numbers that a bfloat16 run trains, where these are wanted."""
    if low is None or not exact:
        return high

    join = jax.jit(join_halves)

    def read(index: Index) -> np.ndarray:
        return np.asarray(join(jnp.asarray(high[index]), jnp.asarray(low[index])))

    return StoredArray(high.shape, np.dtype(np.float32), read)
