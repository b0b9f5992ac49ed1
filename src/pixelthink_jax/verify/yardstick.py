"""transformers' own models in PyTorch, as functions of numpy arrays: what `--against transformers` compares with.

The one place of the package that reaches for PyTorch, and only when one of these classes is made: nothing here is
needed to run a model.
"""

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pixelthink_jax.errors import InputError

# torchvision's compiled operators, which transformers' imports want declared beside a torch they were not built for.
_OPERATORS = ("nms", "qnms")
_declared: list[Any] = []


class TransformersPolicy:
    """transformers' Qwen2.5-VL."""

    def __init__(self, folder: str | Path, *, dtype: str = "float32") -> None:
        """Loads a folder.

        Raises:
            InputError: PyTorch is not installed, or transformers finds tensors missing.
        """
        self._torch = import_torch()
        self._model = _load(self._torch, "Qwen2_5_VLForConditionalGeneration", folder, dtype)
        self._reference: Any = None
        self._optimizer: Any = None

    def logits(
        self,
        input_ids: Int[np.ndarray, "b t"],
        attention_mask: Int[np.ndarray, "b t"],
        pixel_values: Float[np.ndarray, "p c"],
        image_grid_thw: Int[np.ndarray, "n 3"],
    ) -> Float[np.ndarray, "b t v"]:
        """Next-token logits, float32."""
        inputs = self._inputs(input_ids, attention_mask, pixel_values, image_grid_thw)
        with self._torch.no_grad():
            return self._model(**inputs).logits.float().numpy()

    def generate(
        self,
        input_ids: Int[np.ndarray, "b t"],
        attention_mask: Int[np.ndarray, "b t"],
        pixel_values: Float[np.ndarray, "p c"],
        image_grid_thw: Int[np.ndarray, "n 3"],
        *,
        new_tokens: int,
    ) -> Int[np.ndarray, "b r"]:
        """Greedy tokens, exactly `new_tokens` of them: no token ends a completion.

        Raises:
            RuntimeError: There are fewer, so that a comparison would mean nothing.
        """
        inputs = self._inputs(input_ids, attention_mask, pixel_values, image_grid_thw)
        settings = self._model.generation_config
        settings.eos_token_id, settings.pad_token_id = None, 0
        with self._torch.no_grad():
            tokens = self._model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        completions = tokens[:, input_ids.shape[1] :].numpy()
        if completions.shape[1] != new_tokens:
            raise RuntimeError(
                f"transformers generated {completions.shape[1]} tokens instead of {new_tokens}"
            )
        return completions

    def grpo_step(
        self,
        input_ids: Int[np.ndarray, "b t"],
        attention_mask: Int[np.ndarray, "b t"],
        pixel_values: Float[np.ndarray, "p c"],
        image_grid_thw: Int[np.ndarray, "n 3"],
        advantages: Float[np.ndarray, " b"],
        *,
        new_tokens: int,
        learning_rate: float = 1e-6,
        kl_coef: float = 5e-3,
    ) -> None:
        """One plain GRPO step: sample, reference pass, forward and backward with checkpointing, AdamW.

        Every completion carries its prompt and its image, as trainers on transformers do it; five forward-equivalents.
        The first call copies the weights for the reference.
        """
        torch = self._torch
        if self._reference is None:
            self._reference = copy.deepcopy(self._model)
            self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=learning_rate)
        settings = self._model.generation_config
        settings.eos_token_id, settings.pad_token_id = None, 0
        inputs = self._inputs(input_ids, attention_mask, pixel_values, image_grid_thw)
        self._model.gradient_checkpointing_disable()
        with torch.no_grad():
            rows = self._model.generate(
                **inputs, max_new_tokens=new_tokens, do_sample=True, temperature=1.0, top_k=0
            )
        whole = np.concatenate([attention_mask, np.ones((len(rows), new_tokens))], axis=1)
        inputs = self._inputs(rows.numpy(), whole, pixel_values, image_grid_thw)
        with torch.no_grad():
            reference = self._completion_logprobs(self._reference, inputs, new_tokens)
        self._model.train()
        self._model.gradient_checkpointing_enable()
        own = self._completion_logprobs(self._model, inputs, new_tokens)
        ratio = torch.exp(own - own.detach())
        gap = reference - own
        divergence = torch.exp(gap) - gap - 1
        weighed = torch.from_numpy(advantages)[:, None] * ratio
        (kl_coef * divergence - weighed).mean().backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._model.eval()

    def _completion_logprobs(self, model: Any, inputs: dict[str, Any], new_tokens: int) -> Any:
        """Log-probability of each completion token, `[b, r]`; the head runs at their positions only."""
        logits = model(**inputs, logits_to_keep=new_tokens + 1, use_cache=False).logits[:, :-1]
        chosen = inputs["input_ids"][:, -new_tokens:, None]
        return self._torch.log_softmax(logits.float(), -1).gather(-1, chosen)[..., 0]

    def _inputs(
        self, input_ids: Any, attention_mask: Any, pixel_values: Any, image_grid_thw: Any
    ) -> dict[str, Any]:
        is_image = input_ids == self._model.config.image_token_id
        arrays = {
            "input_ids": np.asarray(input_ids, np.int64),
            "attention_mask": np.asarray(attention_mask, np.int64),
            "mm_token_type_ids": np.asarray(is_image, np.int64),
            "image_grid_thw": np.asarray(image_grid_thw, np.int64),
        }
        tensors = {name: self._torch.from_numpy(array) for name, array in arrays.items()}
        pixels = self._torch.from_numpy(np.array(pixel_values, np.float32)).to(self._model.dtype)
        return tensors | {"pixel_values": pixels}


class TransformersSegmenter:
    """transformers' SAM2."""

    def __init__(self, folder: str | Path) -> None:
        """Loads a folder in float32.

        Raises:
            InputError: PyTorch is not installed, or transformers finds tensors missing.
        """
        self._torch = import_torch()
        self._model = _load(self._torch, "Sam2Model", folder, "float32")

    def embed(self, pixels: Float[np.ndarray, "b S S 3"]) -> Float[np.ndarray, "b d e e"]:
        """The image embedding of normalised squares."""
        with self._torch.no_grad():
            return self._model.get_image_embeddings(self._pixels(pixels))[-1].numpy()

    def mask_logits(
        self,
        pixels: Float[np.ndarray, "1 S S 3"],
        box_xyxy: Float[np.ndarray, " 4"],
        points_xy: Float[np.ndarray, "n 2"],
    ) -> Float[np.ndarray, "m s s"]:
        """Low-resolution logits of the three masks of one prompt, in pixels of the square."""
        tensor = lambda values: self._torch.tensor(np.asarray(values, np.float32)[None, None])  # noqa: E731
        with self._torch.no_grad():
            outputs = self._model(
                pixel_values=self._pixels(pixels),
                input_boxes=tensor(box_xyxy),
                input_points=tensor(points_xy),
                input_labels=self._torch.ones((1, 1, len(points_xy)), dtype=self._torch.int64),
                multimask_output=True,
            )
        return outputs.pred_masks[0, 0].numpy()

    def _pixels(self, pixels: Any) -> Any:
        """The layout PyTorch wants, channels before rows."""
        return self._torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(pixels), -1, 1)))


def import_torch() -> Any:
    """PyTorch, and transformers made importable beside it.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise InputError(
            "--against transformers: PyTorch is not installed here; pip install torch, or leave --against out"
        ) from error
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pass
    except (ImportError, RuntimeError, OSError):
        # A torchvision built for another torch: the models work once its operators are declared, and it is kept from
        # being garbage-collected, which would undo that.
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return torch


def _load(torch: Any, name: str, folder: str | Path, dtype: str) -> Any:
    transformers = importlib.import_module("transformers")
    model, report = getattr(transformers, name).from_pretrained(
        str(folder), dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
    )
    if report["missing_keys"]:
        raise InputError(
            f"{folder}: transformers finds no {sorted(report['missing_keys'])[0]} in it and would invent one; compare "
            "with a Hugging Face folder"
        )
    return model.eval()
