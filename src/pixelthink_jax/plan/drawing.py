"""The segmenter in a plan: each host draws masks by itself, some images at once, spread over its chips."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from pixelthink_jax.errors import InputError
from pixelthink_jax.models.axes import activation_spec
from pixelthink_jax.models.folders import read_json
from pixelthink_jax.models.sam2.config import PRESETS, Sam2Config
from pixelthink_jax.models.sam2.hf_config import from_hf
from pixelthink_jax.models.sam2.model import abstract_params
from pixelthink_jax.models.sam2.prompt_encoder import Prompts
from pixelthink_jax.models.sam2.sharding import sharding_for
from pixelthink_jax.runtime.mesh import row_mesh
from pixelthink_jax.segmentation.loading import TINY_SEGMENTER, default_folder
from pixelthink_jax.segmenter import IMAGES_AT_ONCE, decode_batch, encode_batch

RELEASED = "sam2-hiera-large"
"""What published figures are drawn with; planned for where a run names none."""

_POINTS = 8
_WIDTH = 4  # bytes of a number: segmenters are loaded in float32


def planned_segmenter(name: str) -> Sam2Config:
    """The architecture of a segmenter: that of its folder, or of the published size in its name.

    Raises:
        InputError: Neither is known.
    """
    folder = default_folder(name) if name == TINY_SEGMENTER else Path(name)
    if (folder / "config.json").is_file():
        return from_hf(read_json(folder / "config.json"), where=str(folder / "config.json"))
    for size, config in PRESETS.items():
        if folder.name.lower().endswith(f"hiera-{size}"):
            return config
    sizes = ", ".join(f"sam2-hiera-{size}" for size in PRESETS)
    raise InputError(f"evaluation.segmenter {name}: no such folder, and not one of {sizes}")


def segmenter_bytes(config: Sam2Config) -> int:
    """Parameters of a segmenter, whole on a chip."""
    return _WIDTH * sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def drawing_bytes(config: Sam2Config, chips: int) -> int:
    """What a chip works with while its share of the images is encoded, at the widest stage of the encoder."""
    images = -(-IMAGES_AT_ONCE // chips)
    stages = zip(config.map_sizes, config.widths, config.heads, strict=True)
    starts = [sum(config.depths[:i]) for i in range(len(config.depths) + 1)]
    most = 0
    for stage, (side, width, heads) in enumerate(stages):
        # Of a block: its input, queries, keys and values, and both ends of the MLP; scores where it looks at the whole.
        kept = side**2 * width * (4 + 2 * config.mlp_ratio)
        looks = any(starts[stage] <= block < starts[stage + 1] for block in config.global_blocks)
        most = max(most, int(kept) + 2 * heads * side**4 * looks)
    return images * most * _WIDTH


def host_mesh(devices: Sequence[Any], mesh: Mesh) -> Mesh:
    """What one host draws on, as `runtime.mesh.own_mesh` says: its chips in a row, or all where there is one host."""
    own = [device for device in devices if device.process_index == devices[0].process_index]
    return mesh if len(own) == len(devices) else row_mesh(own)


def lower_encoder(config: Sam2Config, mesh: Mesh) -> Any:
    """The image encoder on a batch, lowered from shapes."""
    return encode_batch.lower(_params(config, mesh), _pixels(config, mesh), config)


def lower_decoder(config: Sam2Config, mesh: Mesh) -> Any:
    """The mask decoder on a batch with one prompt an image, lowered from shapes."""
    params, pixels = _params(config, mesh), _pixels(config, mesh)
    features = jax.eval_shape(partial(encode_batch, config=config), params, pixels)
    labels = (IMAGES_AT_ONCE, 1, _POINTS)
    prompts = jax.eval_shape(lambda: Prompts(jnp.zeros((*labels, 2)), jnp.zeros(labels, jnp.int32)))
    features, prompts = (jax.tree.map(partial(_spread, mesh=mesh), tree) for tree in (features, prompts))
    return decode_batch.lower(params, features, prompts, config, True)


def _params(config: Sam2Config, mesh: Mesh) -> Any:
    place = sharding_for(mesh)

    def placed(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        name = "/".join(str(key.key) for key in path)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=place(name, leaf.shape))

    return jax.tree_util.tree_map_with_path(placed, abstract_params(config))


def _pixels(config: Sam2Config, mesh: Mesh) -> jax.ShapeDtypeStruct:
    side = config.image_size
    return _spread(jax.ShapeDtypeStruct((IMAGES_AT_ONCE, side, side, 3), jnp.float32), mesh)


def _spread(x: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """A batch of images, or of what belongs to them, over the chips of a mesh."""
    axes = " ".join(["b", *"." * (len(x.shape) - 1)])
    place = NamedSharding(mesh, activation_spec(axes, x.shape, mesh.shape))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
