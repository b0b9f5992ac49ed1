"""Which parameters a run trains: all of them, all but the vision tower, or an adapter.

What is not trained is passed beside the training state, never copied, and has no gradient and no optimizer state.
"""

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.qwen_vl.adapter_folder import read_adapter
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig
from pixelthink_jax.models.qwen_vl.lora import LoraConfig, add_lora
from pixelthink_jax.models.qwen_vl.text import Params


def trained_and_frozen(
    params: Params, config: QwenVLConfig, *, freeze_vision: bool, lora: LoraConfig | None, key: jax.Array
) -> tuple[Params, Params]:
    """Cuts parameters into those that are trained and the rest, with an adapter made or read where one is asked for.

    Args:
        params: The whole model's parameters, stacked, without an adapter.
        config: The model.
        freeze_vision: Leave the vision tower as it is.
        lora: Train only an adapter; None trains the model.
        key: PRNG key of a new adapter.

    Raises:
        InputError: The adapter folder cannot be used, or has another shape than `lora` says.
    """
    if lora is None:
        return split_params(params, _TEXT if freeze_vision else "")
    if lora.adapter is None:
        return split_params(add_lora(params, lora, config.text, key), *_ADAPTER)
    adapted, found = read_adapter(lora.adapter, params, config.text)
    if (found.rank, found.scale, set(found.targets)) != (lora.rank, lora.scale, set(lora.targets)):
        raise InputError(
            f"lora: the adapter {lora.adapter} has rank {found.rank}, alpha {found.alpha:g}, targets "
            f"{list(found.targets)}; write these into the config"
        )
    return split_params(adapted, *_ADAPTER)


_TEXT = "text/"
_ADAPTER = ("/lora_a", "/lora_b")


def is_trained(path: str, *, freeze_vision: bool) -> bool:
    """Whether a run without an adapter trains a parameter.

    >>> is_trained("vision/norm", freeze_vision=True)
    False
    """
    return not freeze_vision or path.startswith(_TEXT)


def split_params(params: Params, *parts: str) -> tuple[Params, Params]:
    """The leaves whose path begins or ends with one of `parts`, and the others, as trees.

    >>> split_params({"text": {"embed": 1}, "vision": {"norm": 2}}, "text/")
    ({'text': {'embed': 1}}, {'vision': {'norm': 2}})
    """
    flat = flatten_dict(params, sep="/")
    mine = {path for path in flat if any(path.startswith(part) or path.endswith(part) for part in parts)}
    chosen = ({path: flat[path] for path in flat if (path in mine) == wanted} for wanted in (True, False))
    trained, frozen = (unflatten_dict(leaves, sep="/") for leaves in chosen)
    return trained, frozen


def whole_params(trained: Params, frozen: Params) -> Params:
    """The parameter tree of both.

    >>> whole_params({"text": {"embed": 1}}, {"vision": {"norm": 2}})
    {'vision': {'norm': 2}, 'text': {'embed': 1}}
    """
    return unflatten_dict({**flatten_dict(frozen, sep="/"), **flatten_dict(trained, sep="/")}, sep="/")
