"""What an evaluation is made of. One YAML file, read by `config.load_config`."""

from dataclasses import dataclass, field
from typing import Literal

from pixelthink_jax.data.shapes import SPLIT_SIZES
from pixelthink_jax.errors import InputError

Style = Literal["free", "none", "short", "medium", "long"]


@dataclass(frozen=True)
class EvalDataConfig:
    """Where the questions come from.

    Attributes:
        name: `shapereason` renders them; `array_record` reads a folder made by `pixelthink prepare`; `jsonl` reads
            rows {image, query, solution} with image paths relative to the file.
        split: Split of the dataset; not read for `jsonl`.
        path: Folder or file; not read for `shapereason`.
        examples: Use only that many, from the start of the split; None uses all.
    """

    name: Literal["shapereason", "array_record", "jsonl"] = "shapereason"
    split: str = "test"
    path: str | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.name != "shapereason" and not self.path:
            raise InputError(f"data: {self.name} needs a path")
        if self.name == "shapereason" and self.split not in SPLIT_SIZES:
            raise InputError(f"data.split: got {self.split!r}, expected one of {', '.join(SPLIT_SIZES)}")
        if self.examples is not None and self.examples < 1:
            raise InputError(f"data.examples must be at least 1, got {self.examples}; null uses all")


@dataclass(frozen=True)
class Generation:
    """How the policy is asked; decoding is greedy.

    Attributes:
        max_new_tokens: Longest completion.
        batch_size: Questions decoded together.
        completion_prefix: Text every completion must begin with.
        instruction: Sentence added to every prompt; None leaves each example its own.
        max_thinking_tokens: Tokens after which a thought is closed; None sets no limit.
    """

    max_new_tokens: int = 512
    batch_size: int = 32
    completion_prefix: str = ""
    instruction: str | None = None
    max_thinking_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation: the same questions once for each chain style.

    Attributes:
        out: Folder for the rows, the summary and the table.
        policy: A policy folder, or the name of one that travels with the package.
        segmenter: A segmenter folder, or the name of one that travels with it; None scores boxes only.
        data: The questions.
        styles: `free` lets the policy think as it likes; the others force the first words of the shape world's
            chains of that style, and with them the length.
        generation: How the policy is asked; `completion_prefix` counts for `free` only.
        dtype: Dtype of the policy's parameters and computation.
        seed: Of the bootstrap.
    """

    out: str = "runs/evaluation"
    policy: str = "pixelthink-tiny"
    segmenter: str | None = "sam2-tiny-shapes"
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    styles: tuple[Style, ...] = ("free",)
    generation: Generation = field(default_factory=Generation)
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.styles or len(set(self.styles)) != len(self.styles):
            raise InputError(f"styles must name each style once and at least one, got {list(self.styles)}")
