"""The Hugging Face `config.json` of a SAM2 folder, read and written by one table.

Source: transformers `Sam2Config` and `Sam2VideoConfig`; the published SAM2.1 folders carry the latter. Fields of the
video model are known by name and left out; any other field that is not handled here is an error that names it, since
it may change the arithmetic.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.sam2.config import Sam2Config

Kind = Literal["int", "float", "bool", "list", "side"]
Section = Literal["backbone", "vision", "prompt", "decoder"]

# Our field, the section of the file that holds it, its name there, and how it is written (`side` is `n` or `[n, n]`).
_TABLE: tuple[tuple[str, Section, str, Kind], ...] = (
    ("image_size", "prompt", "image_size", "side"),
    ("patch_kernel", "backbone", "patch_kernel_size", "side"),
    ("patch_stride", "backbone", "patch_stride", "side"),
    ("patch_padding", "backbone", "patch_padding", "side"),
    ("depths", "backbone", "blocks_per_stage", "list"),
    ("widths", "backbone", "embed_dim_per_stage", "list"),
    ("heads", "backbone", "num_attention_heads_per_stage", "list"),
    ("windows", "backbone", "window_size_per_stage", "list"),
    ("global_blocks", "backbone", "global_attention_blocks", "list"),
    ("pooled_stages", "backbone", "num_query_pool_stages", "int"),
    ("pool_stride", "backbone", "query_stride", "side"),
    ("position_grid", "backbone", "window_positional_embedding_background_size", "list"),
    ("mlp_ratio", "backbone", "mlp_ratio", "float"),
    ("norm_eps", "backbone", "layer_norm_eps", "float"),
    ("embed_dim", "vision", "fpn_hidden_size", "int"),
    ("top_down_levels", "vision", "fpn_top_down_levels", "list"),
    ("mask_channels", "prompt", "mask_input_channels", "int"),
    ("prompt_norm_eps", "prompt", "layer_norm_eps", "float"),
    ("decoder_layers", "decoder", "num_hidden_layers", "int"),
    ("decoder_heads", "decoder", "num_attention_heads", "int"),
    ("decoder_mlp", "decoder", "mlp_dim", "int"),
    ("attention_downsample", "decoder", "attention_downsample_rate", "int"),
    ("multimask_outputs", "decoder", "num_multimask_outputs", "int"),
    ("iou_depth", "decoder", "iou_head_depth", "int"),
    ("iou_width", "decoder", "iou_head_hidden_dim", "int"),
    ("dynamic_multimask", "decoder", "dynamic_multimask_via_stability", "bool"),
    ("stability_delta", "decoder", "dynamic_multimask_stability_delta", "float"),
    ("stability_threshold", "decoder", "dynamic_multimask_stability_thresh", "float"),
)
# Fields that every supported model has at this one value.
_FIXED: dict[Section, dict[str, Any]] = {
    "backbone": {"num_channels": 3, "hidden_act": "gelu"},
    "vision": {"fpn_kernel_size": 1, "fpn_stride": 1, "fpn_padding": 0, "num_feature_levels": 3},
    "prompt": {"num_point_embeddings": 4, "hidden_act": "gelu"},
    "decoder": {"hidden_act": "gelu"},
}
# Fields without effect on the image path: repeated elsewhere, used at initialisation only, or older spellings.
_INERT: dict[Section, set[str]] = {
    "backbone": {"num_attention_heads", "image_size"},
    "vision": {"backbone_config", "hidden_act", "layer_norm_eps"},
    "prompt": {"scale"},
    "decoder": set(),
}
_BOOKKEEPING = frozenset(
    [
        "architectures",
        "model_type",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "initializer_range",
        "_name_or_path",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "use_cache",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "problem_type",
        "id2label",
        "label2id",
        "torchscript",
        "pruned_heads",
        "tie_word_embeddings",
        "use_bfloat16",
        "_commit_hash",
        "_attn_implementation_autoset",
    ]
)
_VIDEO_FIELDS = frozenset(
    [
        "num_maskmem",
        "image_size",
        "sigmoid_scale_for_mem_enc",
        "sigmoid_bias_for_mem_enc",
        "enable_occlusion_spatial_embedding",
        "multimask_output_in_sam",
        "multimask_min_pt_num",
        "multimask_max_pt_num",
        "multimask_output_for_tracking",
        "max_object_pointers_in_encoder",
        "max_cond_frame_num",
        "enable_temporal_pos_encoding_for_object_pointers",
        "memory_attention_hidden_size",
        "memory_attention_num_layers",
        "memory_attention_num_attention_heads",
        "memory_attention_downsample_rate",
        "memory_attention_feed_forward_hidden_size",
        "memory_attention_mlp_hidden_size",
        "memory_attention_feed_forward_hidden_act",
        "memory_attention_mlp_hidden_act",
        "memory_attention_dropout",
        "memory_attention_rope_theta",
        "memory_attention_rope_feat_sizes",
        "memory_attention_rope_k_sizes",
        "memory_attention_rope_dropout",
        "memory_encoder_hidden_size",
        "memory_encoder_output_channels",
        "rope_parameters",
        "mask_downsampler_embed_dim",
        "mask_downsampler_kernel_size",
        "mask_downsampler_stride",
        "mask_downsampler_padding",
        "mask_downsampler_total_stride",
        "mask_downsampler_hidden_act",
        "memory_fuser_num_layers",
        "memory_fuser_embed_dim",
        "memory_fuser_intermediate_dim",
        "memory_fuser_kernel_size",
        "memory_fuser_padding",
        "memory_fuser_layer_scale_init_value",
        "memory_fuser_hidden_act",
        "non_overlap_masks_for_mem_enc",
    ]
)


def from_hf(tree: Mapping[str, Any], *, where: str = "config.json") -> Sam2Config:
    """Reads a parsed Sam2 (or Sam2 video) `config.json`; absent fields take the class defaults, which are tiny's.

    >>> from_hf({"model_type": "sam2"}) == Sam2Config()
    True

    Args:
        tree: The parsed JSON.
        where: What to call the file in messages.

    Raises:
        InputError: Another model family, or a field that is not handled or contradicts another.
    """
    if tree.get("model_type") not in ("sam2", "sam2_video"):
        raise InputError(
            f"{where}: model_type is {tree.get('model_type')!r}, expected 'sam2' or 'sam2_video'; "
            "give the folder of a SAM2 or SAM2.1 model"
        )
    sections = _sections(tree, where)
    values: dict[str, Any] = {}
    for ours, section, name, kind in _TABLE:
        if sections[section].get(name) is not None:
            values[ours] = _read(sections[section][name], kind, f"{where}: {name}")
    try:
        config = Sam2Config(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    _check_agreement(config, sections, where)
    return config


def to_hf(config: Sam2Config) -> dict[str, Any]:
    """The `config.json` of a Sam2 folder, every field written out.

    >>> from_hf(to_hf(Sam2Config())) == Sam2Config()
    True
    """
    sections: dict[Section, dict[str, Any]] = {name: dict(fixed) for name, fixed in _FIXED.items()}
    for ours, section, name, kind in _TABLE:
        value = getattr(config, ours)
        square = kind == "side" and section == "backbone"
        sections[section][name] = [value, value] if square else list(value) if kind == "list" else value
    for section, repeated in _repeated(config).items():
        sections[section] |= repeated
    sections["backbone"] |= {"model_type": "sam2_hiera_det_model", "image_size": [config.image_size] * 2}
    sections["backbone"]["num_attention_heads"] = config.heads[0]
    sections["vision"] |= {"model_type": "sam2_vision_model", "backbone_config": sections["backbone"]}
    sections["prompt"]["model_type"] = "sam2_prompt_encoder"
    sections["decoder"]["model_type"] = "sam2_mask_decoder"
    return {
        "architectures": ["Sam2Model"],
        "model_type": "sam2",
        "vision_config": sections["vision"],
        "prompt_encoder_config": sections["prompt"],
        "mask_decoder_config": sections["decoder"],
    }


def _sections(tree: Mapping[str, Any], where: str) -> dict[Section, Mapping[str, Any]]:
    """The four parts of the file, each field known and each fixed field at its value."""
    top = {"vision_config", "prompt_encoder_config", "mask_decoder_config"}
    _refuse_unknown(tree, top | _VIDEO_FIELDS, where)
    vision = _mapping(tree, "vision_config", where)
    sections: dict[Section, Mapping[str, Any]] = {
        "vision": vision,
        "backbone": _mapping(vision, "backbone_config", where),
        "prompt": _mapping(tree, "prompt_encoder_config", where),
        "decoder": _mapping(tree, "mask_decoder_config", where),
    }
    for section, values in sections.items():
        known = {name for _, part, name, _ in _TABLE if part == section} | _INERT[section]
        known |= set(_FIXED[section]) | set(_repeated(Sam2Config())[section])
        _refuse_unknown(values, known, f"{where}: {section} section")
        for name, only in _FIXED[section].items():
            if values.get(name, only) != only:
                raise InputError(f"{where}: {name} is {values[name]!r}, only {only!r} is supported")
    return sections


def _repeated(config: Sam2Config) -> dict[Section, dict[str, Any]]:
    """Fields of the file that follow from others."""
    return {
        "backbone": {"hidden_size": config.widths[0]},
        "vision": {
            "backbone_channel_list": list(reversed(config.widths)),
            "backbone_feature_sizes": [[side, side] for side in config.map_sizes[:3]],
        },
        "prompt": {"hidden_size": config.embed_dim, "patch_size": config.image_size // config.embed_size},
        "decoder": {"hidden_size": config.embed_dim},
    }


def _check_agreement(config: Sam2Config, sections: Mapping[Section, Mapping[str, Any]], where: str) -> None:
    """A field that repeats others must agree with them: only one of the two is computed with."""
    for section, repeated in _repeated(config).items():
        for name, expected in repeated.items():
            given = sections[section].get(name)
            if name == "patch_size" and given is not None:
                given = _read(given, "side", f"{where}: patch_size")
            if given is not None and given != expected:
                raise InputError(f"{where}: {name} is {given!r}, but the other fields make it {expected!r}")


def _mapping(tree: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = tree.get(name) or {}
    if not isinstance(section, Mapping):
        raise InputError(f"{where}: {name} is {section!r:.60}, expected a mapping")
    return section


def _refuse_unknown(values: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in values:
        if name not in known and name not in _BOOKKEEPING:
            raise InputError(
                f"{where}: field {name!r} is not known here and may change the arithmetic; remove it if not"
            )


def _read(value: Any, kind: Kind, where: str) -> Any:
    """One value in our form."""
    if kind == "side" and isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if kind == "list" and isinstance(value, (list, tuple)) and all(_whole(item) for item in value):
        return tuple(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind in ("int", "side") and _whole(value):
        return value
    expected = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "list": "whole numbers",
    }
    raise InputError(
        f"{where} is {value!r:.60}, expected {expected.get(kind, 'one whole number for both sides')}"
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


if {row[0] for row in _TABLE} != {field.name for field in fields(Sam2Config)}:
    raise TypeError("hf_config: the table and Sam2Config name different fields")
