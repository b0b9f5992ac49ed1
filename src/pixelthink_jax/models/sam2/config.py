"""The shape of a SAM2 image model, and its published sizes.

Source: facebookresearch/sam2 `sam2/configs/`. Only the image path is described; `hf_config` reads and writes the
Hugging Face form.
"""

from dataclasses import dataclass

from pixelthink_jax.errors import InputError


@dataclass(frozen=True)
class Sam2Config:
    """Everything that shapes the SAM2 image path. The defaults are SAM2.1 tiny.

    Attributes:
        image_size: Side of the square model input, in pixels.
        patch_kernel: Side of the patch convolution.
        patch_stride: Its stride.
        patch_padding: Its zero padding.
        depths: Blocks of each Hiera stage.
        widths: Channels of each stage.
        heads: Attention heads of each stage.
        windows: Window side of each stage, in tokens of that stage.
        global_blocks: Indices of the blocks that attend to the whole map.
        pooled_stages: Stages after the first whose first block halves the map.
        pool_stride: By how much it shrinks, per side.
        position_grid: Rows and columns of the coarse position embedding.
        mlp_ratio: Hidden width of a Hiera block's MLP over its width.
        norm_eps: Epsilon of Hiera's layer norms.
        embed_dim: Width of the feature pyramid, the prompts and the decoder.
        top_down_levels: Pyramid levels that receive the upsampled coarser level.
        mask_channels: Channels of the mask prompt's convolutions.
        prompt_norm_eps: Epsilon of the mask prompt's layer norms.
        decoder_layers: Two-way blocks.
        decoder_heads: Their attention heads.
        decoder_mlp: Hidden width of their MLPs.
        attention_downsample: Embedding width over inner width in the cross attentions.
        multimask_outputs: Masks for an ambiguous prompt, beside the single one.
        iou_depth: Layers of the IoU head.
        iou_width: Its hidden width.
        dynamic_multimask: Replace an unstable single mask by the best of the others.
        stability_delta: Logit offset of the stability score.
        stability_threshold: Score below which the single mask is replaced.
    """

    image_size: int = 1024
    patch_kernel: int = 7
    patch_stride: int = 4
    patch_padding: int = 3
    depths: tuple[int, ...] = (1, 2, 7, 2)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    windows: tuple[int, ...] = (8, 4, 14, 7)
    global_blocks: tuple[int, ...] = (5, 7, 9)
    pooled_stages: int = 3
    pool_stride: int = 2
    position_grid: tuple[int, int] = (7, 7)
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    embed_dim: int = 256
    top_down_levels: tuple[int, ...] = (2, 3)
    mask_channels: int = 16
    prompt_norm_eps: float = 1e-6
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    attention_downsample: int = 2
    multimask_outputs: int = 3
    iou_depth: int = 3
    iou_width: int = 256
    dynamic_multimask: bool = True
    stability_delta: float = 0.05
    stability_threshold: float = 0.98

    def __post_init__(self) -> None:
        _check_stages(self)
        _check_map_sizes(self)
        _check_decoder(self)

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Side of the feature map of each stage.

        >>> Sam2Config().map_sizes
        (256, 128, 64, 32)
        """
        first = self.image_size // self.patch_stride
        return tuple(first // self.pool_stride ** min(i, self.pooled_stages) for i in range(len(self.depths)))

    @property
    def embed_size(self) -> int:
        """Side of the image embedding: 64 for a 1024 input."""
        return self.map_sizes[2]

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution masks, a quarter of the input."""
        return self.map_sizes[0]

    @property
    def decoder_mlp_depth(self) -> int:
        """Linear layers of a two-way block's MLP: 2 in every release; transformers ties it to the blocks."""
        return max(2, self.decoder_layers)


def preset(name: str) -> Sam2Config:
    """The published sizes, by name; SAM2 and SAM2.1 share them.

    >>> preset("large").depths
    (2, 6, 36, 4)

    Raises:
        InputError: No such preset.
    """
    if name not in PRESETS:
        raise InputError(f"SAM2 preset {name!r}: unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _check_stages(config: Sam2Config) -> None:
    """Lists of one length, at least three stages, windows that pool evenly."""
    stages = len(config.depths)
    if stages < 3 or any(len(part) != stages for part in (config.widths, config.heads, config.windows)):
        raise InputError(
            f"SAM2 config: depths, widths, heads and windows must have one length of at least 3, got "
            f"{config.depths}, {config.widths}, {config.heads}, {config.windows}"
        )
    if any(width % heads for width, heads in zip(config.widths, config.heads, strict=True)):
        raise InputError(f"SAM2 config: heads {config.heads} must divide widths {config.widths}")
    if not 0 <= config.pooled_stages < stages:
        raise InputError(f"SAM2 config: pooled_stages is {config.pooled_stages}, expected 0 to {stages - 1}")
    for stage in range(1, config.pooled_stages + 1):
        opening = sum(config.depths[:stage])
        if opening in config.global_blocks:
            raise InputError(
                f"SAM2 config: global block {opening} opens a pooling stage, which has no meaning"
            )
        if config.windows[stage - 1] % config.pool_stride or config.widths[stage] == config.widths[stage - 1]:
            raise InputError(
                f"SAM2 config: stage {stage} pools, so window {config.windows[stage - 1]} before it must be a "
                f"multiple of {config.pool_stride} and its width must differ from {config.widths[stage - 1]}"
            )


def _check_map_sizes(config: Sam2Config) -> None:
    """Sizes that divide: the map by the pooling, and by the windowed position embedding."""
    unit = config.patch_stride * config.pool_stride**config.pooled_stages
    if config.image_size <= 0 or config.image_size % unit:
        raise InputError(f"SAM2 config: image_size {config.image_size} must be a positive multiple of {unit}")
    if config.map_sizes[0] % config.windows[0]:
        raise InputError(
            f"SAM2 config: the first map is {config.map_sizes[0]} tokens wide, expected a multiple of its "
            f"window {config.windows[0]}; choose another image_size"
        )
    if config.patch_kernel < config.patch_stride or config.map_sizes[:3] != (
        config.mask_size,
        config.mask_size // 2,
        config.mask_size // 4,
    ):
        raise InputError(
            f"SAM2 config: the first three maps are {config.map_sizes[:3]}; each must be half the one before, "
            f"and patch_kernel {config.patch_kernel} at least patch_stride {config.patch_stride}"
        )
    span = config.patch_kernel - config.patch_stride
    if not 0 <= 2 * config.patch_padding - span < config.patch_stride:
        raise InputError(
            f"SAM2 config: patch_padding {config.patch_padding} does not give image_size / patch_stride patches"
        )


def _check_decoder(config: Sam2Config) -> None:
    """Widths of the decoder's attention."""
    inner = config.embed_dim // max(1, config.attention_downsample)
    if config.embed_dim % 8 or inner % config.decoder_heads or config.mask_channels % 4:
        raise InputError(
            f"SAM2 config: embed_dim {config.embed_dim} must be a multiple of 8, embed_dim / "
            f"{config.attention_downsample} of decoder_heads {config.decoder_heads}, and mask_channels "
            f"{config.mask_channels} of 4"
        )
    if config.decoder_layers < 1 or config.iou_depth < 2 or config.multimask_outputs < 1:
        raise InputError(
            "SAM2 config: decoder_layers and multimask_outputs must be at least 1, iou_depth at least 2"
        )


PRESETS = {
    "tiny": Sam2Config(),
    "small": Sam2Config(depths=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
    "base-plus": Sam2Config(
        depths=(2, 3, 16, 3),
        widths=(112, 224, 448, 896),
        heads=(2, 4, 8, 16),
        global_blocks=(12, 16, 20),
        position_grid=(14, 14),
    ),
    "large": Sam2Config(
        depths=(2, 6, 36, 4),
        widths=(144, 288, 576, 1152),
        heads=(2, 4, 8, 16),
        windows=(8, 4, 16, 8),
        global_blocks=(23, 33, 43),
    ),
}
