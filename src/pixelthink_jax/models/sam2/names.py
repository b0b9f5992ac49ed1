"""Where each parameter lives in a file: transformers' names, and the original checkpoint's.

The parameter tree carries transformers' module names, so the table follows from the tree: `blocks_3` is `blocks.3`, a
`kernel` is a `weight` with other axes. `OriginalNames` shows a file with facebookresearch/sam2's names as if it had
transformers'. Source of the renaming: transformers `convert_sam2_video_to_hf.py`.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from pixelthink_jax.models.folders import Index, TensorSource
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import abstract_params
from pixelthink_jax.models.weights import CONV2D, IDENTITY, TRANSPOSE, TensorSpec, Transform

# Tensors of the video model, which published folders hold beside the image path.
VIDEO_TENSORS = (
    "memory_*",
    "mask_downsample*",
    "object_pointer_proj*",
    "temporal_positional_encoding_projection_layer*",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
)
# The same under their original names.
ORIGINAL_VIDEO_TENSORS = (
    "memory_attention.*",
    "memory_encoder.*",
    "maskmem_tpos_enc",
    "mask_downsample.*",
    "obj_ptr_proj.*",
    "obj_ptr_tpos_proj.*",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
)
_CONV_TRANSPOSE = Transform(axes=(2, 3, 0, 1))
_LEAVES = {"kernel": "weight", "scale": "weight", "transpose_kernel": "weight"}
_EMBEDDINGS = (
    "point_embed",
    "not_a_point_embed",
    "no_mask_embed",
    "obj_score_token",
    "iou_token",
    "mask_tokens",
)
_POINTS, _FREQUENCIES = (
    "prompt_encoder.point_embed.weight",
    "prompt_encoder.shared_embedding.positional_embedding",
)
_IMAGE_FREQUENCIES = "shared_image_embedding.positional_embedding"
_THREE_LAYERS = r"(output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)"
# Applied in order to an original name; the first group of rules names modules, the last ones layers of perceptrons.
_RENAMING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"^sam_prompt_encoder\.", "prompt_encoder."),
        (r"^sam_mask_decoder\.", "mask_decoder."),
        (r"^no_mem_embed$", "no_memory_embedding"),
        (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
        (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
        (r"\.out_proj\.", ".o_proj."),
        (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
        (r"\.point_embeddings\.", ".point_embed."),
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
        (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
        (_THREE_LAYERS + r"\.layers\.0\.", r"\1.proj_in."),
        (_THREE_LAYERS + r"\.layers\.1\.", r"\1.layers.0."),
        (_THREE_LAYERS + r"\.layers\.2\.", r"\1.proj_out."),
    )
)


def tensor_table(config: Sam2Config) -> list[TensorSpec]:
    """Every tensor of a Hugging Face Sam2 file of this configuration, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    return [_spec(tuple(key.key for key in path), leaf.shape) for path, leaf in leaves]


def hf_name(path: tuple[str, ...]) -> str:
    """The file's name of a parameter.

    >>> hf_name(("vision_encoder", "backbone", "blocks_3", "attn", "qkv", "kernel"))
    'vision_encoder.backbone.blocks.3.attn.qkv.weight'
    """
    name = ".".join(_LEAVES.get(part, re.sub(r"_(\d+)$", r".\1", part)) for part in path)
    return f"{name}.weight" if path[-1] in _EMBEDDINGS else name


def from_original(name: str) -> str:
    """The Hugging Face name of an original tensor; other names pass unchanged.

    >>> from_original("sam_mask_decoder.iou_prediction_head.layers.1.bias")
    'mask_decoder.iou_prediction_head.layers.0.bias'
    """
    for pattern, replacement in _RENAMING:
        name = pattern.sub(replacement, name)
    return name


def is_original(names: Mapping[str, object]) -> bool:
    """Whether these are the names of an original checkpoint."""
    return any(
        name.startswith(("image_encoder.", "sam_mask_decoder.", "sam_prompt_encoder.")) for name in names
    )


class OriginalNames:
    """An original checkpoint seen under transformers' names.

    Two tensors differ by more than a name: the four point embeddings are one table there, and the Fourier
    frequencies, which the original uses for prompts and image alike, appear twice.
    """

    def __init__(self, source: TensorSource) -> None:
        """Wraps a source of original names."""
        self.description = source.description
        self._source = source
        self._names = {from_original(name): name for name in source.shapes()}
        parts = [f"prompt_encoder.point_embed.{i}.weight" for i in range(4)]
        # All four or none: a missing one is then missed by name.
        whole = all(part in self._names for part in parts)
        self._points = [self._names.pop(part) for part in parts] if whole else []
        if _FREQUENCIES in self._names:
            self._names[_IMAGE_FREQUENCIES] = self._names[_FREQUENCIES]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, by transformers' name."""
        stored = self._source.shapes()
        shapes = {name: stored[original] for name, original in self._names.items()}
        if self._points:
            shapes[_POINTS] = (4, stored[self._points[0]][1])
        return shapes

    def dtype(self, name: str) -> np.dtype:
        """Stored dtype of a tensor."""
        return self._source.dtype(self._points[0] if name == _POINTS else self._names[name])

    def read(self, name: str, index: Index) -> np.ndarray:
        """Reads a part of a tensor."""
        if name != _POINTS:
            return self._source.read(self._names[name], index)
        return np.concatenate([self._source.read(point, ()) for point in self._points])[index]


def _spec(path: tuple[str, ...], shape: tuple[int, ...]) -> TensorSpec:
    """One row of the table: the file's shape follows from ours by undoing the transform."""
    transform = IDENTITY
    if path[-1] == "transpose_kernel":
        transform = _CONV_TRANSPOSE
    elif path[-1] == "kernel":
        transform = TRANSPOSE if len(shape) == 2 else CONV2D
    axes = transform.axes or tuple(range(len(shape)))
    in_file = tuple(shape[axes.index(axis)] for axis in range(len(shape)))
    # transformers wraps the patch convolution in a module called projection.
    named = (*path[:-1], "projection", path[-1]) if path[-2:-1] == ("patch_embed",) else path
    return TensorSpec(hf_name(named), "/".join(path), in_file, transform)
