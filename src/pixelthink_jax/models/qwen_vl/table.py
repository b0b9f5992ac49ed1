"""Which tensor of a Qwen2.5-VL file is which parameter: the table of `models.weights` for this family.

File names are the hub's (`visual.*`, `model.*`, `lm_head.weight`); `canonical_name` turns the other layout,
transformers' own module names (`model.visual.*`, `model.language_model.*`), into them.
"""

from collections.abc import Iterator

from pixelthink_jax.models.qwen_vl.config import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.weights import CONV_TO_DENSE, TRANSPOSE, TensorSpec

HEAD_NAME = "lm_head.weight"
EMBED_NAME = "model.embed_tokens.weight"


def canonical_name(name: str) -> str:
    """The hub's name of a tensor, from either layout.

    >>> canonical_name("model.language_model.norm.weight"), canonical_name("visual.merger.ln_q.weight")
    ('model.norm.weight', 'visual.merger.ln_q.weight')
    """
    for inner, outer in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(inner):
            return outer + name.removeprefix(inner)
    return name


def _linear(
    name: str, path: str, out: int, into: int, *, bias: bool, layer: int | None = None
) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", f"{path}/kernel", (out, into), TRANSPOSE, layer)
    if bias:
        yield TensorSpec(f"{name}.bias", f"{path}/bias", (out,), layer=layer)


def _mlp(name: str, path: str, width: int, hidden: int, *, bias: bool, layer: int) -> Iterator[TensorSpec]:
    for projection, out, into in (
        ("gate_proj", hidden, width),
        ("up_proj", hidden, width),
        ("down_proj", width, hidden),
    ):
        yield from _linear(f"{name}.{projection}", f"{path}/{projection}", out, into, bias=bias, layer=layer)


def _vision(config: VisionConfig) -> Iterator[TensorSpec]:
    d = config.hidden_size
    conv = (d, config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
    yield TensorSpec("visual.patch_embed.proj.weight", "vision/patch_embed/kernel", conv, CONV_TO_DENSE)
    for i in range(config.depth):
        name, path = f"visual.blocks.{i}", "vision/blocks"
        for norm in ("norm1", "norm2"):
            yield TensorSpec(f"{name}.{norm}.weight", f"{path}/{norm}/scale", (d,), layer=i)
        yield from _linear(f"{name}.attn.qkv", f"{path}/qkv", 3 * d, d, bias=True, layer=i)
        yield from _linear(f"{name}.attn.proj", f"{path}/proj", d, d, bias=True, layer=i)
        yield from _mlp(f"{name}.mlp", f"{path}/mlp", d, config.intermediate_size, bias=True, layer=i)
    joined = d * config.merge_unit
    yield TensorSpec("visual.merger.ln_q.weight", "vision/merger/norm/scale", (d,))
    yield from _linear("visual.merger.mlp.0", "vision/merger/fc1", joined, joined, bias=True)
    yield from _linear("visual.merger.mlp.2", "vision/merger/fc2", config.out_hidden_size, joined, bias=True)


def _text(config: TextConfig) -> Iterator[TensorSpec]:
    d, kv = config.hidden_size, config.num_kv_heads * config.head_dim
    yield TensorSpec(EMBED_NAME, "text/embed", (config.vocab_size, d))
    for i in range(config.num_layers):
        name, path = f"model.layers.{i}", "text/blocks"
        yield TensorSpec(f"{name}.input_layernorm.weight", f"{path}/input_norm/scale", (d,), layer=i)
        yield TensorSpec(f"{name}.post_attention_layernorm.weight", f"{path}/post_norm/scale", (d,), layer=i)
        for projection, out, bias in (
            ("q_proj", d, True),
            ("k_proj", kv, True),
            ("v_proj", kv, True),
            ("o_proj", d, False),
        ):
            yield from _linear(
                f"{name}.self_attn.{projection}", f"{path}/{projection}", out, d, bias=bias, layer=i
            )
        yield from _mlp(f"{name}.mlp", f"{path}/mlp", d, config.intermediate_size, bias=False, layer=i)
    yield TensorSpec("model.norm.weight", "text/final_norm/scale", (d,))


def tensor_table(config: QwenVLConfig) -> list[TensorSpec]:
    """Every tensor of a model, in the order files hold them.

    >>> from math import prod
    >>> from pixelthink_jax.models.qwen_vl.presets import PRESETS
    >>> sum(prod(spec.shape) for spec in tensor_table(PRESETS["qwen2.5-vl-7b"]))
    8292166656
    """
    head = TensorSpec(HEAD_NAME, "text/lm_head", (config.text.vocab_size, config.text.hidden_size))
    return [*_vision(config.vision), *_text(config.text), *(() if config.tie_word_embeddings else (head,))]
