"""`config.json` of a Hugging Face folder <-> `QwenVLConfig`.

Two layouts are read: the hub's flat one (text fields at the top level, `rope_scaling`, `torch_dtype`) and the
nested one that transformers 5 writes (`text_config`, `rope_parameters`, `dtype`). The flat one is written:
transformers from 4.49 on and vLLM read it. Every field is either used, checked to hold the one value this
port computes, or ignored by name; any other is an error that names it, because it may change the arithmetic.
"""

from collections.abc import Mapping
from typing import Any

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig, TextConfig, VisionConfig

MODEL_TYPE = "qwen2_5_vl"
DTYPES = ("bfloat16", "float16", "float32")
# Named here because they do not change what the model computes.
IGNORED = frozenset(
    [
        "architectures",
        "transformers_version",
        "_name_or_path",
        "use_cache",
        "vision_token_id",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "torchscript",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "is_encoder_decoder",
        "chunk_size_feed_forward",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "attn_implementation",
        "tokenizer_class",
        "finetuning_task",
        "task_specific_params",
        "processor_class",
        "unsloth_fixed",
        "unsloth_version",
        "max_window_layers",
        "sliding_window",
        "spatial_patch_size",
        "model_max_length",
        "name_or_path",
        "auto_map",
    ]
)
REQUIRED = object()
_TEXT = {
    "vocab_size": ("vocab_size", REQUIRED),
    "hidden_size": ("hidden_size", REQUIRED),
    "intermediate_size": ("intermediate_size", REQUIRED),
    "num_hidden_layers": ("num_layers", REQUIRED),
    "num_attention_heads": ("num_heads", REQUIRED),
    "rms_norm_eps": ("rms_norm_eps", REQUIRED),
    "max_position_embeddings": ("max_position_embeddings", 32768),
}
_VISION = {
    "depth": ("depth", REQUIRED),
    "hidden_size": ("hidden_size", REQUIRED),
    "num_heads": ("num_heads", REQUIRED),
    "intermediate_size": ("intermediate_size", 3420),
    "out_hidden_size": ("out_hidden_size", REQUIRED),
    "patch_size": ("patch_size", 14),
    "temporal_patch_size": ("temporal_patch_size", 2),
    "spatial_merge_size": ("spatial_merge_size", 2),
    "window_size": ("window_size", 112),
    "fullatt_block_indexes": ("full_attention_blocks", (7, 15, 23, 31)),
    "tokens_per_second": ("tokens_per_second", 4),
}
_KINDS = {"rms_norm_eps": float, "fullatt_block_indexes": tuple}
_TOP = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class _Fields:
    """A JSON object whose fields are taken one by one, so that those nobody took can be named."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: expected an object, got {values!r}; use the model's own config.json")
        self._left, self._where = dict(values), where

    def take(self, name: str, default: Any = REQUIRED, kind: type | None = None) -> Any:
        """The field's value, lists as tuples; a null counts as absent. The kind is that of the default, if any."""
        value = self._left.pop(name, None)
        if value is None:
            if default is REQUIRED:
                raise InputError(f"{self._where}: field {name} is missing; use the model's own config.json")
            return default
        value = tuple(value) if isinstance(value, list) else value
        kind = kind or (None if default is REQUIRED or default is None else type(default))
        if kind and not _is_a(value, kind):
            raise self.error(name, value, {int: "a whole number", float: "a number"}.get(kind, kind.__name__))
        return value

    def expect(self, name: str, *allowed: Any) -> None:
        """Takes a field that must hold one of a few values, or be absent."""
        value = self.take(name, None)
        if value is not None and value not in allowed:
            raise self.error(name, value, " or ".join(map(repr, allowed)))

    def error(self, name: str, value: Any, expected: str) -> InputError:
        """Names a field whose value is not supported."""
        return InputError(
            f"{self._where}: {name} = {value!r} is not supported, expected {expected}; use another model"
        )

    def finish(self) -> None:
        """Complains about fields that were not taken."""
        unknown = sorted(
            name for name, value in self._left.items() if name not in IGNORED and value is not None
        )
        if unknown:
            raise InputError(
                f"{self._where}: unknown field {', '.join(unknown[:3])}, which may change what the model "
                "computes; remove it if it does not"
            )


def _is_a(value: Any, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, tuple) and all(type(item) in (int, str) for item in value)
    return type(value) is kind or (kind is float and type(value) is int)


def _common(fields: _Fields) -> None:
    """Fields any part may carry, with the one value this port computes."""
    fields.expect("hidden_act", "silu")
    fields.expect("attention_dropout", 0.0)
    fields.expect("use_sliding_window", False)
    fields.expect("quantization_config")


def _rope(fields: _Fields, *, kinds: tuple[str, ...], theta: float) -> tuple[float, tuple[int, ...] | None]:
    """Base and sections from `rope_parameters` (5.x) or `rope_scaling` and `rope_theta` (hub)."""
    flat_theta = fields.take("rope_theta", theta)
    for name in ("rope_parameters", "rope_scaling"):
        values = fields.take(name, None)
        if values is None:
            continue
        rope = _Fields(values, f"{fields._where}: {name}")
        rope.expect("type", *kinds)
        rope.expect("rope_type", *kinds)
        rope.expect("mrope_interleaved", False)
        flat_theta, sections = rope.take("rope_theta", flat_theta), rope.take("mrope_section", None, tuple)
        rope.finish()
        fields.take("rope_scaling", None)
        return float(flat_theta), sections
    return float(flat_theta), None


def _text(fields: _Fields) -> TextConfig:
    values = {
        ours: fields.take(name, default, _KINDS.get(name, int)) for name, (ours, default) in _TEXT.items()
    }
    values["num_kv_heads"] = fields.take("num_key_value_heads", values["num_heads"])
    values["rope_theta"], sections = _rope(fields, kinds=("mrope", "default"), theta=1000000.0)
    layer_types = fields.take("layer_types", ("full_attention",))
    if set(layer_types) != {"full_attention"}:
        raise fields.error("layer_types", sorted(set(layer_types)), "'full_attention' only")
    fields.expect("model_type", "qwen2_5_vl_text", MODEL_TYPE)
    _common(fields)
    config = TextConfig(**values, mrope_section=sections or (16, 24, 24))
    fields.expect("head_dim", config.head_dim)
    return config


def _vision(fields: _Fields) -> VisionConfig:
    values = {
        ours: fields.take(name, default, _KINDS.get(name, int)) for name, (ours, default) in _VISION.items()
    }
    values["in_channels"] = fields.take("in_channels", fields.take("in_chans", 3))
    values["rope_theta"], _ = _rope(fields, kinds=("axial",), theta=10000.0)
    fields.expect("model_type", "qwen2_5_vl_vision", MODEL_TYPE)
    for name in ("initializer_range", "dtype", "torch_dtype", *_TOKENS, "tie_word_embeddings"):
        fields.take(name, None)
    _common(fields)
    config = VisionConfig(**values)
    fields.expect("head_dim", config.head_dim)
    return config


def config_from_hf(values: Mapping[str, Any], *, where: str = "config.json") -> QwenVLConfig:
    """Reads a parsed `config.json`.

    Args:
        values: The JSON object, flat or nested.
        where: Name of the file, for errors.

    Raises:
        InputError: Another family, a missing field, an unknown one, or a value this port does not compute.
    """
    model_type = values.get("model_type")
    if model_type != MODEL_TYPE:
        raise InputError(
            f"{where}: model_type {model_type!r} is not supported; the policy must be a {MODEL_TYPE} model"
        )
    top = _Fields(values, where)
    top.expect("model_type", MODEL_TYPE)
    vision = _Fields(top.take("vision_config"), f"{where}: vision_config")
    nested = top.take("text_config", None)
    text = top if nested is None else _Fields(nested, f"{where}: text_config")
    try:
        config = _assemble(top, text, vision, nested=nested is not None)
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error
    for fields in (top, text, vision):
        fields.finish()
    return config


def _assemble(top: _Fields, text: _Fields, vision: _Fields, *, nested: bool) -> QwenVLConfig:
    parts = {"vision": _vision(vision), "text": _text(text)}
    ids = {name: top.take(name, default) for name, default in _TOP.items()}
    ids |= {name: text.take(name, None) for name in _TOKENS}
    initializer_range = float(text.take("initializer_range", 0.02))
    tied = text.take("tie_word_embeddings", False)
    if nested:
        # The outer object wins where both speak, as in transformers; files saved before 5.0 tie in the inner one.
        ids |= {name: top.take(name, ids[name]) for name in _TOKENS}
        tied = top.take("tie_word_embeddings", False) or tied
        top.take("initializer_range", None)
        _common(top)
    return QwenVLConfig(
        **parts, **ids, tie_word_embeddings=tied, initializer_range=initializer_range, dtype=_dtype(top, text)
    )


def _dtype(top: _Fields, text: _Fields) -> str:
    """The stored dtype; the outer name wins, as in transformers."""
    names = [fields.take(name, None) for fields in (top, text) for name in ("dtype", "torch_dtype")]
    name = next((str(name).removeprefix("torch.") for name in names if name is not None), "float32")
    if name not in DTYPES:
        raise top.error("torch_dtype", name, " or ".join(DTYPES))
    return name


def config_to_hf(config: QwenVLConfig) -> dict[str, Any]:
    """The flat `config.json` of a model; `config_from_hf` is its inverse.

    A vision `rope_theta` other than 10000 is written too, but only transformers 5 reads it.

    >>> config_from_hf(config_to_hf(QwenVLConfig())) == QwenVLConfig()
    True
    """
    vision = {name: _plain(getattr(config.vision, ours)) for name, (ours, _) in _VISION.items()}
    vision |= {
        "hidden_act": "silu",
        "in_chans": config.vision.in_channels,
        "in_channels": config.vision.in_channels,
    }
    if config.vision.rope_theta != 10000.0:
        vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": config.vision.rope_theta}
    text = {name: _plain(getattr(config.text, ours)) for name, (ours, _) in _TEXT.items()}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        **text,
        "num_key_value_heads": config.text.num_kv_heads,
        "rope_theta": config.text.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.text.mrope_section)},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": config.text.max_position_embeddings,
        "max_window_layers": config.text.num_layers,
        "use_cache": True,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": config.dtype,
        **{name: getattr(config, name) for name in _TOP},
        **{name: _plain(getattr(config, name)) for name in _TOKENS if getattr(config, name) is not None},
        "vision_config": vision,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
