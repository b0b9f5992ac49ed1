"""One image and one question to model input, and the model's coordinates back to the image.

The processor of a policy folder joins its image settings, tokenizer, chat template and `PolicyFormat`. Equal
to transformers' `Qwen2_5_VLProcessor` token by token; pixels stay 8-bit until `patches.patchify`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.folder import write_json
from pixelthink_jax.processing.images import ImageSource, load_image, resize, smart_resize
from pixelthink_jax.processing.patches import ImageConfig, patchify_all
from pixelthink_jax.processing.policy_format import PolicyFormat, frame_size
from pixelthink_jax.processing.prompts import chat_messages, user_text
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.types import Answer, Point

Rounding = Literal["float", "seg_zero_round", "half_up"]


@dataclass(frozen=True)
class Prompt:
    """One question about one image, ready to be batched.

    Attributes:
        input_ids: int32 `[t]`, image tokens expanded.
        image: uint8 `[H, W, 3]` as the model sees it.
        grid_thw: Patches of the image: (1, rows, columns).
        image_size: `(width, height)` of the original image.
    """

    input_ids: Int32[np.ndarray, " t"]
    image: UInt8[np.ndarray, "H W 3"]
    grid_thw: tuple[int, int, int]
    image_size: tuple[int, int]

    @property
    def model_size(self) -> tuple[int, int]:
        """`(width, height)` of the image the model sees."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one device call.

    Attributes:
        input_ids: int32 `[b, t]`, padded on the left.
        attention_mask: int32 `[b, t]`, 1 on real tokens.
        images: Stacks of neighbouring images of one size, uint8 `[n, H, W, 3]`, in prompt order.
        image_grid_thw: int32 `[b, 3]`.
        image_sizes: `(width, height)` of each original image.
    """

    input_ids: Int32[np.ndarray, "b t"]
    attention_mask: Int32[np.ndarray, "b t"]
    images: tuple[UInt8[np.ndarray, "_ _ _ 3"], ...]
    image_grid_thw: Int32[np.ndarray, "b 3"]
    image_sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Processor:
    """Image settings, tokenizer and format of one policy.

    Attributes:
        image_config: Patch geometry, limits and normalisation.
        tokenizer: Text to ids.
        format: Resize, prompt and coordinate frame.
    """

    image_config: ImageConfig
    tokenizer: Tokenizer
    format: PolicyFormat

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, name: str | None = None) -> "Processor":
        """Reads the preprocessor, tokenizer, chat template and `pixelthink.json` of a folder.

        Args:
            folder: Local model folder.
            name: Hub id the folder came from, for the table of published formats.

        Raises:
            InputError: A file is missing or cannot be used.
        """
        return cls(
            image_config=ImageConfig.from_pretrained(folder),
            tokenizer=Tokenizer.from_pretrained(folder),
            format=PolicyFormat.from_pretrained(folder, name=name),
        )

    def save(self, folder: str | Path) -> None:
        """Writes preprocessor, tokenizer, chat template, generation settings and `pixelthink.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.image_config.save(folder)
        self.tokenizer.save(folder)
        self.format.save(folder)
        special = self.tokenizer.special
        generation = {"do_sample": False, "eos_token_id": list(special.eos), "pad_token_id": special.pad}
        write_json(folder / "generation_config.json", generation)

    def resize(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
        """The image the model sees: the format's resize, then Qwen's `smart_resize`.

        Raises:
            InputError: The image is more than 200 times longer than wide.
        """
        policy, config = self.format.resize, self.image_config
        if policy.kind == "square" and policy.size is not None:
            image = resize(image, policy.size, policy.size, filter=policy.filter)
        height, width = smart_resize(
            *image.shape[:2],
            factor=config.factor,
            min_pixels=policy.min_pixels or config.min_pixels,
            max_pixels=policy.max_pixels or config.max_pixels,
        )
        return resize(image, height, width, filter=config.filter)

    def prompt(
        self,
        image: ImageSource,
        query: str,
        *,
        instruction: str | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Prompt:
        """Everything the policy needs to know about one question.

        Args:
            image: Anything `load_image` reads.
            query: The question in words.
            instruction: Sentence appended to the prompt.
            image_size: `(width, height)` of the original where `image` is already a resized copy of it.

        Raises:
            InputError: The image cannot be read, or the question is empty or holds a special token.
        """
        ids = self.text_ids(query, instruction=instruction)
        pixels = load_image(image)
        model_image = self.resize(pixels)
        patch = self.image_config.patch_size
        grid = (1, model_image.shape[0] // patch, model_image.shape[1] // patch)
        return Prompt(
            input_ids=self._expand_image(ids, grid[1] * grid[2] // self.image_config.merge_size**2),
            image=model_image,
            grid_thw=grid,
            image_size=image_size or (pixels.shape[1], pixels.shape[0]),
        )

    def text_ids(self, query: str, *, instruction: str | None = None) -> Int32[np.ndarray, " t"]:
        """Ids of the whole chat, with one image token.

        Raises:
            InputError: The question is empty or holds a special token.
        """
        for text in (query, instruction or ""):
            found = next((token for token in self.tokenizer.special_tokens if token in text), None)
            if found is not None:
                raise InputError(f"query {text!r}: it holds the special token {found}; remove it")
        text = user_text(self.format.prompt, query, instruction=instruction)
        return self.tokenizer.encode(
            self.tokenizer.render_chat(chat_messages(text, system_prompt=self.format.system_prompt))
        )

    def _expand_image(self, ids: Int32[np.ndarray, " t"], count: int) -> Int32[np.ndarray, " t2"]:
        """Repeats the one image token `count` times."""
        image_pad = self.tokenizer.special.image_pad
        places = np.flatnonzero(ids == image_pad)
        if len(places) != 1:
            raise InputError(
                f"chat template: {len(places)} image tokens for one image, expected 1; use Qwen2-VL's"
            )
        repeats = np.ones(len(ids), np.int64)
        repeats[places[0]] = count
        return np.repeat(ids, repeats)

    def batch(self, prompts: Sequence[Prompt], *, pad_to: int | Sequence[int] | None = None) -> PromptBatch:
        """Pads prompts on the left to one length.

        Args:
            prompts: At least one.
            pad_to: The length, or bucket lengths of which the smallest that fits is taken; None takes the
                longest.

        Raises:
            InputError: A prompt is longer than every length given.
            ValueError: There are no prompts.
        """
        if not prompts:
            raise ValueError("batch needs at least one prompt")
        length = _bucket(max(len(p.input_ids) for p in prompts), pad_to)
        ids = np.full((len(prompts), length), self.tokenizer.special.pad, np.int32)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt.input_ids) :] = prompt.input_ids
            mask[row, length - len(prompt.input_ids) :] = 1
        return PromptBatch(
            input_ids=ids,
            attention_mask=mask,
            images=_stack_runs([p.image for p in prompts]),
            image_grid_thw=np.asarray([p.grid_thw for p in prompts], np.int32),
            image_sizes=tuple(p.image_size for p in prompts),
        )

    def pixel_values(self, batch: PromptBatch) -> Float[Array, "patches patch_dim"]:
        """Patch rows of a batch in prompt order, made on the device (see `patches.patchify`)."""
        return patchify_all(batch.images, image_config=self.image_config)

    def to_image_px(
        self,
        answer: Answer,
        *,
        image_size: tuple[int, int],
        model_size: tuple[int, int],
        rounding: Rounding = "float",
    ) -> Answer:
        """An answer in the policy's frame to pixels of the original image."""
        frame = frame_size(self.format.coordinate_frame, model_size=model_size)
        return to_image_px(answer, frame=frame, image_size=image_size, rounding=rounding)


def to_image_px(
    answer: Answer, *, frame: tuple[int, int], image_size: tuple[int, int], rounding: Rounding = "float"
) -> Answer:
    """Scales box and points from a frame to the original image.

    Args:
        answer: In the frame.
        frame: `(width, height)` of the frame.
        image_size: `(width, height)` of the image.
        rounding: `float` keeps fractions; `seg_zero_round` is `round(int(v) * f)` (banker's, Seg-Zero's
            evaluation); `half_up` is `int(v * f + 0.5)` (VisionReasoner).

    >>> a = Answer(box_xyxy=(0.0, 10.0, 420.0, 840.0), points_xy=((1.9, 2.0), (3.0, 4.0)))
    >>> to_image_px(a, frame=(840, 840), image_size=(420, 1680), rounding="seg_zero_round").points_xy
    ((0.0, 4.0), (2.0, 8.0))
    """
    fx, fy = image_size[0] / frame[0], image_size[1] / frame[1]

    def point(x: float, y: float) -> Point:
        return scale_coordinate(x, fx, rounding), scale_coordinate(y, fy, rounding)

    x1, y1, x2, y2 = answer.box_xyxy
    return Answer(
        box_xyxy=(*point(x1, y1), *point(x2, y2)),
        points_xy=tuple(point(*place) for place in answer.points_xy),
    )


def scale_coordinate(value: float, factor: float, rounding: Rounding) -> float:
    """One coordinate times `factor`, rounded as `to_image_px` says.

    >>> [scale_coordinate(5.0, 0.5, how) for how in ("float", "seg_zero_round", "half_up")]
    [2.5, 2.0, 3.0]
    """
    if rounding == "seg_zero_round":
        return float(round(int(value) * factor))
    return float(int(value * factor + 0.5)) if rounding == "half_up" else value * factor


def _bucket(longest: int, pad_to: int | Sequence[int] | None) -> int:
    if pad_to is None:
        return longest
    lengths = [pad_to] if isinstance(pad_to, int) else sorted(pad_to)
    fitting = next((length for length in lengths if length >= longest), None)
    if fitting is None:
        raise InputError(
            f"prompt of {longest} tokens: the limit is {lengths[-1]}; raise it or make the image smaller"
        )
    return fitting


def _stack_runs(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> tuple[UInt8[np.ndarray, "_ _ _ 3"], ...]:
    """Stacks neighbours of equal size, keeping the order."""
    runs: list[list[np.ndarray]] = []
    for image in images:
        if runs and runs[-1][0].shape == image.shape:
            runs[-1].append(image)
        else:
            runs.append([image])
    return tuple(np.stack(run) for run in runs)
