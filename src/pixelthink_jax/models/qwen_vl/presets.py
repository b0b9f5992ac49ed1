"""The published Qwen2.5-VL sizes.

3B and 7B are the published configurations; of 32B and 72B some fields are recalled, not read. They serve planning
and tests: a real folder's own `config.json` is what a loaded model follows.
"""

from pixelthink_jax.models.qwen_vl.config import QwenVLConfig, TextConfig, VisionConfig


def _published(text: TextConfig, *, vision_mlp: int, tied: bool) -> QwenVLConfig:
    vision = VisionConfig(intermediate_size=vision_mlp, out_hidden_size=text.hidden_size)
    return QwenVLConfig(text=text, vision=vision, tie_word_embeddings=tied)


PRESETS = {
    "qwen2.5-vl-3b": _published(
        TextConfig(151936, 2048, 11008, num_layers=36, num_heads=16, num_kv_heads=2),
        vision_mlp=3420,
        tied=True,
    ),
    "qwen2.5-vl-7b": _published(
        TextConfig(152064, 3584, 18944, num_layers=28, num_heads=28, num_kv_heads=4),
        vision_mlp=3420,
        tied=False,
    ),
    "qwen2.5-vl-32b": _published(
        TextConfig(152064, 5120, 27648, num_layers=64, num_heads=40, num_kv_heads=8),
        vision_mlp=3456,
        tied=False,
    ),
    "qwen2.5-vl-72b": _published(
        TextConfig(152064, 8192, 29568, num_layers=80, num_heads=64, num_kv_heads=8),
        vision_mlp=3456,
        tied=False,
    ),
}
