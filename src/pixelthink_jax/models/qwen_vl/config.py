"""Architecture of a Qwen2.5-VL model, as frozen values, and the published sizes."""

from dataclasses import dataclass

from pixelthink_jax.errors import InputError


def _divides(name: str, value: int, divisor: int, divisor_name: str) -> None:
    if divisor < 1 or value < 1 or value % divisor:
        raise InputError(f"{name} = {value}: must be a positive multiple of {divisor_name} = {divisor}")


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower.

    Attributes:
        depth: Number of blocks.
        hidden_size: Width of a patch.
        intermediate_size: Width of the gated MLP.
        num_heads: Attention heads.
        out_hidden_size: Width of an image token, equal to the text width.
        in_channels: Colour channels.
        patch_size: Side of a patch in pixels.
        temporal_patch_size: Frames in a patch; a still image is repeated.
        spatial_merge_size: Side in patches of the square that becomes one image token.
        window_size: Side of an attention window in pixels.
        full_attention_blocks: Indices of the blocks that attend over the whole image.
        tokens_per_second: Temporal positions per second of video; kept for export, images do not use it.
        rope_theta: Base of the two-dimensional rotary embedding.
        rms_norm_eps: Of every normalisation in the tower.
    """

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 2048
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    full_attention_blocks: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: int = 2
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit one another."""
        _divides("vision hidden_size", self.hidden_size, 4 * self.num_heads, "4 * num_heads")
        if self.window_tokens < 1:
            side = self.patch_size * self.spatial_merge_size
            raise InputError(
                f"vision window_size = {self.window_size}: must be at least one token, {side} pixels"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Numbers in one patch row: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that become one image token."""
        return self.spatial_merge_size**2

    @property
    def window_tokens(self) -> int:
        """Side of an attention window in image tokens."""
        return self.window_size // self.patch_size // self.spatial_merge_size


@dataclass(frozen=True)
class TextConfig:
    """The language model.

    Attributes:
        vocab_size: Rows of the embedding, at least the tokenizer's size.
        hidden_size: Width of a token.
        intermediate_size: Width of the gated MLP.
        num_layers: Decoder blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        mrope_section: Rotary frequencies taken from the (time, height, width) position in turn; sums to
            head_dim / 2.
        rope_theta: Base of the rotary embedding.
        rms_norm_eps: Of every normalisation.
        max_position_embeddings: Longest sequence the model was made for; kept for export.
    """

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_layers: int = 36
    num_heads: int = 16
    num_kv_heads: int = 2
    mrope_section: tuple[int, ...] = (16, 24, 24)
    rope_theta: float = 1000000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 128000

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit one another."""
        _divides("hidden_size", self.hidden_size, 2 * self.num_heads, "2 * num_heads")
        _divides("num_heads", self.num_heads, self.num_kv_heads, "num_key_value_heads")
        if sum(self.mrope_section) != self.head_dim // 2:
            raise InputError(
                f"mrope_section = {self.mrope_section}: must sum to half a head, {self.head_dim // 2} frequencies"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class QwenVLConfig:
    """A whole Qwen2.5-VL model; hashable, so it can be a static argument of jit.

    Attributes:
        text: The language model.
        vision: The vision tower.
        tie_word_embeddings: Whether the output head is the embedding.
        image_token_id: Placeholder that an image token's embedding replaces.
        video_token_id: The same for video; never sampled.
        vision_start_token_id: Token before an image.
        vision_end_token_id: Token after an image.
        bos_token_id: Kept for export; the model does not use it.
        eos_token_id: Ends a completion.
        pad_token_id: Fills short rows; None if the folder names none.
        initializer_range: Standard deviation of initial kernels.
        dtype: Dtype the weights are stored in.
    """

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    tie_word_embeddings: bool = True
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    bos_token_id: int | None = 151643
    eos_token_id: int | tuple[int, ...] | None = 151645
    pad_token_id: int | None = None
    initializer_range: float = 0.02
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        """Refuses a tower that does not fit the text model."""
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise InputError(
                f"vision out_hidden_size = {self.vision.out_hidden_size}: must equal the text hidden_size, "
                f"{self.text.hidden_size}"
            )
