"""`pixelthink.json`: what a policy's answers mean and how its input is made.

A model folder does not say in which frame its coordinates are, how images are resized before it, or which
prompt it was trained with. A trained or exported policy carries that here; published models get it from a
table; any other folder is read as the released PixelThink policy (840x840 frame, its prompt).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.folder import read_json, write_json
from pixelthink_jax.processing.images import Filter
from pixelthink_jax.processing.prompts import (
    DEFAULT_SYSTEM_PROMPT,
    PROMPT_TEXTS,
    PromptTemplate,
    prompt_template,
)

FILE_NAME = "pixelthink.json"
FORMAT_VERSION = 1

AnswerFormat = Literal["pixelthink_json", "vision_reasoner_json", "qwen_vl_json"]
FormatName = Literal["pixelthink", "vision_reasoner", "qwen_vl"]


@dataclass(frozen=True)
class ResizePolicy:
    """What happens to an image before Qwen's own `smart_resize`.

    Attributes:
        kind: `square` squashes to `size` x `size` (Seg-Zero, PixelThink); `smart` leaves all to
            `smart_resize`.
        size: Side of the square; None for `smart`.
        filter: Filter of the square resize; `smart` uses the one of `preprocessor_config.json`.
        min_pixels: For `smart`, replaces the limit of `preprocessor_config.json`; None keeps it.
        max_pixels: Likewise.
    """

    kind: Literal["square", "smart"] = "square"
    size: int | None = 840
    filter: Filter = "bilinear"
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        """Refuses impossible combinations."""
        if self.kind == "square" and not (isinstance(self.size, int) and self.size > 0):
            raise InputError(f"resize size {self.size!r}: a square resize needs a positive side in pixels")
        for name in ("min_pixels", "max_pixels"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value > 0 and self.kind == "smart"):
                raise InputError(f"resize {name} {value!r}: expected a positive number, with kind smart only")


@dataclass(frozen=True)
class PolicyFormat:
    """How to ask a policy and how to read it.

    Attributes:
        coordinate_frame: `pixels840` (any `pixelsN`: an N x N square), `rel1000` (0 to 1000 on each axis), or
            `model_pixels` (pixels of the resized image the model sees).
        resize: What happens to the image first.
        prompt: The user's message.
        system_prompt: Text of the system message; None sends none.
        answer_format: `pixelthink_json` (one box, two points), `vision_reasoner_json` (a list of boxes and points) or
            `qwen_vl_json` (a list of boxes with labels).
    """

    coordinate_frame: str = "pixels840"
    resize: ResizePolicy = field(default_factory=ResizePolicy)
    prompt: PromptTemplate = field(default_factory=lambda: prompt_template("pixelthink"))
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT
    answer_format: AnswerFormat = "pixelthink_json"

    def __post_init__(self) -> None:
        """Refuses an unknown frame."""
        frame_size(self.coordinate_frame, model_size=(1, 1))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, name: str | None = None) -> "PolicyFormat":
        """The format of a policy folder.

        In this order: `pixelthink.json`; the table of published models, found by `name`, by the folder's own
        name, or by `_name_or_path` of `config.json`; the released PixelThink format. A base model recorded in
        `config.json` says nothing, because a policy tuned from it keeps the record; in the 840 square an
        untuned Qwen2.5-VL answers in the same pixels anyway.

        Args:
            folder: Local model folder.
            name: Hub id the folder came from, if known.

        Raises:
            InputError: `pixelthink.json` has an unknown or missing key, or a value that cannot be used.
        """
        folder = Path(folder)
        if (folder / FILE_NAME).is_file():
            return _parse(read_json(folder / FILE_NAME), folder / FILE_NAME)
        for candidate in (name, folder.resolve().name):
            found = published_format(candidate) if candidate is not None else None
            if found is not None:
                return found
        recorded = read_json(folder / "config.json", default={}).get("_name_or_path")
        found = published_format(recorded) if isinstance(recorded, str) else None
        return found if found is not None and found != _QWEN25_VL else cls()

    def save(self, folder: str | Path) -> None:
        """Writes `pixelthink.json`."""
        resize = {k: v for k, v in dataclasses.asdict(self.resize).items() if v is not None}
        if self.resize.kind == "smart":
            resize = {k: v for k, v in resize.items() if k not in ("size", "filter")}
        values = {
            "format_version": FORMAT_VERSION,
            "coordinate_frame": self.coordinate_frame,
            "resize": resize,
            "prompt_template": self.prompt.name,
            "prompt_text": self.prompt.text,
            "question_strip": self.prompt.strip,
            "system_prompt": self.system_prompt,
            "answer_format": self.answer_format,
        }
        write_json(Path(folder) / FILE_NAME, values)


def frame_size(coordinate_frame: str, *, model_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a coordinate frame.

    Args:
        coordinate_frame: As in `PolicyFormat`.
        model_size: `(width, height)` of the resized image, for `model_pixels`.

    Raises:
        InputError: The frame is unknown.

    >>> frame_size("pixels840", model_size=(112, 112)), frame_size("model_pixels", model_size=(56, 84))
    ((840, 840), (56, 84))
    """
    if coordinate_frame == "model_pixels":
        return model_size
    if coordinate_frame == "rel1000":
        return 1000, 1000
    match = re.fullmatch(r"pixels([1-9][0-9]{0,4})", coordinate_frame)
    if match is None:
        raise InputError(
            f"coordinate_frame {coordinate_frame!r}: expected pixels840 or the like, rel1000, model_pixels"
        )
    return int(match[1]), int(match[1])


_SQUARE_840 = PolicyFormat()
_VISION_REASONER = PolicyFormat(
    prompt=prompt_template("vision_reasoner"), answer_format="vision_reasoner_json"
)
# Untuned Qwen2.5-VL writes pixels of the image it sees, at its own aspect ratio.
_QWEN25_VL = PolicyFormat(coordinate_frame="model_pixels", resize=ResizePolicy(kind="smart", size=None))

FORMATS: Mapping[FormatName, PolicyFormat] = {
    "pixelthink": _SQUARE_840,
    "vision_reasoner": _VISION_REASONER,
    "qwen_vl": dataclasses.replace(
        _QWEN25_VL, prompt=prompt_template("qwen_vl"), answer_format="qwen_vl_json"
    ),
}
"""Formats that a run may ask for by name, whatever its policy's folder says."""

# Published models by the last part of their hub id, lower case.
PUBLISHED: Mapping[str, PolicyFormat] = {
    "seg-zero-7b": _SQUARE_840,
    "seg-zero-3b": _SQUARE_840,
    "pixelthink": _SQUARE_840,
    "pixelthink-3b": _SQUARE_840,
    "pixelthink-7b": _SQUARE_840,
    "visionreasoner-7b": _VISION_REASONER,
    **{f"qwen2.5-vl-{size}-instruct": _QWEN25_VL for size in ("3b", "7b", "32b", "72b")},
}


def published_format(name: str) -> PolicyFormat | None:
    """The format of a published model by hub id, folder or recorded name; None if it is not in the table.

    >>> published_format("Qwen/Qwen2.5-VL-7B-Instruct").coordinate_frame
    'model_pixels'
    """
    return PUBLISHED.get(name.rstrip("/").rsplit("/", 1)[-1].lower())


def _parse(values: Mapping[str, Any], path: Path) -> PolicyFormat:
    known = (
        "format_version",
        "coordinate_frame",
        "resize",
        "prompt_template",
        "prompt_text",
        "question_strip",
    )
    known += ("system_prompt", "answer_format")
    _check_keys(values, known, path)
    if values.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {values.get('format_version')!r}; this release reads {FORMAT_VERSION}"
        )
    for key in ("coordinate_frame", "resize", "prompt_template", "answer_format"):
        if key not in values:
            raise InputError(f"{path}: the key {key} is missing")
    kinds = {
        key: str
        for key in ("coordinate_frame", "prompt_template", "answer_format", "prompt_text", "question_strip")
    }
    for key, kind in {**kinds, "resize": dict}.items():
        if key in values and not isinstance(values[key], kind):
            raise InputError(f"{path}: {key} is {values[key]!r}; expected a {kind.__name__}")
    _check_choice("answer_format", values["answer_format"], get_args(AnswerFormat), path)
    system = values.get("system_prompt", DEFAULT_SYSTEM_PROMPT)
    if system is not None and not isinstance(system, str):
        raise InputError(f"{path}: system_prompt is {system!r}; expected a text or null")
    try:
        return PolicyFormat(
            coordinate_frame=values["coordinate_frame"],
            resize=_parse_resize(values["resize"], path),
            prompt=_parse_prompt(values, path),
            system_prompt=system,
            answer_format=values["answer_format"],
        )
    except InputError as error:
        raise error if str(error).startswith(str(path)) else InputError(f"{path}: {error}") from error


def _parse_resize(values: Mapping[str, Any], path: Path) -> ResizePolicy:
    _check_keys(values, [f.name for f in dataclasses.fields(ResizePolicy)], path)
    _check_choice("resize kind", values.get("kind"), ("square", "smart"), path)
    _check_choice("resize filter", values.get("filter", "bilinear"), get_args(Filter), path)
    for name in ("size", "min_pixels", "max_pixels"):
        if not isinstance(values.get(name), int | None):
            raise InputError(f"{path}: resize {name} is {values[name]!r}; expected a number of pixels")
    # The size of a square is never assumed where a file is given.
    return ResizePolicy(**{"size": None, **values})


def _parse_prompt(values: Mapping[str, Any], path: Path) -> PromptTemplate:
    name, text = values["prompt_template"], values.get("prompt_text")
    if text is None and name not in PROMPT_TEXTS:
        raise InputError(f"{path}: prompt_template {name!r} is not a known one, so prompt_text must be given")
    default = prompt_template(name) if name in PROMPT_TEXTS else None
    strip = values.get("question_strip", default.strip if default else ".")
    return PromptTemplate(
        name=name, text=default.text if text is None and default else str(text), strip=strip
    )


def _check_choice(name: str, value: object, choices: Sequence[str], path: Path) -> None:
    if value not in choices:
        raise InputError(f"{path}: {name} is {value!r}; expected {' or '.join(choices)}")


def _check_keys(values: Mapping[str, Any], known: Sequence[str], path: Path) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"{path}: unknown key {unknown[0]!r}; expected {', '.join(known)}")
