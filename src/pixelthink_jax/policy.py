"""The policy as people use it: load a folder, ask questions about images, get texts; score tokens, export."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pixelthink_jax.errors import InputError
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import LoraConfig, QwenVLConfig
from pixelthink_jax.processing.images import ImageSource
from pixelthink_jax.processing.processor import Processor, Prompt
from pixelthink_jax.rl.placement import DecodeLayout, place_prompts
from pixelthink_jax.rl.refill import PromptsToSample, Refill
from pixelthink_jax.rl.rollout import PromptArrays, RolloutBatch, sample_completions
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.token_rules import TokenRules, token_rules
from pixelthink_jax.runtime.hosts import fetch, fetch_large, from_first, joined, together
from pixelthink_jax.runtime.mesh import decode_mesh, in_use, mesh_of
from pixelthink_jax.runtime.remote import on_this_machine
from pixelthink_jax.types import Completion, GenerationCost

# Prompts are padded to a multiple of this, so that few lengths are compiled.
_PROMPT_BUCKET = 64


@dataclass(frozen=True)
class Policy:
    """A vision-language model with its parameters and its processor.

    Attributes:
        config: The architecture.
        params: The parameters, `qwen_vl.model`'s tree.
        folder: Where it was loaded from; the processor is read there when text or images first need it.
        loaded_processor: The processor of a policy that has no folder yet.
    """

    config: QwenVLConfig
    params: Any
    folder: Path | None = None
    loaded_processor: Processor | None = None

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: str | None = "bfloat16", mesh: jax.sharding.Mesh | None = None
    ) -> "Policy":
        """Reads a Hugging Face folder; each tensor goes straight to its device or devices.

        Args:
            path: Folder with `config.json` and safetensors; `logits` and `export` need no more than these. One on an
                object store is copied to this machine first.
            dtype: Dtype of the parameters and of the computation; None keeps the stored one.
            mesh: Devices with axes named as in `qwen_vl.sharding`; None uses the default device.

        Raises:
            InputError: The folder is not a supported model, or a tensor is missing, unknown or of another
                shape.
        """
        path = on_this_machine(path)
        sharding_for = None
        if mesh is not None:
            model = qwen_vl.read_model_config(path)
            qwen_vl.check_mesh(model, mesh.shape)
            sharding_for = qwen_vl.sharding_for(mesh, model)
        config, params = qwen_vl.read_folder(path, dtype=dtype, sharding_for=sharding_for)
        return cls(config=config, params=params, folder=Path(path))

    @cached_property
    def processor(self) -> Processor:
        """Tokenizer, image settings and answer format."""
        if self.loaded_processor is not None:
            return self.loaded_processor
        if self.folder is None:
            raise ValueError("a policy needs a folder or a processor")
        return Processor.from_pretrained(self.folder)

    @cached_property
    def rules(self) -> TokenRules:
        """What the vocabulary means to the decode loop."""
        tokenizer = self.processor.tokenizer
        return token_rules(
            tokenizer.token_bytes(),
            vocab_size=self.config.text.vocab_size,
            eos=tokenizer.special.eos,
            banned=tokenizer.special.vision,
            close_ids=tokenizer.encode("</think>\n"),
            pad=tokenizer.special.pad,
        )

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The devices that the parameters are spread over; None on one device."""
        return mesh_of(self.params["text"]["embed"])

    @property
    def spans_processes(self) -> bool:
        """Whether the parameters are spread over several processes, which then have to ask it together."""
        mesh = self.mesh if self.params else None
        return mesh is not None and mesh.is_multi_process

    @cached_property
    def _decode_params(self) -> Any:
        """Per-layer parameters for the decode loop: a second copy of the text blocks, made once."""
        if self.mesh is None:
            return qwen_vl.unstack_layers(self.params)
        return DecodeLayout(self.config, dtype=None, train=self.mesh, rollout=self._rollout_mesh)(self.params)

    @cached_property
    def _rollout_mesh(self) -> jax.sharding.Mesh | None:
        """Where completions are decoded; None on one device."""
        return None if self.mesh is None else decode_mesh(self.mesh)

    def logits(
        self,
        input_ids: Int[np.ndarray, "..."],
        attention_mask: Int[np.ndarray, "..."],
        pixel_values: Float[np.ndarray, "p c"] | None = None,
        image_grid_thw: Int[np.ndarray, "n 3"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Next-token logits, float32, of arrays as the Hugging Face processor makes them.

        Args:
            input_ids: Tokens, image placeholders expanded.
            attention_mask: 1 at real tokens; padding may be left or right.
            pixel_values: Patch rows of all images, in prompt order.
            image_grid_thw: Frames, rows and columns of patches of each image.

        Raises:
            InputError: The shapes do not belong together.
        """
        input_ids, attention_mask = np.asarray(input_ids), np.asarray(attention_mask)
        if input_ids.shape != attention_mask.shape or input_ids.ndim != 2:
            raise InputError(
                f"input_ids {input_ids.shape}, attention_mask {attention_mask.shape}: expected [batch, time] for both"
            )
        if (pixel_values is None) != (image_grid_thw is None):
            raise InputError("pixel_values and image_grid_thw: give both or neither")
        positions = qwen_vl.position_ids(input_ids, attention_mask, image_grid_thw, self.config)
        mask = attention_mask.astype(bool)
        if pixel_values is None or image_grid_thw is None:
            return _logits(self.params, input_ids, positions, mask, None, None, self.config)
        layout = qwen_vl.vision_layout(np.asarray(image_grid_thw), self.config.vision)
        pixels, patches = np.asarray(pixel_values), int(np.prod(image_grid_thw, axis=1).sum())
        if pixels.shape != (patches, self.config.vision.patch_dim):
            raise InputError(
                f"pixel_values {pixels.shape}: expected {(patches, self.config.vision.patch_dim)}, "
                "a row for each patch of image_grid_thw"
            )
        return _logits(self.params, input_ids, positions, mask, pixels, layout, self.config)

    def generate(
        self,
        images: Sequence[ImageSource],
        queries: Sequence[str],
        *,
        max_new_tokens: int,
        group_size: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_thinking_tokens: int | None = None,
        instructions: Sequence[str | None] | None = None,
        completion_prefix: str = "",
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[tuple[Completion, ...]]:
        """Answers one question about each image.

        Where the parameters are spread over several processes, each of them calls this with questions of its own, none
        if it has none, and gets the answers to these.

        Args:
            images: Anything `load_image` reads.
            queries: One for each image.
            max_new_tokens: Longest completion.
            group_size: Completions of each question, which share one encoded image and one prefilled prompt.
            temperature: 0 is greedy.
            top_p: Nucleus mass; 1 is off.
            top_k: Number of likeliest tokens kept; 0 is off.
            max_thinking_tokens: Tokens after which a thought is closed; None sets no limit.
            instructions: A sentence to add to each prompt, or None.
            completion_prefix: Text every completion must begin with.
            seed: Of the sampling; the same question at the same place of the list draws the same completions
                whatever the batch size.
            batch_size: Questions decoded together; more questions than that refill the batches, see `rl.refill`.

        Returns:
            A group of completions for each question, with what they cost.

        Raises:
            InputError: An image, a question or a setting cannot be used.
        """
        if len(images) != len(queries):
            raise InputError(
                f"{len(images)} images and {len(queries)} queries: expected one query for each image"
            )
        if group_size < 1 or batch_size < 1:
            raise InputError(f"group_size {group_size}, batch_size {batch_size}: both must be at least 1")
        if instructions is not None and len(instructions) != len(queries):
            raise InputError(
                f"{len(instructions)} instructions and {len(queries)} queries: expected equal numbers"
            )
        sampling = SamplingConfig(max_new_tokens, temperature, top_p, top_k, max_thinking_tokens)
        notes = instructions or [None] * len(queries)

        def own_prompts() -> list[Prompt]:
            return [
                self.processor.prompt(image, query, instruction=note)
                for image, query, note in zip(images, queries, notes, strict=True)
            ]

        parts = together(own_prompts) if self.spans_processes else [own_prompts()]
        before = sum(map(len, parts[: jax.process_index()])) if len(parts) > 1 else 0
        prompts = joined(parts)
        forced = self.processor.tokenizer.encode(completion_prefix)
        refill = Refill(self._decode_params, self.rules, sampling, self.config, self.processor.image_config)
        groups: dict[int, tuple[Completion, ...]] = {}
        with in_use(self._rollout_mesh):
            for found in refill.sample(self._prompt_batches(prompts, forced, batch_size, group_size, seed)):
                prompt = prompts[found.place]
                cost = GenerationCost(
                    len(prompt.input_ids), prompt.grid_thw, found.decode_slots, found.seconds
                )
                groups[found.place] = tuple(
                    replace(self._completion(found.rollout, found.uncertainty, 0, g), cost=cost)
                    for g in range(group_size)
                )
        return [groups[before + i] for i in range(len(queries))]

    def _prompt_batches(
        self, prompts: list[Prompt], forced: Int[np.ndarray, " n"], size: int, group_size: int, seed: int
    ) -> Iterator[PromptsToSample]:
        """Batches of one size, padded to one length, keys by place in the list; the last repeats its last prompt."""
        longest = max((len(prompt.input_ids) for prompt in prompts), default=0)
        size = min(size, len(prompts))
        for start in range(0, len(prompts), size or 1):
            places = range(start, min(start + size, len(prompts)))
            filled = np.minimum(np.arange(start, start + size), len(prompts) - 1)
            keys = row_keys(seed, 0, jnp.asarray(filled), group_size)
            arrays = self.prompt_arrays([prompts[i] for i in filled], forced, longest=longest)
            yield PromptsToSample(place_prompts(arrays, self._rollout_mesh), keys, places)

    def rollout(self, prompts: PromptArrays, keys: Array, sampling: SamplingConfig) -> RolloutBatch:
        """Samples token arrays; `generate` without text."""
        params = self._decode_params
        with in_use(self._rollout_mesh):
            return sample_completions(
                params,
                place_prompts(prompts, self._rollout_mesh),
                keys,
                self.rules,
                sampling,
                self.config,
                self.processor.image_config,
            )

    def prompt_arrays(
        self, prompts: Sequence[Prompt], forced: Int[np.ndarray, " n"] | None = None, *, longest: int = 0
    ) -> PromptArrays:
        """Pads prompts and puts them, their positions and the vision layout on the device.

        Args:
            prompts: One image and one question each.
            forced: Tokens every completion must begin with.
            longest: Pad as for a prompt of that many tokens, where none of these is longer.
        """
        longest = max(longest, *(len(prompt.input_ids) for prompt in prompts))
        batch = self.processor.batch(prompts, pad_to=-(-longest // _PROMPT_BUCKET) * _PROMPT_BUCKET)
        grids = batch.image_grid_thw
        begin = np.zeros(0, np.int32) if forced is None else forced
        arrays = PromptArrays(
            input_ids=batch.input_ids,
            mask=batch.attention_mask.astype(bool),
            positions=qwen_vl.position_ids(batch.input_ids, batch.attention_mask, grids, self.config),
            images=batch.images,
            layout=qwen_vl.vision_layout(grids, self.config.vision),
            forced=np.tile(begin, (len(prompts), 1)).astype(np.int32),
        )
        # Of several processes each puts only its own part on its devices, when they are placed.
        return arrays if jax.process_count() > 1 else jax.device_put(arrays)

    def completions(self, rollout: RolloutBatch) -> list[tuple[Completion, ...]]:
        """Decodes token arrays into one group of texts for each prompt."""
        uncertainty, host = fetch((rollout.uncertainty, rollout))
        return [
            tuple(self._completion(host, uncertainty, b, g) for g in range(host.tokens.shape[1]))
            for b in range(host.tokens.shape[0])
        ]

    def _completion(self, rollout: RolloutBatch, uncertainty: np.ndarray, b: int, g: int) -> Completion:
        length = int(rollout.lengths[b, g])
        tokens = np.asarray(rollout.tokens[b, g, :length])
        return Completion(
            text=self.processor.tokenizer.decode(tokens),
            token_ids=tokens,
            logprobs=np.asarray(rollout.logprobs[b, g, :length]),
            uncertainty=float(uncertainty[b, g]),
            finish_reason="stop" if rollout.stopped[b, g] else "length",
        )

    def export(self, path: str | Path, *, dtype: str | None = None) -> None:
        """Writes a Hugging Face folder that transformers and vLLM load, with `pixelthink.json` beside it all.

        An adapter is merged into the weights it belongs to.

        Args:
            path: The folder; written beside and then renamed, so that a kill leaves no half of it.
            dtype: Dtype of the stored tensors; None keeps that of the parameters.
        """
        params = fetch_large(qwen_vl.merge_lora(self.params))
        from_first(
            lambda: qwen_vl.write_folder(path, params, self.config, dtype=dtype, extra=self._save_processor)
        )

    def export_adapter(self, path: str | Path, lora: LoraConfig) -> None:
        """Writes the adapter alone, as a folder that PEFT loads."""
        params = fetch_large(self.params)
        from_first(lambda: qwen_vl.write_adapter(path, params, lora, base=str(self.folder or "")))

    def with_adapter(self, path: str | Path) -> "Policy":
        """The policy with the adapter of a PEFT folder merged into it.

        Raises:
            InputError: The folder is no adapter, or another model's.
        """
        params, _ = qwen_vl.read_adapter(path, self.params, self.config.text)
        return self.with_params(qwen_vl.merge_lora(params))

    def _save_processor(self, path: Path) -> None:
        """A policy loaded from bare tensors has no processor, and is exported without one."""
        if self.loaded_processor is not None or (
            self.folder is not None and (self.folder / "tokenizer.json").is_file()
        ):
            self.processor.save(path)

    def with_params(self, params: Any) -> "Policy":
        """The same policy with other parameters."""
        return Policy(self.config, params, self.folder, self.loaded_processor)


@jax.jit(static_argnames="config")
def _logits(
    params: Any,
    input_ids: Array,
    positions: Array,
    mask: Array,
    pixels: Array | None,
    layout: Any,
    config: QwenVLConfig,
) -> Array:
    images = None if pixels is None else qwen_vl.encode_images(params, pixels, layout, config)
    embeds = qwen_vl.embed_prompt(params, input_ids, images, config)
    return qwen_vl.logits(params, qwen_vl.forward(params, embeds, positions, mask, config), config)
