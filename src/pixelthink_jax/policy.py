"""The policy as people use it: load a folder, ask questions about images, get texts; score, export."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.processing.images import ImageSource
from pixelthink_jax.processing.processor import Processor, Prompt
from pixelthink_jax.types import Completion


@dataclass(frozen=True)
class Policy:
    """A vision-language model with its parameters and its processor.

    Attributes:
        config: The architecture.
        params: The parameters, `qwen_vl.model`'s tree.
        processor: Tokenizer, image settings and answer format.
    """

    config: QwenVLConfig
    params: Any
    processor: Processor

    def export(self, path: str | Path, *, dtype: str | None = None) -> None:
        """Writes a Hugging Face folder that transformers and vLLM load, with `pixelthink.json` beside."""
        from pixelthink_jax.models.qwen_vl.folder import write_folder

        write_folder(path, self.params, self.config, dtype=dtype)
        self.processor.save(path)
